"""Sleeps that end in a moment: the pass waits for that itself, instead of ending and being done again."""

from __future__ import annotations

import asyncio
import math

from ironflow.server_clock import ServerClock
from ironflow_worker.slots import Slot

LONGEST_SECONDS = 3.0
"""Longer than an engine begins a pass ahead of a sleep's end."""


class Naps:
    """The sleeps of one pass that may end within it.

    Args:
        clock: says what the server's clock has surely reached, so that no sleep ends early by it.
        slot: the pass's own, which others may have meanwhile.

    """

    def __init__(self, clock: ServerClock, slot: Slot) -> None:
        self._clock = clock
        self._slot = slot
        self._due_ms: dict[asyncio.Future[None], int] = {}
        self._timers: dict[asyncio.Future[None], asyncio.TimerHandle] = {}

    def add(self, end: asyncio.Future[None], due_ms: int) -> None:
        """Take in a step that sleeps; *end* is resolved when that is over."""
        self._due_ms[end] = due_ms

    def discard(self, end: asyncio.Future[None]) -> None:
        """Leave a step to itself."""
        self._due_ms.pop(end, None)
        timer = self._timers.pop(end, None)
        if timer is not None:
            timer.cancel()

    def begin(self, before_ms: float = math.inf) -> bool:
        """Wait for the sleeps that end in a moment; return whether there are any.

        Args:
            before_ms: when something is over that the pass cannot wait for, in server time; only what ends sooner is
                worth a wait.

        """
        soon = [end for end, due_ms in self._due_ms.items() if self._seconds_until(due_ms) <= LONGEST_SECONDS]
        if not soon or min(map(self._due_ms.__getitem__, soon)) > before_ms:
            return False
        for end in soon:
            if end not in self._timers:
                self._look(end)
        self._slot.lend()
        return True

    async def awake(self) -> None:
        """Wait until the pass may go on."""
        await self._slot.take_back()

    def _look(self, end: asyncio.Future[None]) -> None:
        left = self._seconds_until(self._due_ms[end])
        if left > 0:
            # A loop that knows whole milliseconds only would round what is less to nothing.
            pause = math.ceil(left * 1000) / 1000
            self._timers[end] = asyncio.get_running_loop().call_later(pause, self._look, end)
        elif not end.done():
            end.set_result(None)

    def _seconds_until(self, time_ms: int) -> float:
        return (time_ms - self._clock.at_least_ms()) / 1000
