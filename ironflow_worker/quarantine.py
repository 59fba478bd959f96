"""Has passes that may cost this worker its life run by themselves, so that no neighbour is lost with them.

Who has died beside such a pass looks as if it had done it: what is lost with it waits as it does, and a run that
meets one often enough would be given up as harmful itself. So the suspect waits until the passes that are at work
have ended, and the others until it has. Neither waits for long: a pass may rightly take hours.
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
            while not self._open.is_set():
                await self._open.wait()
            return Place(self, None)
        turn = await self._turn()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_SECONDS):
                    while self._inside:
                        self._empty.clear()
                        await self._empty.wait()
        except BaseException:
            turn.end()
            raise
        turn.end_after(ALONE_SECONDS)
        return Place(self, turn)

    async def _turn(self) -> _Turn:
        """Wait for the suspects before, and keep others out."""
        await self._suspects.acquire()
        self._open.clear()
        return _Turn(self)

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
