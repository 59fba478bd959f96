"""The server's time, which is the running loop's: on a virtual-time loop all of it is virtual.

Inside the server a time is a whole number of microseconds since 1970. What is shown to clients is rounded down
to milliseconds, so that what they take for past is past.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

EPOCH_MS = 1_767_225_600_000
"""2026-01-01 UTC, where the server's time starts when the loop's is zero."""

US_PER_MS = 1_000
US_PER_SECOND = 1_000_000


class Clock:
    """Tells the time and calls back when it has come. It belongs to the first loop that asks.

    Args:
        epoch_ms: the milliseconds since 1970 at which the loop's time is zero.

    """

    def __init__(self, epoch_ms: int = EPOCH_MS) -> None:
        self._epoch_us = epoch_ms * US_PER_MS
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop whose time this is."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def now_us(self) -> int:
        """Return the time in microseconds since 1970."""
        # Rounded to the nearest: the loop's floats are off by far less than a microsecond, to either side.
        return self._epoch_us + round(self.loop.time() * US_PER_SECOND)

    def now_ms(self) -> int:
        """Return the time in milliseconds since 1970, rounded down."""
        return self.now_us() // US_PER_MS

    def call_at(self, at_us: int, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back at a time of this clock, in microseconds; a loop may do it a hair's breadth early."""
        return self.loop.call_at((at_us - self._epoch_us) / US_PER_SECOND, callback)


class Alarm:
    """One timer that is set to the earliest of many times.

    Args:
        clock: whose time it is set to.
        ring: called when the time has come, never before it.

    """

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._at_us = 0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at_us: int) -> None:
        """Ring at *at_us*, unless an earlier ring is set: whoever hears that one sets the rest."""
        if self._timer is not None:
            if self._at_us <= at_us:
                return
            self._timer.cancel()
        self._at_us = at_us
        self._timer = self._clock.call_at(at_us, self._due)

    def clear(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        if self._clock.now_us() < self._at_us:
            self.set(self._at_us)
        else:
            self._ring()


def seconds_to_us(seconds: float) -> int:
    """Return seconds as whole microseconds, rounded up, though not for a float's noise: 0.1 s is 100,000."""
    return math.ceil(round(seconds * US_PER_SECOND, 3))
