"""One worker: its parts put together, started and drained."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ironflow.annotations import ADVICE
from ironflow.broker.protocol import Broker, Subscription
from ironflow.clock import now_ms
from ironflow.errors import DefinitionError
from ironflow.function import Function
from ironflow.limits import DEFAULT_LIMITS, Limits
from ironflow.logs import get_logger
from ironflow.names import Names
from ironflow.telemetry.canary import Canary
from ironflow.version import __version__
from ironflow_worker.agreement import agree_on_shards, check_agreement
from ironflow_worker.bodies import Bodies
from ironflow_worker.cancellations import Cancellations
from ironflow_worker.executor import Executor
from ironflow_worker.leases import BeSeen, LeaseKeeper, Leases
from ironflow_worker.lingering import LONGEST_SECONDS, Lingerers
from ironflow_worker.metrics import Metrics
from ironflow_worker.presence import Presence, be_seen
from ironflow_worker.queue_runner import QueueRunner
from ironflow_worker.registrar import Registrar
from ironflow_worker.threads import DaemonThreads

_log = get_logger("ironflow.worker")

_REGISTRATION_SECONDS = 2.0
"""How long to wait for an engine before tasks are taken; those of queues that exist need none."""

MakeLeaseKeeper = Callable[[Leases, BeSeen], LeaseKeeper]


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker behaves.

    Attributes:
        queues: what it pulls from.
        concurrency: how many passes it executes at a time, shared evenly between its queues, and between the shards
            of each.
        threads: how many plain step bodies run at a time.
        drain_seconds: how long passes may take to end once the worker is told to stop.
        linger_seconds: how long a pass that waits for an event may stay for it; with 0 it ends at once.

    """

    queues: tuple[str, ...]
    concurrency: int = 100
    threads: int = min(32, (os.cpu_count() or 1) + 4)
    drain_seconds: float = 30.0
    linger_seconds: float = LONGEST_SECONDS


class Worker:
    """Executes the passes of its queues.

    Args:
        broker: the connection; it is not closed by the worker.
        names: the namespace.
        functions: what it can execute, by id; those of other queues are left alone.
        settings: how it behaves.
        make_lease_keeper: makes what renews its leases.
        make_token: returns a new random mark.
        chance: returns a random number in [0, 1).
        now_ms: returns what this machine's clock says.
        monotonic: returns seconds that never jump.
        limits: what is refused before it is stored.

    Raises:
        DefinitionError: on one of its queues is none of the functions, or there are fewer slots than queues and shards.

    """

    def __init__(  # noqa: PLR0913 - it is made in one place, and chance and time are handed in
        self,
        broker: Broker,
        names: Names,
        functions: Mapping[str, Function[Any, Any]],
        settings: WorkerSettings,
        make_lease_keeper: MakeLeaseKeeper,
        *,
        make_token: Callable[[], str] = lambda: os.urandom(8).hex(),
        chance: Callable[[], float] = random.random,
        now_ms: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{make_token()[:4]}"
        self.metrics = Metrics()
        self.metrics.slots.set(settings.concurrency)
        self.registered = asyncio.Event()
        """Set once an engine knows the functions."""
        mine = self._functions = _functions_of(functions, settings)
        self._settings = settings
        self._broker = broker
        self._names = names
        self._leases = Leases(monotonic=monotonic)
        self._presence = Presence(broker, names, self.id)
        self._lease_keeper = make_lease_keeper(
            self._leases, functools.partial(be_seen, names=names, worker=self.id, connection="leases")
        )
        self._threads = DaemonThreads(settings.threads, "ironflow-body")
        self._bodies = Bodies(self._threads)
        self._cancellations = Cancellations(broker, names)
        self._executor = Executor(
            broker,
            names,
            mine,
            self._bodies,
            self._leases,
            self._presence,
            self.metrics,
            self._cancellations,
            worker_id=self.id,
            make_token=make_token,
            chance=chance,
            now_ms=now_ms,
            monotonic=monotonic,
            limits=limits,
            lingerers=Lingerers(settings.linger_seconds, settings.concurrency),
        )
        self._runners = [
            QueueRunner(broker, stream, queue, slots, self._executor.execute, self.metrics.passes_begin)
            for stream, queue, slots in _share_slots(settings, names)
        ]
        self._registrar = Registrar(
            broker, names, self.id, mine, settings.queues, settings.concurrency, lambda: self._cancellations.running
        )
        # A worker may write nowhere but to the journals of its queues.
        writable = [shard.journal_canary(queue) for shard in names.all_shards for queue in settings.queues]
        self._canaries = [Canary(broker, subject, self.id) for subject in writable]
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriptions: list[Subscription] = []
        self._stopped = self._left = False

    async def start(self) -> None:
        """Begin to take tasks.

        An engine is not needed for it: a worker that restarts while none runs goes on with what is queued.

        Raises:
            BrokerError, EngineUnavailableError: NATS refuses it or cannot be reached; nothing goes on then.

        """
        try:
            await self._begin()
        except BaseException:
            await self._leave()
            raise
        for function in self._functions.values():
            if function.unreadable is not None:
                _log.warning(
                    "annotations of a function cannot be read: its data, its output or both stay plain JSON",
                    function=function.id,
                    reason=function.unreadable,
                    advice=ADVICE,
                )
        _log.info("worker started", worker=self.id, queues=list(self._settings.queues), version=__version__)

    async def _begin(self) -> None:
        await self._lease_keeper.start()
        await self._cancellations.start()
        await self._presence.start()
        for queue in self._settings.queues:
            subject = self._names.told(queue, self.id)
            self._subscriptions.append(await self._broker.listen(subject, self._executor.hear))
        await self._registrar.answer_census()
        self._tasks = [asyncio.create_task(self._register(), name="registrar")]
        self._tasks += [asyncio.create_task(self._take_tasks(runner), name="queue runner") for runner in self._runners]

    async def wait(self) -> None:
        """Return when a part of the worker has ended, which none does by itself; raise what ended it.

        Raises:
            WrongShards: the namespace has another number of shards than this worker was told.

        """
        running = set(self._tasks)
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
                if task.get_name() != "registrar":
                    return

    async def problems(self) -> list[str]:
        """Return why this worker is not ready: it drains, a write does not work, or tasks are not being pulled."""
        if self._stopped or self._registrar.draining:
            return ["the worker drains"]
        idle = [f"no tasks are pulled from queue {runner.queue}" for runner in self._runners if not runner.is_pulling]
        unwritten = await asyncio.gather(*(canary.problem() for canary in self._canaries))
        return [*dict.fromkeys(idle), *(problem for problem in unwritten if problem is not None)]

    async def sample(self) -> None:
        """Do nothing: all of a worker's metrics are counted when it happens."""

    async def drain(self) -> None:
        """Take no more tasks; let passes end until the deadline, hand back the others, and leave.

        From half of the time on no body begins any more, and a pass that would need one is handed back. So what is
        cut off at the deadline are bodies that take longer than half of the time, and no others.
        """
        self._registrar.draining = True
        for runner in self._runners:
            runner.withdraw()
        self._executor.end_lingering()
        if not await self._have_ended(self._settings.drain_seconds / 2):
            self._bodies.no_more = True
            if not await self._have_ended(self._settings.drain_seconds / 2):
                runs = sorted(self._cancellations.running)
                _log.warning("drain deadline reached, passes are handed back", runs=runs)
        await self.stop()

    async def _have_ended(self, seconds: float) -> bool:
        """Wait so long for all passes to end; return whether they have."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(runner.finish() for runner in self._runners))
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Leave now: passes are given up and handed back. Harmless the second time; goes on where it was cancelled."""
        if self._left:
            return
        self._stopped = True
        await self._leave()
        self._left = True
        _log.info("worker stopped", worker=self.id)

    async def _leave(self) -> None:
        await asyncio.gather(*(runner.give_up() for runner in self._runners))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._registrar.stop()
        await self._cancellations.stop()
        await self._presence.stop()
        for subscription in self._subscriptions:
            await subscription.stop()
        await self._lease_keeper.stop()
        # A plain body cannot be stopped; nobody waits for what it returns.
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _take_tasks(self, runner: QueueRunner) -> None:
        # The queue of a function that is new is made when the function is registered.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REGISTRATION_SECONDS):
                await self.registered.wait()
        await self._cancellations.note_time(runner.queue)
        await agree_on_shards(self._broker, self._names, runner.stream, runner.queue, self.registered)
        await runner.run()

    async def _register(self) -> None:
        registered = await self._registrar.register()
        check_agreement(self._names, registered.shards, "an engine")
        self._leases.change(registered.lease_seconds)
        self.registered.set()


def _functions_of(
    functions: Mapping[str, Function[Any, Any]], settings: WorkerSettings
) -> dict[str, Function[Any, Any]]:
    known = {function.queue for function in functions.values()}
    # One that nobody uses keeps its share of the concurrency for itself, and mostly is another one misspelt.
    if unused := [queue for queue in settings.queues if queue not in known]:
        wanted = ", ".join(map(repr, unused))
        loaded = ", ".join(sorted(map(repr, known))) or "none"
        msg = f"none of the functions is on queue {wanted}; the functions that were loaded are on: {loaded}"
        raise DefinitionError(msg)
    return {key: function for key, function in functions.items() if function.queue in settings.queues}


def _share_slots(settings: WorkerSettings, names: Names) -> list[tuple[str, str, int]]:
    """Return each stream of tasks, with each queue, and how many of its tasks are executed at a time."""
    places = [(shard.tasks, queue) for queue in settings.queues for shard in names.all_shards]
    share, rest = divmod(settings.concurrency, len(places))
    if not share:
        shards = f" in {names.shards} shards" if names.shards > 1 else ""
        least = f"{len(places)}: each takes tasks by itself" if shards else "as much"
        msg = (
            f"{len(settings.queues)} queues{shards} need a concurrency of at least {least}, got {settings.concurrency}"
        )
        raise DefinitionError(msg)
    return [(stream, queue, share + (index < rest)) for index, (stream, queue) in enumerate(places)]
