"""What an engine says of itself when it is asked."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from ironflow.broker.protocol import Broker, BrokerError
from ironflow.clock import now_ms, to_iso
from ironflow.engine_api import Empty
from ironflow.messages import ArchiveView, EngineView
from ironflow.names import Names
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
        problems, archive = await asyncio.gather(self._problems(), archive_view(self._archive, self._broker))
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
        )


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
