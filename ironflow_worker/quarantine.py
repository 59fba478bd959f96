"""Has passes that may cost this worker its life run by themselves, so that no neighbour is lost with them.

Who has died beside such a pass looks as if it had done it: what is lost with it waits as it does, and a run that
meets one often enough would be given up as harmful itself. So the suspect waits until the passes that are at work
have ended, and the others until it has. Neither waits for long: a pass may rightly take hours, and whoever waits has
a slot that others could use.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

WAIT_SECONDS = 1.0
"""For so long a suspect waits for others to end; those that take longer are at risk."""
ALONE_SECONDS = 1.0
"""For so long others wait for it to end. What ends its process mostly does so soon."""
LONGEST_WAIT_SECONDS = 5.0
"""For so long a suspect waits in all, for the suspects before it too. Then it begins beside whoever is there."""


class Quarantine:
    """The passes that one worker executes."""

    def __init__(self) -> None:
        self._inside = 0
        self._empty = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._suspects = asyncio.Lock()

    async def enter(self, *, alone: bool) -> Place:
        """Wait until a pass may begin, and have it count until the place is left."""
        if not alone:
            if not self._open.is_set():
                await self.opened()
            return Place(self, None)
        now = asyncio.get_running_loop().time
        latest = now() + LONGEST_WAIT_SECONDS
        turn = await self._turn(latest)
        if turn is None:
            return Place(self, None)
        try:
            await self._emptied(min(now() + WAIT_SECONDS, latest))
        except BaseException:
            turn.end()
            raise
        turn.end_after(ALONE_SECONDS)
        return Place(self, turn)

    async def opened(self) -> bool:
        """Wait until passes that nothing is known of may begin, as they may until something else is awaited.

        Returns:
            Whether that took any time.

        """
        waits = not self._open.is_set()
        while not self._open.is_set():
            await self._open.wait()
        return waits

    async def _turn(self, latest: float) -> _Turn | None:
        """Wait for the suspects before, and keep others out; return None where that would take too long."""
        try:
            async with asyncio.timeout_at(latest):
                await self._suspects.acquire()
        except TimeoutError:
            return None
        self._open.clear()
        return _Turn(self)

    async def _emptied(self, latest: float) -> None:
        """Wait until no pass is at work, or no longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(latest):
                while self._inside:
                    self._empty.clear()
                    await self._empty.wait()

    def count(self, passes: int) -> None:
        """Count passes that have begun, or, negative, that have ended."""
        self._inside += passes
        if not self._inside:
            self._empty.set()

    def reopen(self) -> None:
        """Let others in again, and then have the next suspect wait for these."""
        self._open.set()
        self._suspects.release()


class _Turn:
    """The time for which a suspect keeps others out; it ends once."""

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine: Quarantine | None = quarantine
        self._timer: asyncio.TimerHandle | None = None

    def end_after(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self.end)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._quarantine is not None:
            self._quarantine.reopen()
            self._quarantine = None


class Place:
    """A pass's place among those at work; a context manager that leaves it."""

    def __init__(self, quarantine: Quarantine, turn: _Turn | None) -> None:
        self._quarantine = quarantine
        self._turn = turn
        quarantine.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quarantine.count(-1)
        if self._turn is not None:
            self._turn.end()
