"""What an engine says of itself when it is asked."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from ironflow.broker.protocol import Ambiguous, Broker, BrokerError, Denied, NoSuchStream, StorageFull, Unavailable
from ironflow.clock import now_ms, to_iso
from ironflow.engine_api import Empty
from ironflow.messages import ArchiveView, EngineView
from ironflow.names import Names, bucket_stream
from ironflow.version import __version__
from ironflow_engine.history import Archive

_ANSWER_SECONDS = 1.0
"""Whoever asks waits for two seconds, or not for much longer."""


class Status:
    """Answers ``engine.status``.

    Args:
        engine: the engine's id.
        broker: the connection.
        names: the namespace.
        problems: returns why the engine is not ready.
        retention_ms: how long NATS keeps runs after their end; 0 for ever.
        archive: what outlives the streams.

    """

    def __init__(
        self,
        engine: str,
        broker: Broker,
        names: Names,
        problems: Callable[[], Awaitable[list[str]]],
        *,
        retention_ms: int,
        archive: Archive | None,
    ) -> None:
        self._engine = engine
        self._broker = broker
        self._names = names
        self._problems = problems
        self._retention_ms = retention_ms
        self._archive = archive
        self._started_at = to_iso(now_ms())

    async def view(self, _request: Empty) -> EngineView:
        """Return how this engine stands."""
        problems, archive, stuck = await asyncio.gather(
            self._problems(), archive_view(self._archive, self._broker), stuck_streams(self._broker, self._names)
        )
        return EngineView(
            id=self._engine,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            namespace=self._names.namespace,
            started_at=self._started_at,
            problems=tuple(problems),
            retention_ms=self._retention_ms,
            archive=archive,
            stuck_streams=stuck,
        )


async def stuck_streams(broker: Broker, names: Names) -> dict[str, str]:
    """Return the streams that could not be written once, as on a full disk, with what the server says.

    It answers all that is asked about them, and no write. But whoever wants something deleted is told, also where
    there is nothing to delete.
    """
    buckets = (names.runs_bucket, names.waits_bucket)
    streams = (names.events, *names.shard_streams, *map(bucket_stream, buckets))
    problems = await asyncio.gather(*(_write_problem(broker, names, stream) for stream in streams))
    return {stream: problem for stream, problem in zip(streams, problems, strict=True) if problem is not None}


async def _write_problem(broker: Broker, names: Names, stream: str) -> str | None:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            # No stream takes that subject, nor does a consumer: of those that do, it would change the place.
            await broker.purge(stream, f"{names.namespace}.nothing")
    except (TimeoutError, Ambiguous, Denied, NoSuchStream, StorageFull, Unavailable):
        return None  # that is not it, and other checks find what it is
    except BrokerError as error:
        return str(error)
    return None


async def archive_view(archive: Archive | None, broker: Broker) -> ArchiveView | None:
    """Return how an archive stands; None where there is none."""
    if archive is None:
        return None
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return ArchiveView(behind=await archive.behind(broker))
    except TimeoutError:
        return ArchiveView(problem="it does not answer in time")
    except BrokerError as error:
        return ArchiveView(problem=str(error))
