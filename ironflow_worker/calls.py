"""The calls of steps that a handler has made: one that is never awaited does nothing, and nobody would notice."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import msgspec

M = TypeVar("M", bound=Callable[..., Coroutine[Any, Any, Any]])

_FEWEST_KEPT = 64
"""So many are kept before it is looked at which of them have begun; handlers with fewer steps never pay for that."""


class _Call(msgspec.Struct, frozen=True):
    coroutine: Coroutine[Any, Any, Any]
    method: str
    first: object


class Calls:
    """The calls of one pass that may not have begun yet."""

    __slots__ = ("_made", "_most")

    def __init__(self) -> None:
        self._made: list[_Call] = []
        self._most = _FEWEST_KEPT

    def add(self, coroutine: Coroutine[Any, Any, Any], method: str, first: object) -> None:
        """Take up a call.

        Args:
            coroutine: does it, once it is awaited.
            method: the method that was called.
            first: its first argument, which says which step it is.

        """
        self._made.append(_Call(coroutine, method, first))
        if len(self._made) > self._most:
            self._made = [each for each in self._made if _is_waiting(each)]
            self._most = max(_FEWEST_KEPT, 2 * len(self._made))

    def never_awaited(self) -> str | None:
        """Return the first of the calls that nobody has awaited, the way it stands in the code; None where all were.

        Asked for once, at the end: Python does not complain of them any more after that.
        """
        forgotten = [each for each in self._made if _is_waiting(each)]
        for each in forgotten:
            each.coroutine.close()
        if not forgotten:
            return None
        first = forgotten[0]
        return f"step.{first.method}({first.first!r}, …)" if first.first is not None else f"step.{first.method}(…)"


def noted(method: M) -> M:
    """Have a step's call be taken up before it begins, in the :class:`Calls` that its client has."""
    name = method.__name__

    @functools.wraps(method)
    def call(client: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        coroutine = method(client, *args, **kwargs)
        client.calls.add(coroutine, name, args[0] if args else kwargs.get("name"))
        return coroutine

    return cast("M", call)


def _is_waiting(call: _Call) -> bool:
    return inspect.getcoroutinestate(call.coroutine) == inspect.CORO_CREATED
