"""The undos that a pass has registered: pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ironflow.names import Scope


class Undo(msgspec.Struct, frozen=True, kw_only=True):
    """What undoes a step.

    Attributes:
        name: its own name, as a step.
        key: under which its own result stands.
        scope: the parallels around it, and around what it undoes.
        undone: the name of the step that it undoes.
        after: where that step's result stands in the journal.
        body: undoes it; takes no arguments any more.
        is_async: whether that is a coroutine function.

    """

    name: str
    key: str
    scope: Scope
    undone: str
    after: int
    body: Callable[[], Any]
    is_async: bool


class Undos:
    """The undos of one pass."""

    def __init__(self) -> None:
        self._results: dict[str, int] = {}
        self._registered: dict[str, Undo] = {}

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._registered)

    def has_result(self, token: str, sequence: int) -> None:
        """Note that the handler comes to know a step's result, so that the step can be given an undo.

        Args:
            token: the step's.
            sequence: where its result stands in the journal.

        """
        self._results[token] = sequence

    def place_of(self, token: str) -> int | None:
        """Return where the result of a step stands in the journal; None where the handler does not know of one."""
        return self._results.get(token)

    def register(self, token: str, undo: Undo) -> None:
        """Take up the undo of a step."""
        self._registered[token] = undo

    def undoes(self, token: str) -> bool:
        """Tell whether a step has an undo."""
        return token in self._registered

    def newest_first(self) -> list[Undo]:
        """Return all, in the reverse of the order in which the results of their steps were recorded.

        It is the same in every pass, however branches overlap.
        """
        return sorted(self._registered.values(), key=lambda undo: undo.after, reverse=True)
