"""How many passes of a queue go on at a time, and how many more tasks may come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

MOST_LENT = 1_000
"""A pass that sleeps holds some kilobytes, and its task's lease is kept. Beyond so many, one keeps its slot as well."""


class Slots:
    """The slots of one queue.

    As many passes go on as there are slots, and no more tasks are asked for than may begin. A pass that sleeps for a
    moment can lend its slot meanwhile; behind the sleep it waits until one is free, in turn with those that begin.

    Args:
        count: how many there are.
        ask: has so many more tasks delivered.
        count_running: gets how many passes more go on, or with a minus how many fewer.
        most_lent: how many may be lent at a time.

    """

    def __init__(
        self,
        count: int,
        ask: Callable[[int], object],
        count_running: Callable[[int], object] = bool,
        most_lent: int = MOST_LENT,
    ) -> None:
        self._count = count
        self._ask = ask
        self._count_running = count_running
        self._most_lent = most_lent
        self._asked = 0
        """Tasks that were asked for and have not come."""
        self._come = 0
        """Tasks that have come and not left, but for those whose slots are lent."""
        self._taken = 0
        self._lent = 0
        self._in_line: deque[asyncio.Future[None]] = deque()

    def fill(self) -> None:
        """Ask for as many tasks as may begin."""
        missing = self._count - self._asked - self._come
        if missing > 0:
            self._asked += missing
            self._ask(missing)

    def come(self) -> Slot:
        """Return what a task that has come takes its slot by."""
        self._asked -= 1
        self._come += 1
        return Slot(self)

    async def take(self) -> None:
        """Take a slot, in turn."""
        if self._taken < self._count:
            self._taken += 1
            self._count_running(+1)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._in_line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Let the next one in line have a slot."""
        while self._in_line:
            turn = self._in_line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1
        self._count_running(-1)

    def lend(self) -> bool:
        """Release a slot whose pass stays; return whether it may."""
        if self._lent >= self._most_lent:
            return False
        self._lent += 1
        self._leave()
        return True

    async def take_back(self) -> None:
        """Take a slot for a pass that has lent its own."""
        self._come += 1
        try:
            await self.take()
        except asyncio.CancelledError:
            self._come -= 1
            self.fill()
            raise
        self._lent -= 1

    def leave(self, *, taken: bool, lent: bool) -> None:
        """Note that a task has left."""
        if lent:
            self._lent -= 1
        elif taken:
            self._leave()
        else:
            self._come -= 1
            self.fill()

    def _leave(self) -> None:
        self._come -= 1
        self.release()
        self.fill()


class Slot:
    """What one task has of the slots of its queue.

    Attributes:
        lent: whether another pass may have it.

    """

    __slots__ = ("_awakes", "_slots", "_taken", "lent")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._taken = False
        self.lent = False
        self._awakes: asyncio.Lock | None = None

    async def take(self) -> None:
        """Wait for a slot, which is nearly always free."""
        await self._slots.take()
        self._taken = True

    def lend(self) -> None:
        """Let another pass begin in place of this one, which sleeps."""
        if self._taken and not self.lent:
            self.lent = self._slots.lend()

    async def take_back(self) -> None:
        """Wait for a slot again, where it was lent."""
        # Several things in a pass may wait for it: two sleeps that end together, or an event and a body.
        if self._awakes is None:
            self._awakes = asyncio.Lock()
        async with self._awakes:
            if self.lent:
                await self._slots.take_back()
                self.lent = False

    def leave(self) -> None:
        """Give back whatever it has."""
        self._slots.leave(taken=self._taken, lent=self.lent)
