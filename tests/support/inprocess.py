"""An engine and workers in this process, on the in-process broker: with virtual time, hours take no time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.broker.topology import TASK_LEASE_SECONDS
from ironflow.client import Client
from ironflow.codec import decode_record
from ironflow.function import Function
from ironflow.handles import RunHandle
from ironflow.limits import DEFAULT_LIMITS, Limits
from ironflow.messages import RunView
from ironflow.names import Names, bucket_stream, parse_journal
from ironflow.records import TERMINAL, RunState
from ironflow_engine.engine import Engine, EngineSettings
from ironflow_engine.history import Archive
from ironflow_engine.reconciler import SWEEP_SECONDS
from ironflow_worker.leases import InlineLeaseKeeper
from ironflow_worker.worker import Worker, WorkerSettings

COMPLAINTS: list[str] = []
"""What asyncio found fault with: exceptions that nobody has seen, tasks that were never ended."""
PATIENCE = "3h"
"""How long a run may take by the virtual clock; one that is stuck ends its test then."""


def is_of_duties(subject: str) -> bool:
    """Tell whether a write settles which engine has a duty: that goes on for ever, and concerns no run."""
    return "_engines." in subject


class System:
    """A namespace with its processes, all in this loop.

    Args:
        functions: what its workers can execute, by id.
        server: the broker's server; default one as it comes.
        seed: makes chance the same each time.
        limits: what workers refuse.
        sweep_seconds: how often engines look for what got lost; an hour where weeks shall take no time.
        lease_seconds: how long a worker keeps a task without renewing it.
        retention: for how many seconds runs stay after their end; 0 for ever.
        archive: what outlives the streams.
        shards: into how many the namespace is divided.

    Attributes:
        server: the broker's server; restart it as you like.
        client: publishes and reads.
        archive: what engines that are added from now on fill.

    """

    def __init__(  # noqa: PLR0913 - each is a setting that a test may want
        self,
        functions: dict[str, Function[Any, Any]],
        *,
        server: LocalServer | None = None,
        seed: int = 0,
        limits: Limits = DEFAULT_LIMITS,
        sweep_seconds: float = SWEEP_SECONDS,
        lease_seconds: float = TASK_LEASE_SECONDS,
        retention: float = 0,
        archive: Archive | None = None,
        shards: int = 1,
    ) -> None:
        self._engine_settings = EngineSettings(
            sweep_seconds=sweep_seconds, lease_seconds=lease_seconds, retention_ms=round(retention * 1000)
        )
        self.archive = archive
        self.names = Names("test", shards)
        self.server = server or LocalServer()
        self.functions = functions
        self.engines: dict[Engine, LocalBroker] = {}
        self.workers: dict[Worker, LocalBroker] = {}
        self._limits = limits
        self._doing: list[asyncio.Task[None]] = []
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self.broker = self.server.connect()
        self.client = Client(self.broker, self.names)

    async def add_engine(self) -> Engine:
        """Start one more engine."""
        broker = self.server.connect()
        engine = Engine(
            broker,
            self.names,
            self._engine_settings,
            make_token=self._token,
            monotonic=asyncio.get_running_loop().time,
            archive=self.archive,
        )
        await engine.start()
        self.engines[engine] = broker
        return engine

    async def add_worker(
        self, *queues: str, concurrency: int = 100, drain_seconds: float = 30.0, functions: tuple[str, ...] = ()
    ) -> Worker:
        """Start one more worker; without queues, for all of the functions' queues; without functions, with all."""
        broker = self.server.connect()
        known = {key: function for key, function in self.functions.items() if not functions or key in functions}
        worker = Worker(
            broker,
            self.names,
            known,
            WorkerSettings(
                queues=queues or tuple(sorted({function.queue for function in known.values()})),
                concurrency=concurrency,
                threads=4,
                drain_seconds=drain_seconds,
            ),
            lambda leases, be_seen: InlineLeaseKeeper(leases, broker, be_seen),
            make_token=self._token,
            chance=self._random.random,
            now_ms=self.now_ms,
            monotonic=asyncio.get_running_loop().time,
            limits=self._limits,
        )
        await worker.start()
        self.workers[worker] = broker
        if self.engines:
            await worker.registered.wait()
        return worker

    async def kill(self, process: Engine | Worker) -> None:
        """End a process as SIGKILL does: nothing that it has not sent by now is ever sent."""
        self.cut_off(process)
        await process.stop()

    def cut_off(self, process: Engine | Worker) -> None:
        """Take a process's connection away for good, and do not count on it any more."""
        broker = self.engines.pop(process, None) if isinstance(process, Engine) else self.workers.pop(process, None)
        if broker is not None:
            broker.drop()
        if isinstance(process, Worker):
            process.registered.set()  # nobody need wait for it any more

    def soon(self, *things: Coroutine[Any, Any, object]) -> None:
        """Do things one after the other, beside all else that goes on."""

        async def do() -> None:
            for thing in things:
                await thing

        self._doing.append(asyncio.create_task(do()))

    async def stop(self) -> None:
        """Stop all processes."""
        self.server.interceptor = None
        self.server.start()
        await asyncio.gather(*self._doing)
        for worker, broker in self.workers.items():
            await worker.stop()
            await broker.close()
        for engine, broker in self.engines.items():
            await engine.stop()
            await broker.close()
        await self.broker.close()

    # What tests ask for

    async def run(self, function: Function[Any, Any] | str, data: object = None) -> RunView:
        """Run a function to its end and return what is shown of it."""
        return await (await self.client.start(function, data)).wait(PATIENCE)

    async def output(self, function: Function[Any, Any] | str, data: object = None) -> Any:
        """Run a function to its end and return its output."""
        return await (await self.client.start(function, data)).result(PATIENCE)

    async def end_of(self, run: RunHandle[Any]) -> RunView:
        """Wait until a run has ended, without asking for it each minute as its handle would: months cost nothing."""
        ended = asyncio.Event()

        async def on_ended(_: object) -> None:
            ended.set()

        subscription = await self.broker.listen(self.names.ended(run.id), on_ended)
        try:
            if (await run.state()).status not in TERMINAL:
                await ended.wait()
        finally:
            await subscription.stop()
        return await run.wait("1m")

    async def subjects(self, kind: str = "", run: RunHandle[Any] | None = None) -> list[str]:
        """Return what is in the journal: of one kind, of one run, or all; without what all subjects begin with."""
        found: list[str] = []
        for shard in self.names.all_shards if run is None else [self.names.shard_of(run.id)]:
            wanted = shard.every_record if run is None else self.names.journal_of_run("*", run.id)
            async for page in self.broker.read(shard.journal, wanted):
                for message in page:
                    address = parse_journal(message.subject)
                    if not kind or address.kind == kind:
                        found.append(".".join((address.kind, *address.rest)))
        return found

    async def run_state(self, run: str) -> RunState:
        """Return the state of a run as it is stored."""
        message = await self.broker.last(bucket_stream(self.names.runs_bucket), self.names.run_key(run))
        assert message is not None
        return decode_record(RunState, message.payload)

    def now_ms(self) -> int:
        """Return what the server's clock says."""
        return self.server.clock.now_us() // 1000

    def _token(self) -> str:
        # The ids of engines and workers have the first four characters of one in them.
        return f"{next(self._numbers):04}"


@contextlib.asynccontextmanager
async def running_system(  # noqa: PLR0913 - each is a setting that a test may want
    *functions: Function[Any, Any],
    engines: int = 1,
    workers: int = 1,
    concurrency: int = 100,
    server: LocalServer | None = None,
    limits: Limits = DEFAULT_LIMITS,
    sweep_seconds: float = SWEEP_SECONDS,
    lease_seconds: float = TASK_LEASE_SECONDS,
    retention: float = 0,
    archive: Archive | None = None,
    shards: int = 1,
) -> AsyncGenerator[System]:
    """Run engines and workers for some functions until the block ends."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: COMPLAINTS.append(repr(context)))
    system = System(
        {function.id: function for function in functions},
        server=server,
        limits=limits,
        sweep_seconds=sweep_seconds,
        lease_seconds=lease_seconds,
        retention=retention,
        archive=archive,
        shards=shards,
    )
    try:
        for _ in range(engines):
            await system.add_engine()
        for _ in range(workers):
            await system.add_worker(concurrency=concurrency)
        yield system
    finally:
        await system.stop()
