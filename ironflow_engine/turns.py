"""Has each of many runs looked at in turn, some at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ironflow.records import RunState
from ironflow_engine.read_model import Moment

_Select: TypeAlias = Callable[[int, Moment, int], list[tuple[int, RunState]]]

_BEGIN: Moment = (0, "")


class Turns:
    """Goes round runs in the order of their times: each time on from where it was, and at the end from the begin.

    What comes to stand behind the last one during a round waits for the next. Otherwise, where more comes than is
    looked at, a round would never be over, and nobody would come back to those whose turn came too early.

    Args:
        select: returns runs of before a time and behind a place, in order, with their own times.

    """

    def __init__(self, select: _Select) -> None:
        self._select = select
        self._after = _BEGIN
        self._before_ms = 0

    def take(self, before_ms: int, most: int) -> list[RunState]:
        """Return those whose turn it is: all of them, where they are not too many.

        Args:
            before_ms: only those of before that time.
            most: how many at the most.

        """
        found = self._select(self._before_ms, self._after, most)
        if len(found) < most:
            taken = {state.id for _, state in found}
            self._before_ms = before_ms
            anew = [each for each in self._select(before_ms, _BEGIN, most) if each[1].id not in taken]
            found += anew[: most - len(found)]
        if len(found) < most:
            self._after, self._before_ms = _BEGIN, 0
        else:
            self._after = found[-1][0], found[-1][1].id
        return [state for _, state in found]
