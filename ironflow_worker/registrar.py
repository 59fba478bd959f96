"""Makes a worker known: its functions to the engine, itself to whoever asks."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from ironflow.broker.protocol import Broker, Request, Subscription
from ironflow.clock import now_ms, to_iso
from ironflow.codec import encode_record
from ironflow.engine_api import EngineApi
from ironflow.errors import EngineUnavailableError, IronflowError
from ironflow.function import Function
from ironflow.logs import get_logger
from ironflow.messages import Registered, WorkerCensus, WorkerView
from ironflow.names import Names
from ironflow.version import __version__

_log = get_logger("ironflow.worker")

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0


class Registrar:
    """Registers functions and answers the census.

    Args:
        broker: the connection.
        names: the namespace.
        worker_id: this worker's id.
        functions: what it executes, by id.
        queues: what it pulls from.
        concurrency: how many passes it executes at a time.
        running: returns the runs that it executes now.

    """

    def __init__(
        self,
        broker: Broker,
        names: Names,
        worker_id: str,
        functions: Mapping[str, Function[Any, Any]],
        queues: tuple[str, ...],
        concurrency: int,
        running: Callable[[], frozenset[str]],
    ) -> None:
        self._broker = broker
        self._names = names
        self._id = worker_id
        self._functions = functions
        self._queues = queues
        self._concurrency = concurrency
        self._running = running
        self._started_at = to_iso(now_ms())
        self._subscription: Subscription | None = None
        self.draining = False

    async def answer_census(self) -> None:
        """Answer the census until :meth:`stop`."""
        self._subscription = await self._broker.listen(self._names.worker_census, self._answer)

    async def stop(self) -> None:
        """Answer no more."""
        if self._subscription is not None:
            await self._subscription.stop()

    async def register(self) -> Registered:
        """Register the functions, however long it takes until an engine is there; return what it answers."""
        records = tuple(function.record() for function in self._functions.values())
        engine = EngineApi(self._broker, self._names)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                registered = await engine.register(records)
            except EngineUnavailableError as error:
                _log.warning("not registered yet, trying again", reason=str(error))
            except IronflowError as error:
                _log.error("the engine refuses the registration, trying again", reason=str(error))
            else:
                _log.info("functions registered", functions=sorted(self._functions))
                for warning in registered.warnings:
                    _log.warning(warning)
                return registered
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _answer(self, request: Request) -> None:
        running = self._running()
        worker = WorkerView(
            id=self._id,
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=self._queues,
            functions=tuple(sorted(self._functions)),
            concurrency=self._concurrency,
            running=len(running),
            draining=self.draining,
            started_at=self._started_at,
            version=__version__,
        )
        request.respond(encode_record(WorkerCensus(worker=worker, runs=tuple(sorted(running)))))
