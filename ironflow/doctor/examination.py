"""Finds out what the checks judge. What cannot be learned is a finding too, and ends nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec

from ironflow.broker.nats.inspector import Inspector
from ironflow.broker.nats.settings import API_PREFIX
from ironflow.broker.protocol import Broker, BrokerError, Denied, NoSuchStream, StoredMessage, Unavailable
from ironflow.broker.topology import engine_consumers, queue_consumers, streams
from ironflow.clock import now_ms, parse_when
from ironflow.codec import decode_record
from ironflow.doctor import bounds, fleet, monitor, replicas, server, stuck, topology
from ironflow.doctor.access import check_access
from ironflow.doctor.finding import Finding
from ironflow.doctor.keeping import check_events, check_keeping, check_writes
from ironflow.engine_api import EngineApi
from ironflow.errors import EngineUnavailableError, IronflowError, SerializationError
from ironflow.messages import EngineView, RunView, WorkerCensus, WorkerView
from ironflow.names import Names, bucket_stream
from ironflow.records import TERMINAL, FunctionRecord, RunState, RunStatus
from ironflow.shards import Shard

MOST_RUNS = 500
"""How many active runs of each status are looked at; more would make the doctor a load of its own."""
MOST_TIMERS = 100_000
"""Up to this many all timers are looked at, which one request can list; else those due in the last minutes."""
CENSUS_SECONDS = 0.3
ENGINE_SECONDS = 4.0
"""Where the server takes no write, an engine answers after the two seconds that its canary is given."""

_AT_ONCE = 50

Findings = Finding | list[Finding]
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Examination:
    """Examines one namespace.

    Args:
        broker: the connection.
        names: the namespace.
        nats_urls: the servers that it may have connected to.
        monitor_url: the server's monitoring endpoint, where somebody named one.
        api_prefix: what stands in place of "$JS.API" where JetStream is in another account.

    """

    def __init__(
        self,
        broker: Broker,
        names: Names,
        *,
        nats_urls: Iterable[str] = (),
        monitor_url: str | None = None,
        api_prefix: str = API_PREFIX,
    ) -> None:
        self._broker = broker
        self._names = names
        self._engine = EngineApi(broker, names, timeout_seconds=ENGINE_SECONDS)
        self._inspector = Inspector(broker, api_prefix)
        self._nats_urls = tuple(nats_urls)
        self._monitor_url = monitor_url
        self._strange_functions: set[str] = set()
        self._strange_workers: set[bytes] = set()

    async def findings(self) -> list[Finding]:
        """Make all checks; in an order that leads from causes to consequences."""
        checks: tuple[tuple[str, Callable[[], Awaitable[Findings]]], ...] = (
            ("server", self._server),
            ("clock", self._clock),
            ("replicas", self._replicas),
            ("streams", self._streams),
            ("limits", self._limits),
            ("consumers", self._consumers),
            ("engine", self._engines),
            ("workers", self._workers),
            ("versions", self._versions),
            ("stuck runs", self._runs),
            ("timers", self._timers),
        )
        refused: dict[str, str] = {}
        await self._learn_shards()
        found = await asyncio.gather(*(_whatever_happens(name, check, refused) for name, check in checks))
        unreadable = fleet.check_readable(len(self._strange_functions), len(self._strange_workers))
        return [check_access(refused), *(finding for findings in found for finding in findings), *unreadable]

    async def _learn_shards(self) -> None:
        """Find out how the namespace is divided; where that cannot be, the checks of what is divided say so."""
        with contextlib.suppress(BrokerError, TimeoutError, msgspec.MsgspecError, ValueError):
            shards = await self._inspector.shards(self._names.events)
            self._names = msgspec.structs.replace(self._names, shards=shards)

    async def _server(self) -> list[Finding]:
        connected = self._broker.server
        monitoring = await monitor.look(self._monitor_url, self._nats_urls, connected.id)
        try:
            storage = await self._inspector.storage()
        except Unavailable:
            storage = None
        return [
            server.check_version(connected.version),
            server.check_sync(monitoring),
            server.check_storage(storage, monitoring),
        ]

    async def _clock(self) -> Finding:
        before = now_ms()
        try:
            there = await self._broker.server_time_ms(self._names.all_shards[0].tasks)
        except Denied:
            raise  # no engine helps against that
        except BrokerError as error:
            text = f"the server's time is not known: {error}"
            return Finding(check="clock", level="unknown", text=text, advice="start an engine: it makes streams")
        after = now_ms()
        return server.check_clock(there - (before + after) / 2, (after - before) / 2)

    async def _replicas(self) -> list[Finding]:
        names = [spec.name for spec in streams(self._names)]
        found = await asyncio.gather(*map(self._inspector.placement, names))
        return replicas.check_replicas(dict(zip(names, found, strict=True)))

    async def _streams(self) -> list[Finding]:
        engine = await self._answering_engine()
        specs = streams(self._names, archived=engine is not None and engine.archive is not None)
        found = await asyncio.gather(*(self._inspector.stream_differences(spec) for spec in specs))
        standing = topology.check_streams(dict(zip(specs, found, strict=True)))
        return [*standing, *check_events(engine, for_ever=await self._keeps_events_for_ever())]

    async def _limits(self) -> list[Finding]:
        names = [spec.name for spec in streams(self._names)]
        found = await asyncio.gather(*map(self._inspector.bounds, names))
        return bounds.check_bounds(dict(zip(names, found, strict=True)), self._broker.server.max_payload)

    async def _keeps_events_for_ever(self) -> bool:
        spec = msgspec.structs.replace(streams(self._names)[0], age_stays_lifted=False)
        differences = await self._inspector.stream_differences(spec) or {}
        return "max_age" in differences and not differences["max_age"][0]

    async def _consumers(self) -> list[Finding]:
        queues = sorted({function.queue for function in await self._functions()})
        of_queues = (consumer for queue in queues for consumer in queue_consumers(self._names, queue))
        specs = (*engine_consumers(self._names), *of_queues)
        found = await asyncio.gather(*(self._inspector.consumer_differences(spec) for spec in specs))
        return topology.check_consumers(dict(zip(specs, found, strict=True)))

    async def _engines(self) -> list[Finding]:
        engine = await self._answering_engine()
        if engine is None:
            return [fleet.check_engine(None)]
        return [fleet.check_engine(engine), *check_writes(engine), *check_keeping(engine)]

    async def _workers(self) -> list[Finding]:
        return fleet.check_workers(await self._functions(), await self._answering_workers())

    async def _versions(self) -> Finding:
        return fleet.check_versions(await self._answering_engine(), await self._answering_workers())

    async def _functions(self) -> list[FunctionRecord]:
        """Return the registered functions; from their bucket, so that no engine is needed."""
        stream = bucket_stream(self._names.functions_bucket)
        records: list[FunctionRecord] = []
        try:
            await self._broker.stream_state(stream)  # reading would wait for a stream that does not exist
            async for page in self._broker.read(stream, f"$KV.{self._names.functions_bucket}.>"):
                records += self._read_functions(page)
        except NoSuchStream:
            return []
        return [record for record in records if not record.deleted]

    def _read_functions(self, page: Sequence[StoredMessage]) -> Iterator[FunctionRecord]:
        """Yield the functions of which all can be read; the others are noted."""
        for message in page:
            try:
                if message.payload:
                    yield decode_record(FunctionRecord, message.payload)
            except SerializationError:
                self._strange_functions.add(message.subject)

    async def _answering_engine(self) -> EngineView | None:
        try:
            return await self._engine.status()
        except EngineUnavailableError:
            return None

    async def _answering_workers(self) -> list[WorkerView]:
        answers = await self._broker.survey(self._names.worker_census, b"", CENSUS_SECONDS)
        workers: list[WorkerView] = []
        for answer in answers:
            try:
                workers.append(decode_record(WorkerCensus, answer).worker)
            except SerializationError:
                self._strange_workers.add(answer)
        return workers

    async def _runs(self) -> Finding:
        statuses: tuple[RunStatus, ...] = ("queued", "running")
        try:
            listed = [await self._active(status) for status in statuses]
        except EngineUnavailableError as error:
            text = f"not known, since the active runs cannot be listed: {error}"
            advice = "see to what is said of the engine and of streams, then run it again"
            return Finding(check="stuck runs", level="unknown", text=text, advice=advice)
        runs = {run.id: run for page in listed for run in page}
        now = await self._broker.server_time_ms(self._names.all_shards[0].tasks)
        old = [run for run in runs.values() if parse_when(run.started_at) < now - stuck.STUCK_SECONDS * 1000]
        stands = await _in_turns(old, lambda run: self._stands_still(run, now))
        return stuck.check_runs(
            [run.id for run, still in zip(old, stands, strict=True) if still],
            len(runs),
            all_seen=all(len(page) < MOST_RUNS for page in listed),
        )

    async def _active(self, status: RunStatus) -> list[RunView]:
        return [run async for run in self._engine.runs(status=status, limit=MOST_RUNS)]

    async def _stands_still(self, run: RunView, now: int) -> bool:
        """Tell whether a run should have a task, has none, and nothing has changed for a while."""
        bucket = bucket_stream(self._names.runs_bucket)
        message = await self._broker.last(bucket, self._names.run_key(run.id))
        if message is None or message.time_ms > now - stuck.STUCK_SECONDS * 1000:
            return False
        state = decode_record(RunState, message.payload)
        if state.status in TERMINAL or state.status == "waiting":
            return False
        task = self._names.task(state.queue, state.id, state.number)
        return await self._broker.last(self._names.shard_of(state.id).tasks, task) is None

    async def _timers(self) -> Finding:
        overdue = [run for shard in self._names.all_shards for run in await self._overdue(shard)]
        return stuck.check_timers(overdue)

    async def _overdue(self, shard: Shard) -> list[str]:
        """Return the runs of the timers of a shard that are overdue, one for each of them."""
        try:
            stored = (await self._broker.stream_state(shard.timers)).messages
        except NoSuchStream:
            return []
        now = await self._broker.server_time_ms(shard.timers)
        filters = [shard.every_timer] if stored <= MOST_TIMERS else stuck.recent_timers(shard, now)
        found = await _in_turns(filters, lambda each: self._inspector.subjects(shard.timers, each))
        return stuck.overdue_runs([subject for page in found for subject in page], now)


async def _whatever_happens(
    name: str, check: Callable[[], Awaitable[Findings]], refused: dict[str, str]
) -> list[Finding]:
    try:
        found = await check()
    except Denied as error:
        refused[name] = str(error)
        return [Finding(check=name, level="unknown", text="could not be checked: this identity may not")]
    except (BrokerError, IronflowError, TimeoutError, msgspec.MsgspecError) as error:
        text = f"could not be checked: {str(error) or type(error).__name__}"
        advice = "see whether this account may use JetStream's API, then run it again"
        return [Finding(check=name, level="unknown", text=text, advice=advice)]
    return found if isinstance(found, list) else [found]


async def _in_turns(items: Sequence[Item], ask: Callable[[Item], Awaitable[Answer]]) -> list[Answer]:
    """Return what *ask* returns for each item, so many at a time that a server does not notice."""
    answers: list[Answer] = []
    for start in range(0, len(items), _AT_ONCE):
        answers += await asyncio.gather(*(ask(item) for item in items[start : start + _AT_ONCE]))
    return answers
