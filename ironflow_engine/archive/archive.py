"""The archive as an engine uses it."""

from __future__ import annotations

import asyncio

from ironflow.broker.protocol import Broker
from ironflow.names import Names, bucket_stream
from ironflow_engine.archive.archiver import Archiver
from ironflow_engine.archive.database import Database
from ironflow_engine.archive.reader import ArchiveReader
from ironflow_engine.archive.writer import Writer
from ironflow_engine.duty import Duty
from ironflow_engine.history import History


class PostgresArchive:
    """An archive in Postgres.

    Args:
        url: ``postgresql://user:password@host:port/database``.
        names: the namespace.

    Raises:
        DefinitionError: that is no such URL.

    """

    def __init__(self, url: str, names: Names) -> None:
        self._names = names
        self._database = Database(url, names)
        self._reader = ArchiveReader(self._database, names)

    @property
    def history(self) -> History:
        """What is in it."""
        return self._reader

    async def keep(self, broker: Broker, duty: Duty) -> None:
        """Copy what comes to it, until cancelled."""
        await Archiver(broker, self._names, self._database, duty).run()

    async def copied(self, stream: str) -> int:
        """Return up to where a stream is copied.

        Raises:
            BrokerError: Postgres cannot be reached.

        """
        return (await Writer(self._database).positions()).get(stream, 0)

    async def behind(self, broker: Broker) -> int:
        """Return how many messages of the streams are not copied yet.

        Raises:
            BrokerError: Postgres or NATS cannot be reached.

        """
        names, positions = self._names, await Writer(self._database).positions()
        journals = (shard.journal for shard in names.all_shards)
        streams = (names.events, *journals, bucket_stream(names.runs_bucket))
        states = await asyncio.gather(*map(broker.stream_state, streams))
        ends = {stream: state.last_sequence for stream, state in zip(streams, states, strict=True)}
        return sum(max(0, end - positions.get(stream, 0)) for stream, end in ends.items())

    async def close(self) -> None:
        """Disconnect."""
        await self._database.close()
