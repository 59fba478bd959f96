"""A pass that waits for an event and for nothing else stays for a moment, instead of ending and being done again.

The engine tells it when the event has come, by a hint; its state is decided by then. A pass that hears nothing ends as
every other does, and what it was not told is for the next one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from ironflow.records import StepRecord, WaitEnd
from ironflow_worker.slots import Slot

LONGEST_SECONDS = 3.0
"""The lease of a task need not be renewed in that time, and hardly anybody who stops a worker waits for it."""
MOST_EVENTS = 100
"""One pass goes on behind so many; then another begins, since what a pass has heard is noted until it ends."""


class Lingerers:
    """The passes of one worker that linger.

    Args:
        seconds: for how long, at the most; with 0 none does.
        most: how many at a time, of which the one that began first has to go: each holds its handler, and a place among
            the tasks that a queue may have under way. Default 1.

    """

    def __init__(self, seconds: float, most: int = 1) -> None:
        self._seconds = seconds
        self._most = most
        self._closed = False
        self._leave: OrderedDict[Lingering, Callable[[], object]] = OrderedDict()
        self._timers: dict[Lingering, asyncio.TimerHandle] = {}

    def is_worthwhile(self, timeout_ms: int) -> bool:
        """Tell whether a pass may linger for an event that it waits for so long: its time must not end meanwhile."""
        return self._seconds > 0 and not self._closed and timeout_ms > 2_000 * self._seconds

    def begin(self, lingering: Lingering, leave: Callable[[], object]) -> bool:
        """Let a pass linger until :meth:`end`; *leave* is called where it has to go. Return whether it may."""
        if self._closed or not self._seconds:
            return False
        if lingering not in self._leave:
            if len(self._leave) >= self._most:
                self.expel(next(iter(self._leave)))
            self._timers[lingering] = asyncio.get_running_loop().call_later(
                self._seconds, partial(self.expel, lingering)
            )
        self._leave[lingering] = leave
        return True

    def end(self, lingering: Lingering) -> None:
        """Note that a pass goes on, or has ended."""
        self._leave.pop(lingering, None)
        timer = self._timers.pop(lingering, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Let no pass linger any more; those that do have to go."""
        self._closed = True
        for lingering in tuple(self._leave):
            self.expel(lingering)

    def expel(self, lingering: Lingering) -> None:
        """Have a pass go, if it lingers."""
        leave = self._leave.get(lingering)
        self.end(lingering)
        if leave is not None:
            leave()


class Lingering:
    """What one pass may linger for.

    Args:
        lingerers: those of its worker.
        slot: the pass's own, which others may have meanwhile.

    Attributes:
        slot: as above.

    """

    def __init__(self, lingerers: Lingerers, slot: Slot) -> None:
        self._lingerers = lingerers
        self.slot = slot
        self._ends: dict[str, asyncio.Future[StepRecord]] = {}
        self._left = MOST_EVENTS

    def is_worthwhile(self, timeout_ms: int) -> bool:
        """Tell whether the pass may linger for an event that it waits for so long."""
        return self._left > 0 and self._lingerers.is_worthwhile(timeout_ms)

    def add(self, step: str) -> None:
        """Take in a step that waits."""
        self._ends[step] = asyncio.get_running_loop().create_future()

    def end_of(self, step: str) -> asyncio.Future[StepRecord]:
        """Return what is resolved with the end of a step's wait, once the pass is told of it."""
        return self._ends[step]

    def discard(self, step: str) -> None:
        """Leave a step to itself."""
        del self._ends[step]
        self._lingerers.end(self)

    def begin(self, waiting: int, leave: Callable[[], object]) -> bool:
        """Linger, where that is for all steps of the pass that wait; return whether the pass does.

        Args:
            waiting: how many steps wait.
            leave: called when the pass has to end after all.

        """
        lingers = self._left > 0 and 0 < len(self._ends) == waiting and self._lingerers.begin(self, leave)
        if not lingers:
            return False
        self.slot.lend()
        return True

    def tell(self, told: WaitEnd) -> bool:
        """Let a step go on whose wait has ended; return whether it waits."""
        end = self._ends.get(told.step)
        if end is None or end.done():
            return False
        self._left -= 1
        end.set_result(told.record)
        return True

    def leave(self) -> None:
        """Linger no more, also where the pass has yet to begin with it."""
        self._left = 0
        self._lingerers.expel(self)

    async def awake(self) -> None:
        """Wait until the pass may go on."""
        await self.slot.take_back()
