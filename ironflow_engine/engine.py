"""One engine: its parts put together, started and stopped."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ironflow.broker.protocol import Broker, Request, Subscription
from ironflow.broker.topology import TASK_LEASE_SECONDS, engine_consumers, streams
from ironflow.durations import format_milliseconds
from ironflow.engine_api import Empty
from ironflow.logs import get_logger
from ironflow.messages import (
    CancelRun,
    DeleteFunction,
    GetRun,
    GetRunPart,
    GetSteps,
    ListEvents,
    ListRuns,
    RegisterFunctions,
    RetryRun,
    RunsOfEvent,
)
from ironflow.names import Names
from ironflow.records import ErrorRecord
from ironflow.server_clock import ServerClock
from ironflow.telemetry.canary import Canary
from ironflow.version import __version__
from ironflow_engine import reconciler, retention, takeover
from ironflow_engine.administrator import Administrator
from ironflow_engine.canceller import Canceller
from ironflow_engine.census import Census
from ironflow_engine.child_keeper import ChildKeeper
from ironflow_engine.conductor import Conductor
from ironflow_engine.dispatcher import Dispatcher
from ironflow_engine.duty import Duty
from ironflow_engine.event_intake import EventIntake
from ironflow_engine.event_reader import EventReader
from ironflow_engine.event_retention import EventRetention
from ironflow_engine.facts import START_A_WORKER
from ironflow_engine.foresight import Foresight
from ironflow_engine.function_store import FunctionStore
from ironflow_engine.gauges import Gauges
from ironflow_engine.history import ARCHIVE_DUTY_SECONDS, Archive, History, NoHistory
from ironflow_engine.intake import Intake
from ironflow_engine.journal_intake import JournalIntake
from ironflow_engine.metrics import Metrics
from ironflow_engine.queue_keeper import QueueKeeper
from ironflow_engine.read_model import ReadModel
from ironflow_engine.reconciler import Reconciler
from ironflow_engine.retention import Retention
from ironflow_engine.retrier import Retrier
from ironflow_engine.run_lists import RunLists
from ironflow_engine.run_reader import RunReader
from ironflow_engine.run_store import RunStore
from ironflow_engine.service import Service, Verb, verb
from ironflow_engine.status import Status
from ironflow_engine.takeover import Takeover
from ironflow_engine.terminator import Terminator
from ironflow_engine.timer_intake import TimerIntake
from ironflow_engine.wait_keeper import WaitKeeper
from ironflow_engine.wait_store import WaitStore

_log = get_logger("ironflow.engine")


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine behaves.

    Attributes:
        read_model: the file that lists are answered from; made anew when missing. "" for a temporary one, of which
            2 MB are kept in memory; ":memory:" for none, which takes 1.3 KB of memory for each run.
        replicas: on how many servers each stream is kept; 3 on a cluster.
        lease_seconds: how long a worker keeps a task without renewing it.
        sweep_seconds: how often it looks for what got lost; more seldom only where months pass in virtual time.
        retention_ms: for how long runs stay in NATS after their end; 0 for ever.
        advice: what to do about a function that is not registered, as the runs say that were to be of it.

    """

    read_model: str = ":memory:"
    replicas: int = 1
    lease_seconds: float = TASK_LEASE_SECONDS
    sweep_seconds: float = reconciler.SWEEP_SECONDS
    retention_ms: int = 0
    advice: str = START_A_WORKER


def random_token() -> str:
    """Return a new random mark of a writer."""
    return os.urandom(8).hex()  # made for each write; ``secrets.token_urlsafe`` takes six Python calls


class Engine:
    """Folds facts into run states and issues what follows. Any number may run at once.

    Args:
        broker: the connection; it is not closed by the engine.
        names: the namespace.
        settings: how it behaves.
        make_token: returns a new random mark.
        monotonic: returns seconds that never jump.
        archive: what outlives the streams; it is not closed by the engine.

    Attributes:
        metrics: what it counts.

    """

    def __init__(
        self,
        broker: Broker,
        names: Names,
        settings: EngineSettings | None = None,
        make_token: Callable[[], str] = random_token,
        monotonic: Callable[[], float] = time.monotonic,
        archive: Archive | None = None,
    ) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{make_token()[:4]}"
        self._broker = broker
        self._names = names
        self._settings = settings or EngineSettings()
        self._archived = archive is not None
        self.metrics = Metrics()
        store = self._store = RunStore(broker, names, make_token)
        self._functions = FunctionStore(broker, names, make_token)
        waits = WaitStore(broker, names)

        def end_run(run: str, reason: ErrorRecord, compensate: bool) -> Awaitable[bool]:  # noqa: FBT001
            return terminator.end(run, "cancelled", reason, compensate=compensate)

        children = ChildKeeper(broker, names, store, end_run, make_token)
        self._wait_keeper = keeper = WaitKeeper(broker, names, waits, make_token)
        conductor = Conductor(store, Dispatcher(broker, names), keeper, children, self.metrics)
        self._foresight = Foresight(broker, names, self._functions, waits, monotonic)
        events = EventIntake(
            broker, conductor, names, self._functions, waits, children, self._foresight, self._settings.advice
        )
        terminator = Terminator(broker, names, store, conductor, make_token)
        timers = partial(TimerIntake, broker, conductor, names, make_token=make_token)
        self._intakes: tuple[Intake, ...] = (
            events,
            *(JournalIntake(broker, conductor, names, shard) for shard in names.all_shards),
            *(timers(shard, store, terminator, children, clock=ServerClock(monotonic)) for shard in names.all_shards),
        )
        self._canary = Canary(broker, names.engine_canary, self.id)
        self._gauges = Gauges(broker, names, self._functions, waits, self.metrics, archive)
        self._read_model = ReadModel(broker, names, _file(self._settings.read_model))
        duty = Duty(broker, names, "reconcile", self.id, reconciler.DUTY_SECONDS, make_token)
        queues = QueueKeeper(broker, names, self._functions, self._settings.lease_seconds)
        self.reconciler = Reconciler(
            broker, names, conductor, self._read_model, terminator, duty, queues, self._settings.sweep_seconds
        )
        self._takeover = self._make_takeover(make_token)
        census = Census(broker, names)
        history = archive.history if archive is not None else NoHistory()
        self._chores = self._find_chores(store, history, archive, make_token)
        runs = RunReader(broker, names, store, census, RunLists(self._read_model, history), history)
        readers = EventReader(broker, names, store, self._functions, events, history)
        self._status = Status(
            self.id, broker, names, self.problems, retention_ms=self._settings.retention_ms, archive=archive
        )
        administrator = Administrator(broker, names, self._functions, census, self._settings.lease_seconds)
        verbs = self._verbs(runs, readers, administrator)
        verbs["runs.cancel"] = verb(CancelRun, Canceller(terminator, runs).cancel)
        verbs["runs.retry"] = verb(RetryRun, Retrier(broker, names, runs, conductor, make_token).retry)
        self._service = Service(broker, names, verbs)
        self._hears_of_ends: Subscription | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Provision what is missing, then take part.

        Raises:
            WrongShards: the namespace stands with another number of shards; nothing was changed.
            BrokerError: the broker refuses or cannot be reached; nothing goes on then.

        """
        try:
            await self._begin()
        except BaseException:
            await self._leave()
            raise
        kept = self._settings.retention_ms
        _log.info(
            "engine started",
            engine=self.id,
            namespace=self._names.namespace,
            version=__version__,
            retention=format_milliseconds(kept) if kept else "for ever",
        )

    async def _begin(self) -> None:
        for stream in streams(self._names, self._settings.replicas, archived=self._archived):
            await self._broker.ensure_stream(stream)
        for consumer in engine_consumers(self._names):
            await self._broker.ensure_consumer(consumer)
        await self._service.start()
        self._tasks = [asyncio.create_task(intake.run(), name=type(intake).__name__) for intake in self._intakes]
        await self._takeover.start()
        self._hears_of_ends = await self._broker.listen(self._names.every_cancel, self._forget)
        self._tasks.append(asyncio.create_task(self.reconciler.run(), name="reconciler"))
        self._tasks.append(asyncio.create_task(self._takeover.run(), name="takeover"))
        self._tasks += [asyncio.create_task(chore(), name=name) for name, chore in self._chores.items()]

    async def wait(self) -> None:
        """Return when a part of the engine has ended, which none does by itself; raise what ended it."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def problems(self) -> list[str]:
        """Return why this engine is not ready: a write does not work, or nothing is being pulled."""
        if self._stopping:
            return ["the engine stops"]
        idle = [f"nothing is pulled from {intake.stream}" for intake in self._intakes if not intake.is_pulling]
        unwritten = await self._canary.problem()
        return idle if unwritten is None else [*idle, unwritten]

    async def sample(self) -> None:
        """Measure what is waiting."""
        await self._gauges.sample()

    async def stop(self) -> None:
        """Take no more, answer what was asked, and leave. What was half done is done again by another engine."""
        self._stopping = True
        await self._leave()
        _log.info("engine stopped", engine=self.id)

    async def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks = []
            await self._foresight.stop()
            await self._takeover.stop()
            if self._hears_of_ends is not None:
                await self._hears_of_ends.stop()
            await self._service.stop()
        finally:
            self._read_model.close()
            self._wait_keeper.close()

    def _make_takeover(self, make_token: Callable[[], str]) -> Takeover:
        broker, names, settings = self._broker, self._names, self._settings
        return Takeover(
            broker,
            names,
            Duty(broker, names, "take-over", self.id, takeover.DUTY_SECONDS, make_token),
            self.metrics,
            lease_seconds=settings.lease_seconds,
            idle_seconds=settings.sweep_seconds,
        )

    def _find_chores(
        self, store: RunStore, history: History, archive: Archive | None, make_token: Callable[[], str]
    ) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """Return what is to be done beside all else, where the settings want it."""
        broker, names = self._broker, self._names
        chores: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
        if archive is not None:
            duty = Duty(broker, names, "archive", self.id, ARCHIVE_DUTY_SECONDS, make_token)
            chores["archive"] = partial(archive.keep, broker, duty)
            chores["events"] = EventRetention(broker, names, archive).run
        if self._settings.retention_ms:
            duty = Duty(broker, names, "retention", self.id, retention.DUTY_SECONDS, make_token)
            keep_ms = self._settings.retention_ms
            chores["retention"] = Retention(
                broker, names, store, self._read_model, history, duty, keep_ms, make_token
            ).run
        return chores

    def _forget(self, request: Request) -> None:
        """Hear that an engine has ended a run from outside: a timer that is set for it now would stay."""
        self._store.forget(request.subject.rpartition(".")[2])

    def _verbs(self, runs: RunReader, events: EventReader, administrator: Administrator) -> dict[str, Verb]:
        return {
            "engine.status": verb(Empty, self._status.view),
            "events.list": verb(ListEvents, events.page),
            "functions.delete": verb(DeleteFunction, administrator.delete),
            "functions.list": verb(Empty, lambda _: administrator.list_functions()),
            "functions.register": verb(RegisterFunctions, administrator.register),
            "queues.list": verb(Empty, lambda _: administrator.list_queues()),
            "runs.get": verb(GetRun, runs.get),
            "runs.list": verb(ListRuns, runs.page),
            "runs.of_event": verb(RunsOfEvent, events.runs_of),
            "runs.part": verb(GetRunPart, runs.part),
            "runs.steps": verb(GetSteps, runs.steps),
            "workers.list": verb(Empty, lambda _: administrator.list_workers()),
        }


def _file(setting: str) -> Path | str:
    return setting if setting in ("", ":memory:") else Path(setting)
