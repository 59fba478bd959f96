"""Tells whether the event loop turns, and how late it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

BEAT_SECONDS = 0.5


class Heartbeat:
    """A task that notes when it was last run. Other threads may ask.

    Args:
        observe: gets how late each beat came, in seconds.
        monotonic: returns seconds that never jump.

    """

    def __init__(self, observe: Callable[[float], object], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._observe = observe
        self._monotonic = monotonic
        self._last = monotonic()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            due = self._monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self._last = self._monotonic()
            self._observe(max(0.0, self._last - due))

    def stopped_for(self) -> float:
        """Return how long ago the loop turned for sure, in seconds."""
        return self._monotonic() - self._last
