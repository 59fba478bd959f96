"""What the engine says unasked about how a run has ended. It can be lost, so whoever waits asks too, if seldom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from ironflow.broker.protocol import Request
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.messages import RunView
from ironflow.records import TERMINAL

_AT_ONCE_SECONDS = 0.001
"""Within this time of its start no run ends: its event, its state, its task and its outcome are stored in turn."""
_SHORTEST_QUIET_SECONDS = 0.05
_LONGEST_QUIET_SECONDS = 1.0
_STARTS_OF_QUIET = 30
"""Behind its event a run stores three more messages at the least, and in a burst each waits its turn. With ten, every
fourth run of a burst was asked about in vain, and each question is two for the server."""


class Start(msgspec.Struct, frozen=True):
    """When a run was started, by the event loop's clock in seconds.

    Attributes:
        began_at: when its event was published.
        stored_at: when that was acknowledged.
        is_new: whether the event was not stored already.

    """

    began_at: float
    stored_at: float
    is_new: bool

    def quiet_seconds(self, now: float) -> float:
        """Return for how long whoever begins to listen *now* need not ask how the run stands.

        Where this process or the server is slow, the run may have ended before we listened; so the time is a
        multiple of what the start has taken.
        """
        if not self.is_new or now - self.stored_at > _AT_ONCE_SECONDS:
            return 0.0
        quiet = _STARTS_OF_QUIET * (self.stored_at - self.began_at)
        return min(max(quiet, _SHORTEST_QUIET_SECONDS), _LONGEST_QUIET_SECONDS)


class EndHint:
    """The hint for one who waits.

    Args:
        run: the run's id.
        attempt: a hint of an earlier attempt was overtaken by a retry, and says nothing about how the run ends now.

    """

    def __init__(self, run: str, attempt: int) -> None:
        self._run = run
        self._attempt = attempt
        self._came = False
        self._rest: asyncio.Future[None] | None = None
        self._view: asyncio.Future[RunView] = asyncio.get_running_loop().create_future()

    def take(self, request: Request) -> None:
        """Take a hint. One that does not say how the run has ended is a reason to ask."""
        with contextlib.suppress(SerializationError):
            view = decode_record(RunView, request.payload)
            says_how = view.id == self._run and view.status in TERMINAL and view.attempt >= self._attempt
            if says_how and not self._view.done():
                self._view.set_result(view)
        self._came = True
        self._wake()

    async def rest(self, seconds: float) -> None:
        """Wait for a hint that has not been waited for, for so long at the most."""
        if not self._came:
            loop = asyncio.get_running_loop()
            self._rest = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._rest
            finally:
                timer.cancel()
        self._came = False

    def _wake(self) -> None:
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)

    async def unless_told(self, look: Callable[[], Coroutine[Any, Any, RunView | None]]) -> RunView | None:
        """Return how the run has ended, where a hint says so before a look at the run shows anything."""
        if self._view.done():
            return self._view.result()
        looking = asyncio.ensure_future(look())
        try:
            await asyncio.wait((looking, self._view), return_when=asyncio.FIRST_COMPLETED)
            return looking.result() if looking.done() else self._view.result()
        finally:
            looking.cancel()
