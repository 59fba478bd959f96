"""The calls of steps that a handler has made: one that is never awaited does nothing, and nobody would notice."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import msgspec

from ironflow_worker.arguments import wrong_call

M = TypeVar("M", bound=Callable[..., Coroutine[Any, Any, Any]])

_FEWEST_KEPT = 64
"""So many are kept before it is looked at which of them have begun; handlers with fewer steps never pay for that."""


class _Call(msgspec.Struct, frozen=True):
    coroutine: Coroutine[Any, Any, Any]
    method: str
    first: object

    def __str__(self) -> str:
        """Return the call the way it stands in the code."""
        return f"step.{self.method}({self.first!r}, …)" if self.first is not None else f"step.{self.method}(…)"


class Unawaited(msgspec.Struct, frozen=True):
    """The first of the calls that nobody has awaited, of two kinds, the way they stand in the code.

    Attributes:
        forgotten: nobody could have awaited it: it was in nobody's hands as soon as it was made.
        let_go: it was in somebody's hands, of a task that was cancelled say, who has let it go.

    """

    forgotten: str | None = None
    let_go: str | None = None


class Calls:
    """The calls of one pass that may not have begun yet."""

    __slots__ = ("_forgotten", "_kept", "_looks_soon", "_most", "_new")

    def __init__(self) -> None:
        self._new: list[_Call] = []
        self._kept: list[_Call] = []
        self._most = _FEWEST_KEPT
        self._looks_soon = False
        self._forgotten: _Call | None = None

    def add(self, coroutine: Coroutine[Any, Any, Any], method: str, first: object) -> None:
        """Take up a call.

        Args:
            coroutine: does it, once it is awaited.
            method: the method that was called.
            first: its first argument, which says which step it is.

        """
        self._new.append(_Call(coroutine, method, first))
        if not self._looks_soon:
            self._looks_soon = _looks.add(self)

    def look(self) -> None:
        """Look at what has become of the new calls: what is neither begun nor in anybody's hands was forgotten.

        Later on that says nothing any more. What a task holds that waits for its turn is let go with the task, when
        another one has failed, and by a handler that is quite right.
        """
        new, self._new = self._new, []
        for call in new:
            if not _is_waiting(call):
                continue
            if _is_held(call):
                self._kept.append(call)
            else:
                call.coroutine.close()
                self._forgotten = self._forgotten or call
        if len(self._kept) > self._most:
            self._kept = [each for each in self._kept if _is_waiting(each)]
            self._most = max(_FEWEST_KEPT, 2 * len(self._kept))

    def look_now(self) -> None:
        """Look: whoever has made a call has come to an await, and has put it into some hands by now, or never will."""
        self._looks_soon = False
        if self._new:
            self.look()

    def end(self) -> Unawaited:
        """Return which calls nobody has awaited.

        Asked for once, at the end: Python does not complain of them any more after that.
        """
        self.look()
        waiting = [each for each in self._kept if _is_waiting(each)]
        let_go = next((each for each in waiting if not _is_held(each)), None)
        for each in waiting:
            each.coroutine.close()
        return Unawaited(
            forgotten=None if self._forgotten is None else str(self._forgotten),
            let_go=None if let_go is None else str(let_go),
        )


def noted(method: M) -> M:
    """Have a step's call be taken up before it begins, in the :class:`Calls` that its client has.

    Raises:
        DefinitionError: by what is returned: its arguments do not fit the method. They will not the next time, either.

    """
    name = method.__name__

    @functools.wraps(method)
    def call(client: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        try:
            coroutine = method(client, *args, **kwargs)
        except TypeError:  # of the call: nothing of the method has run yet
            error = wrong_call(method, (client, *args), kwargs)
            if error is None:
                raise
            raise error from None
        client.calls.add(coroutine, name, args[0] if args else kwargs.get("name"))
        return coroutine

    return cast("M", call)


class _Looks(threading.local):
    """The passes whose calls are looked at in the next round of this thread's event loop, together: each step asks."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due: list[Calls] = []

    def add(self, calls: Calls) -> bool:
        """Have calls be looked at; return whether they will be."""
        if not self._due or self._loop is None or self._loop.is_closed():
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:  # a body in a thread, which will learn that it may call no step
                return False
            self._due = []
            self._loop.call_soon(self._look, self._due)
        self._due.append(calls)
        return True

    def _look(self, due: list[Calls]) -> None:
        if due is self._due:
            self._due = []
        for calls in due:
            calls.look_now()


_looks = _Looks()


def _is_waiting(call: _Call) -> bool:
    return inspect.getcoroutinestate(call.coroutine) == inspect.CORO_CREATED


def _is_held(call: _Call) -> bool:
    """Tell whether anybody but us has a call in hand."""
    return sys.getrefcount(call.coroutine) > _OURS


async def _nothing() -> None:
    """Do nothing."""


def _references_to_ours() -> int:
    call = _Call(_nothing(), "", None)
    try:
        return sys.getrefcount(call.coroutine)
    finally:
        call.coroutine.close()


_OURS = _references_to_ours()
"""How many references Python counts to what only we hold: ours, and as many as it makes to count."""
