"""An engine and workers in this process, on the in-process broker: with virtual time, hours take no time."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import AsyncGenerator
from typing import Any

from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.client import Client
from ironflow.function import Function
from ironflow.names import Names
from ironflow_engine.engine import Engine
from ironflow_worker.leases import InlineLeaseKeeper
from ironflow_worker.worker import Worker, WorkerSettings


class System:
    """A namespace with its processes, all in this loop.

    Attributes:
        server: the broker's server; restart it as you like.
        client: publishes and reads.

    """

    def __init__(self, functions: dict[str, Function[Any, Any]], seed: int = 0) -> None:
        self.names = Names("test")
        self.server = LocalServer()
        self.functions = functions
        self.brokers: list[LocalBroker] = []
        self.engines: list[Engine] = []
        self.workers: list[Worker] = []
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self.client = Client(self._connect(), self.names)

    async def add_engine(self) -> Engine:
        """Start one more engine."""
        engine = Engine(self._connect(), self.names, make_token=self._token)
        self.engines.append(engine)
        await engine.start()
        return engine

    async def add_worker(self, *queues: str, concurrency: int = 100) -> Worker:
        """Start one more worker; without queues, for all of the functions' queues."""
        broker = self._connect()
        worker = Worker(
            broker,
            self.names,
            self.functions,
            WorkerSettings(
                queues=queues or tuple(sorted({function.queue for function in self.functions.values()})),
                concurrency=concurrency,
            ),
            lambda leases: InlineLeaseKeeper(leases, broker),
            make_token=self._token,
            chance=self._random.random,
        )
        self.workers.append(worker)
        await worker.start()
        if self.engines:
            await worker.registered.wait()
        return worker

    async def stop(self) -> None:
        """Stop all processes."""
        for worker in self.workers:
            await worker.stop()
        for engine in self.engines:
            await engine.stop()
        for broker in self.brokers:
            await broker.close()

    def _connect(self) -> LocalBroker:
        broker = self.server.connect()
        self.brokers.append(broker)
        return broker

    def _token(self) -> str:
        return f"token-{next(self._numbers)}"


@contextlib.asynccontextmanager
async def running_system(
    *functions: Function[Any, Any], engines: int = 1, workers: int = 1, concurrency: int = 100
) -> AsyncGenerator[System]:
    """Run engines and workers for some functions until the block ends."""
    system = System({function.id: function for function in functions})
    try:
        for _ in range(engines):
            await system.add_engine()
        for _ in range(workers):
            await system.add_worker(concurrency=concurrency)
        yield system
    finally:
        await system.stop()
