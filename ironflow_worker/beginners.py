"""Has runs that soon sleep for a short time begin few at a time, so that each comes to its sleep at once.

A sleep counts from when it is recorded. Where a thousand runs begin together, their records wait in one queue, and what
is "five seconds behind the step before" to the code comes that much later. Those that begin one after another wait in
front of their first step instead.

It has its price: the fewer do something at the same time, the smaller are the groups in which records are stored, and
half as many begin in a second. So it is done only for functions that sleep so shortly that it matters, and for those of
which that is not known yet.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ironflow.records import OutcomeRecord, Task

MOST = 32
COUNTS_SECONDS = 0.05
"""For so long a run that has begun counts, unless its pass has ended before: a body that takes its time records nothing
meanwhile, and keeps nobody from anything."""
SHORT_SLEEP_MS = 60_000
"""Of a longer sleep nobody minds a tenth of a second."""


class Beginners:
    """The runs that have begun a moment ago, and those that are about to.

    Args:
        seconds: tells how time goes by.
        most: how many begin at a time.

    """

    def __init__(self, seconds: Callable[[], float], most: int = MOST) -> None:
        self._seconds = seconds
        self._most = most
        self._unlimited: set[str] = set()
        """The functions of which the run that was seen last does not begin with a short sleep."""
        self._begun: dict[str, float] = {}
        """When each run has begun that still counts, the oldest first."""
        self._in_line: deque[tuple[Task, asyncio.Future[None]]] = deque()
        self._next_look: asyncio.TimerHandle | None = None

    async def turn(self, task: Task) -> None:
        """Wait until a pass may begin, which most may at once."""
        if task.number or task.function in self._unlimited:
            return
        if not self._in_line and self._has_room():
            self._begun[task.run] = self._seconds()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._in_line.append((task, turn))
        self._look_later()
        await turn

    def ended(self, task: Task, outcome: OutcomeRecord, now_ms: int) -> None:
        """Note how a pass has ended; after that of a run that counted, another one may begin."""
        if task.number:
            return
        if outcome.status == "suspended" and outcome.only_sleeps and outcome.due_ms - now_ms <= SHORT_SLEEP_MS:
            self._unlimited.discard(task.function)
        elif task.function not in self._unlimited:
            self._unlimited.add(task.function)
            self._let_begin_all(task.function)
        if self._begun.pop(task.run, None) is not None:
            self._let_begin()

    def _has_room(self) -> bool:
        if len(self._begun) < self._most:
            return True
        oldest = next(iter(self._begun))
        if self._seconds() - self._begun[oldest] < COUNTS_SECONDS:
            return False
        del self._begun[oldest]
        return True

    def _let_begin(self) -> None:
        while self._in_line and self._has_room():
            task, turn = self._in_line.popleft()
            if not turn.done():
                self._begun[task.run] = self._seconds()
                turn.set_result(None)

    def _let_begin_all(self, function: str) -> None:
        in_line, self._in_line = self._in_line, deque()
        for task, turn in in_line:
            if task.function != function:
                self._in_line.append((task, turn))
            elif not turn.done():
                turn.set_result(None)

    def _look_later(self) -> None:
        """Look again when one does not count any more whose end nobody has noted."""
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(COUNTS_SECONDS, self._look)

    def _look(self) -> None:
        self._next_look = None
        self._let_begin()
        if self._in_line:
            self._look_later()
