"""Has ready what is needed to handle an event by the time that it is stored.

Which functions an event starts is asked of the server, so that one that was registered just before misses nothing. For
that it is enough to ask once the event is on its way; and while it is being stored, all who listen to its subject have
it already. So an engine with little to do listens, asks meanwhile, and has the answer when the event is handed to it.

An event that starts nothing, as far as is known, is most likely one that runs wait for. These are not to wait for an
answer as well: it is asked for later, and where waits for the event would be is worked out meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from ironflow.broker.protocol import Broker, BrokerError, Delivery, Request, Subscription
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.logs import get_logger
from ironflow.names import Names
from ironflow.records import EventRecord
from ironflow_engine.function_store import FunctionStore
from ironflow_engine.matcher import Matcher
from ironflow_engine.wait_store import WaitStore

_log = get_logger("ironflow.engine")

_FRESH_SECONDS = 1.0
"""An event that is handed over later than this after it was published is asked for anew."""
_PAUSE_SECONDS = 1.0
"""For so long at least nobody listens once there was much to do: then questions are asked for many events at once."""


class _Asked(msgspec.Struct):
    event: str
    at: float
    matcher: asyncio.Task[Matcher | None]


class Foresight:
    """Asks for the functions ahead of lone events.

    Args:
        broker: the connection.
        names: the namespace.
        functions: the registered functions.
        waits: the open waits.
        seconds: tells how time goes by.

    """

    def __init__(
        self,
        broker: Broker,
        names: Names,
        functions: FunctionStore,
        waits: WaitStore,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._names = names
        self._functions = functions
        self._waits = waits
        self._seconds = seconds
        self._asked: _Asked | None = None
        self._subscription: Subscription | None = None
        self._wanted = False
        self._paused_at = float("-inf")
        self._change: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Listen, unless that was ended just now."""
        self._wanted = True
        if self._subscription is None and self._seconds() - self._paused_at >= _PAUSE_SECONDS:
            self._adjust()

    def pause(self) -> None:
        """Listen no more for a while."""
        self._wanted = False
        if self._subscription is not None:
            self._adjust()

    async def stop(self) -> None:
        """Listen no more. Harmless the second time."""
        self.pause()
        if self._change is not None:
            await asyncio.wait([self._change])
        if self._asked is not None:
            self._asked.matcher.cancel()
            await asyncio.wait([self._asked.matcher])

    async def functions_for(self, delivery: Delivery, event: EventRecord) -> Matcher:
        """Return a matcher over the functions as they were when an event was published, or later.

        Raises:
            BrokerError: it cannot be asked.

        """
        asked = self._asked
        if asked is None or asked.event != event.id or delivery.delivered > 1 or not self._is_fresh(asked):
            return await self._functions.current()
        self._asked = None
        return await asked.matcher or await self._functions.current()

    def _is_fresh(self, asked: _Asked) -> bool:
        return self._seconds() - asked.at < _FRESH_SECONDS

    def _adjust(self) -> None:
        if self._change is None or self._change.done():
            self._change = asyncio.create_task(self._begin_or_end(), name="foresight")

    async def _begin_or_end(self) -> None:
        while self._wanted == (self._subscription is None):
            if self._subscription is not None:
                subscription, self._subscription = self._subscription, None
                self._paused_at = self._seconds()
                await subscription.stop()
                continue
            try:
                self._subscription = await self._broker.listen(self._names.every_event, self._hear)
            except BrokerError as error:
                # Older accounts do not allow it, and nothing depends on it.
                _log.info("functions are asked for once events are stored, not before", reason=str(error))
                self._paused_at = float("inf")
                return

    def _hear(self, request: Request) -> None:
        if self._asked is not None and not self._asked.matcher.done():
            return
        try:
            event = decode_record(EventRecord, request.payload)
        except SerializationError:
            return  # whoever takes it from the stream says so
        if not event.target and not self._functions.last.functions_for(event.name):
            self._waits.remembered(event)  # it remembers what it has worked out
            return
        self._asked = _Asked(event.id, self._seconds(), asyncio.create_task(self._ask(), name="foresight"))

    async def _ask(self) -> Matcher | None:
        try:
            return await self._functions.current()
        except BrokerError as error:
            _log.debug("functions not known ahead of an event", reason=str(error))
            return None
