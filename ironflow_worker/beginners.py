"""Has runs that soon sleep for a short time begin few at a time, so that each comes to its sleep at once.

A sleep counts from when it is recorded. Where a thousand runs begin together, their records wait in one queue, and what
is "five seconds behind the step before" to the code comes that much later. Those that begin one after another wait in
front of their first step instead.

It has its price: the fewer do something at the same time, the smaller are the groups in which records are stored. One
at a time, half as many begin in a second, and each costs twice as much CPU. So how many begin at a time goes by how
shortly the function sleeps, as was seen last; and functions that do not are held up only until that is known.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ironflow.records import OutcomeRecord, Task

LIMITS = ((10_000, 1), (60_000, 32))
"""Of functions whose runs begin with a sleep of so many milliseconds at the most, so many runs begin at a time: few
enough that a sleep is about a thousandth longer than it should be. Of a longer one nobody minds a tenth of a second."""
COUNTS_SECONDS = 0.005
"""For so long a run that has begun counts, unless it sleeps before: a body that takes its time records nothing
meanwhile, and keeps nobody from anything."""

_Waiting = tuple[Task, "asyncio.Future[None]"]


class Beginners:
    """The runs that have begun a moment ago, and those that are about to.

    Args:
        seconds: tells how time goes by.
        limits: up to how long a sleep is short, and how many that begin with one do so at a time; the shortest first.

    """

    def __init__(self, seconds: Callable[[], float], limits: Sequence[tuple[int, int]] = LIMITS) -> None:
        self._lines = tuple((sleep_ms, _Line(seconds, most)) for sleep_ms, most in limits)
        self._line_of: dict[str, _Line | None] = {}
        """Where the runs of a function stand in line, by the one that was seen last; None where they do not."""

    async def turn(self, task: Task) -> None:
        """Wait until a pass may begin."""
        line = None if task.number else self._line(task.function)
        if line is not None:
            await line.turn(task)

    def ended(self, task: Task, outcome: OutcomeRecord, now_ms: int) -> None:
        """Note how a pass has ended, whether that is recorded yet or not; another run may begin then."""
        if task.number:
            return
        before, line = self._line(task.function), self._line_behind(outcome, now_ms)
        self._line_of[task.function] = line
        if before is not None:
            if before is not line:
                moved = before.leave(task.function)
                _admit(moved) if line is None else line.join(moved)
            before.done(task)

    def _line(self, function: str) -> _Line | None:
        """Return where a function's runs stand in line: with the shortest sleeps, where nothing is known of it."""
        return self._line_of.get(function, self._lines[0][1])

    def _line_behind(self, outcome: OutcomeRecord, now_ms: int) -> _Line | None:
        """Return where runs belong that begin like the one which has ended its first pass like that."""
        if outcome.status != "suspended" or not outcome.only_sleeps:
            return None
        return next((line for sleep_ms, line in self._lines if outcome.due_ms - now_ms <= sleep_ms), None)


class _Line:
    """Runs that begin in turn.

    Args:
        seconds: tells how time goes by.
        most: how many do at a time.

    """

    def __init__(self, seconds: Callable[[], float], most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._begun: dict[str, float] = {}
        """When each run has begun that still counts, the oldest first."""
        self._waiting: deque[_Waiting] = deque()
        self._next_look: asyncio.TimerHandle | None = None

    async def turn(self, task: Task) -> None:
        """Wait until a run may begin."""
        if not self._waiting and self._has_room():
            self._begun[task.run] = self._seconds()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.join([(task, turn)])
        await turn

    def join(self, others: Iterable[_Waiting]) -> None:
        """Have others wait behind those who do."""
        self._waiting.extend(others)
        self._let_begin()
        if self._waiting:
            self._look_later()

    def leave(self, function: str) -> Sequence[_Waiting]:
        """Have those of a function wait here no more, and return them."""
        left = [each for each in self._waiting if each[0].function == function]
        self._waiting = deque(each for each in self._waiting if each[0].function != function)
        return left

    def done(self, task: Task) -> None:
        """Have a run that has begun make room."""
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
        while self._waiting and self._has_room():
            task, turn = self._waiting.popleft()
            if not turn.done():
                self._begun[task.run] = self._seconds()
                turn.set_result(None)

    def _look_later(self) -> None:
        """Look again when one does not count any more whose end nobody has noted."""
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(COUNTS_SECONDS, self._look)

    def _look(self) -> None:
        self._next_look = None
        self._let_begin()
        if self._waiting:
            self._look_later()


def _admit(waiting: Iterable[_Waiting]) -> None:
    for _, turn in waiting:
        if not turn.done():
            turn.set_result(None)
