"""Deletes old events from EVENTS where an archive has them.

Without an archive the server does that, by the age of each event alone. It would not wait for an archive that cannot
be reached, so where there is one the stream has no age, and its engines delete what three have done with: the
archive, which has it; the engines, which have acknowledged it; and waits, which look back for a week.
"""

from __future__ import annotations

import asyncio

from ironflow.broker import topology
from ironflow.broker.protocol import Broker, BrokerError
from ironflow.logs import get_logger
from ironflow.names import ENGINE_CONSUMER, Names
from ironflow_engine.history import Archive

_log = get_logger("ironflow.engine")

LOOK_SECONDS = 60.0


class EventRetention:
    """Deletes events that are old and archived. All engines may do it at once: each deletes only what may go.

    Args:
        broker: the connection.
        names: the namespace.
        archive: what must have them first.

    """

    def __init__(self, broker: Broker, names: Names, archive: Archive) -> None:
        self._broker = broker
        self._stream = names.events
        self._archive = archive

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.sweep()
            except BrokerError as error:
                _log.warning("events not deleted, will be tried again", reason=f"{type(error).__name__}: {error}")
            except Exception:  # noqa: BLE001 - whatever it is, it must not stop the engine
                _log.exception("events not deleted, will be tried again")

    async def sweep(self) -> int:
        """Delete what may go; return how many events that were.

        Raises:
            BrokerError: it is not known what may go. What is left is found again.

        """
        state = await self._broker.stream_state(self._stream)
        before_ms = await self._broker.server_time_ms(self._stream) - topology.EVENTS_KEPT_SECONDS * 1000
        if not state.messages or not await self._is_older(state.first_sequence, before_ms):
            return 0
        copied = await self._archive.copied(self._stream)
        # What has been copied further than the stream goes is another one of that name, which is no more.
        may_go = min(copied, await self._acknowledged()) if copied <= state.last_sequence else 0
        last = await self._newest_older(state.first_sequence, may_go, before_ms)
        # A purge of what is in hand would have the server take other deliveries for acknowledged.
        deleted = await self._broker.purge(self._stream, ">", last) if last >= state.first_sequence else 0
        if deleted:
            _log.info("archived events deleted", events=deleted)
        return deleted

    async def _acknowledged(self) -> int:
        return (await self._broker.consumer_state(self._stream, ENGINE_CONSUMER)).ack_floor

    async def _newest_older(self, first: int, last: int, before_ms: int) -> int:
        """Return the last place from *first* to *last* that is old, by halves; the one before *first* where none is."""
        low, high = first - 1, last
        while low < high:
            middle = (low + high + 1) // 2
            if await self._is_older(middle, before_ms):
                low = middle
            else:
                high = middle - 1
        return low

    async def _is_older(self, sequence: int, before_ms: int) -> bool:
        # Where somebody has deleted one event its age is not known. It then bounds this sweep, and not the next one.
        message = await self._broker.at(self._stream, sequence)
        return message is not None and message.time_ms < before_ms
