"""Copies what the streams hold to Postgres, and goes on where it was, whatever happened meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from ironflow.broker.protocol import Broker, BrokerError, Follower, StoredMessage
from ironflow.logs import get_logger
from ironflow.names import Names, bucket_stream
from ironflow_engine.archive.database import REFUSED, Database
from ironflow_engine.archive.writer import Overtaken, Writer
from ironflow_engine.duty import Duty

_log = get_logger("ironflow.engine")

_CLAIM_SECONDS = 3.0
_LOOK_SECONDS = 1.0
"""How long it rests when there was nothing to copy; about how far the archive is behind."""
_TRY_AGAIN_SECONDS = 2.0
_PAGES_A_TURN = 20

_Copy: TypeAlias = Callable[[str, int, Sequence[StoredMessage]], Awaitable[None]]


class Archiver:
    """Copies EVENTS, the journal and the run states, each from where it stopped.

    Args:
        broker: the connection.
        names: the namespace.
        database: where to.
        duty: has one engine at a time do it; a second one would find its positions moved, and do nothing.

    """

    def __init__(self, broker: Broker, names: Names, database: Database, duty: Duty) -> None:
        self._broker = broker
        self._names = names
        self._writer = Writer(database)
        self._duty = duty
        self._claimed_at = float("-inf")
        self._mine = False
        self._failing = False
        # In this order a run is hardly ever there before its steps are.
        copies: tuple[tuple[str, _Copy], ...] = (
            (names.events, self._writer.copy_events),
            *((shard.journal, self._writer.copy_journal) for shard in names.all_shards),
            (bucket_stream(names.runs_bucket), self._copy_runs),
        )
        self._streams = [(stream, broker.follow(stream), copy) for stream, copy in copies]

    async def run(self) -> None:
        """Copy what comes, until cancelled."""
        while True:
            pause = _LOOK_SECONDS
            try:
                if await self._is_mine():
                    pause = 0.0 if await self.copy() else _LOOK_SECONDS
                    self._say_that_it_works()
            except Overtaken:
                _log.info("another engine archives")
                self._claimed_at = float("-inf")
            except BrokerError as error:
                self._say_that_it_fails(error)
                pause = _TRY_AGAIN_SECONDS
            except Exception:  # noqa: BLE001 - whatever it is, it must not stop the engine
                _log.exception("not archived, will be tried again")
                pause = _TRY_AGAIN_SECONDS
            await asyncio.sleep(pause)

    async def copy(self) -> bool:
        """Copy some of what is new; return whether there may be more.

        Raises:
            BrokerError: NATS or Postgres cannot be reached.
            Overtaken: another engine copies too.

        """
        positions = await self._writer.positions()
        more = [await self._copy_stream(*stream, positions.get(stream[0], 0)) for stream in self._streams]
        return any(more)

    async def _copy_stream(self, stream: str, follower: Follower, copy: _Copy, position: int) -> bool:
        newest = (await self._broker.stream_state(stream)).last_sequence
        if newest < position:
            _log.warning("a stream was made anew and is archived from its beginning", stream=stream)
            await self._writer.move(stream, position, 0)
            return True
        if newest == position:
            return False
        pages = 0
        async for page in follower.read(position, newest):
            await self._copy_page(copy, stream, position, page)
            position = page[-1].sequence
            pages += 1
            if pages == _PAGES_A_TURN:
                return True
        return False

    async def _copy_page(self, copy: _Copy, stream: str, position: int, page: Sequence[StoredMessage]) -> None:
        try:
            await copy(stream, position, page)
        except REFUSED as error:
            if len(page) == 1:
                _log.error("message not archived", stream=stream, subject=page[0].subject, reason=str(error))
                await self._writer.move(stream, position, page[0].sequence)
                return
            # One of them must not hold up the others.
            for message in page:
                await self._copy_page(copy, stream, position, [message])
                position = message.sequence

    async def _copy_runs(self, stream: str, position: int, page: Sequence[StoredMessage]) -> None:
        states = [message for message in page if not self._names.is_purged_key(message.subject)]
        await self._writer.copy_runs(stream, position, states, last=page[-1].sequence)

    async def _is_mine(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._claimed_at >= _CLAIM_SECONDS:
            self._mine = await self._duty.claim()
            self._claimed_at = now
        return self._mine

    def _say_that_it_works(self) -> None:
        if self._failing:
            _log.info("archived again")
        self._failing = False

    def _say_that_it_fails(self, error: BrokerError) -> None:
        if not self._failing:  # once, and not every two seconds
            _log.warning("not archived, will be tried again", reason=f"{type(error).__name__}: {error}")
        self._failing = True
