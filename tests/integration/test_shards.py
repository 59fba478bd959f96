"""A divided namespace does all that a whole one does, and nobody uses one who was told another number of shards."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from typing import Any

import pytest

import ironflow
from ironflow import Context, NonRetryableError, Retry
from ironflow.broker.local import LocalServer
from ironflow.broker.protocol import NoSuchStream, WrongShards
from ironflow.client import Client
from ironflow.errors import DefinitionError, RunNotFoundError
from ironflow.handles import RunHandle
from ironflow.names import Names, bucket_stream
from ironflow_engine.engine import Engine
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

SHARDS = 3
RUNS = 12
ONCE = Retry(max_attempts=1)


class Functions:
    """Some of everything; what bodies and undos have done stands in *done*."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.broken = True

        @ironflow.function(id="child")
        async def child(ctx: Context[int]) -> int:
            await ctx.step.sleep("nap", "10s")
            return ctx.event.data * 2

        @ironflow.function(id="all", retry=Retry(max_attempts=3, initial_delay="5s", jitter=0))
        async def everything(ctx: Context[int]) -> int:
            number = await ctx.step.run("first", self._body, f"first {ctx.run.id}", ctx.event.data)
            await ctx.step.run("second", self._fail_once, ctx.run.id)
            await ctx.step.sleep("nap", "1m")
            event = await ctx.step.wait_for_event("word", event="word", match="of", value=number, timeout="1h")
            doubled: int = await ctx.step.invoke("child", number)
            return doubled + int(event.data["plus"])

        @ironflow.function(id="saga", retry=ONCE)
        async def saga(ctx: Context) -> None:
            await ctx.step.run("book", self._body, f"book {ctx.run.id}", None)
            ctx.step.compensate("book", self._body, f"undo {ctx.run.id}", None)
            if self.broken:
                raise NonRetryableError("no")

        @ironflow.function(id="sleeper")
        async def sleeper(ctx: Context) -> None:
            await ctx.step.sleep("nap", "1h")

        @ironflow.function(id="slow")
        async def slow(ctx: Context) -> str:
            return await ctx.step.run("work", self._slow_body, ctx.run.id)

        self.everything, self.saga, self.sleeper, self.slow = everything, saga, sleeper, slow
        self.all = (child, everything, saga, sleeper, slow)

    async def _body(self, what: str, result: object) -> object:
        self.done[what] += 1
        return result

    async def _fail_once(self, run: str) -> None:
        self.done[f"second {run}"] += 1
        if self.done[f"second {run}"] == 1:
            raise RuntimeError("not yet")

    async def _slow_body(self, run: str) -> str:
        self.done[f"slow {run}"] += 1
        await asyncio.sleep(5)
        return "done"


@pytest.fixture
def functions() -> Functions:
    return Functions()


async def started(system: System, function: Any) -> list[RunHandle[Any]]:
    """Start runs, of which each shard has some."""
    runs = [await system.client.start(function, number, id=f"run-{number}") for number in range(RUNS)]
    assert {system.names.shard_of(run.id) for run in runs} == set(system.names.all_shards)
    return runs


async def left(system: System, run: str) -> list[str]:
    """Return the subjects of all that any stream has of a run."""
    streams = (*system.names.shard_streams, bucket_stream(system.names.runs_bucket))
    return [
        message.subject
        for stream in streams
        async for page in system.broker.read(stream, ">")
        for message in page
        if run in message.subject.split(".")
    ]


async def test_steps_retries_sleeps_waits_and_children_work_in_every_shard(functions: Functions) -> None:
    async with running_system(*functions.all, engines=2, workers=2, shards=SHARDS) as system:
        runs = await started(system, functions.everything)
        await asyncio.sleep(90)
        for number in range(RUNS):
            await system.client.publish("word", {"of": number, "plus": 100})
        assert [await run.result("5m") for run in runs] == [2 * number + 100 for number in range(RUNS)]
        assert {functions.done[f"first {run.id}"] for run in runs} == {1}
        assert {functions.done[f"second {run.id}"] for run in runs} == {2}
        listed = [run.id async for run in system.client.runs(status="completed", function="all")]
        assert sorted(listed) == sorted(run.id for run in runs)
        shards = [await system.broker.stream_state(shard.journal) for shard in system.names.all_shards]
        assert all(shard.messages > 10 for shard in shards)


async def test_failed_runs_are_undone_and_retried_in_every_shard(functions: Functions) -> None:
    async with running_system(*functions.all, shards=SHARDS) as system:
        runs = await started(system, functions.saga)
        ends = [await run.wait("1m") for run in runs]
        assert {(end.status, end.compensation) for end in ends} == {("failed", "completed")}
        assert {functions.done[f"undo {run.id}"] for run in runs} == {1}
        functions.broken = False
        for run in runs:
            await run.retry()
        assert {(await run.wait("1m")).status for run in runs} == {"completed"}
        assert {functions.done[f"book {run.id}"] for run in runs} == {2}


async def test_cancelled_runs_leave_nothing_behind_in_any_shard(functions: Functions) -> None:
    async with running_system(*functions.all, shards=SHARDS) as system:
        runs = await started(system, functions.sleeper)
        await asyncio.sleep(10)
        assert [await run.cancel() for run in runs] == [True] * RUNS
        assert {(await run.wait("1m")).status for run in runs} == {"cancelled"}
        for stream in [stream for shard in system.names.all_shards for stream in (shard.tasks, shard.timers)]:
            assert (await system.broker.stream_state(stream)).messages == 0


async def test_runs_are_deleted_from_every_shard_after_their_retention(functions: Functions) -> None:
    async with running_system(*functions.all, retention=3600, shards=SHARDS) as system:
        runs = await started(system, functions.slow)
        for run in runs:
            await run.wait("1m")
        assert all([await left(system, run.id) for run in runs])
        await asyncio.sleep(3700)
        assert [await left(system, run.id) for run in runs] == [[]] * RUNS
        assert [run.id async for run in system.client.runs()] == []
        with pytest.raises(RunNotFoundError):
            await runs[0].state()


async def test_the_tasks_of_a_dead_worker_are_handed_on_in_every_shard(functions: Functions) -> None:
    async with running_system(*functions.all, shards=SHARDS) as system:
        runs = await started(system, functions.slow)
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        await system.kill(next(iter(system.workers)))
        await system.add_worker()
        assert [await run.result("1m") for run in runs] == ["done"] * RUNS
        # The leases of the dead worker would have ended later.
        assert asyncio.get_running_loop().time() - began < 8
        assert {functions.done[f"slow {run.id}"] for run in runs} == {2}


@pytest.mark.parametrize("lost", ["tasks", "timers"])
async def test_what_a_shard_has_lost_is_found(functions: Functions, lost: str) -> None:
    async with running_system(*functions.all, shards=SHARDS) as system:
        if lost == "tasks":
            await system.kill(next(iter(system.workers)))
        runs = await started(system, functions.slow if lost == "tasks" else functions.sleeper)
        await asyncio.sleep(10)
        for shard in system.names.all_shards:
            await system.broker.purge(getattr(shard, lost), ">")
        if lost == "tasks":
            await system.add_worker()
        assert {(await run.wait("3h")).status for run in runs} == {"completed"}


async def test_queues_count_the_tasks_of_all_shards(functions: Functions) -> None:
    async with running_system(*functions.all, concurrency=SHARDS, shards=SHARDS) as system:
        runs = await started(system, functions.slow)
        await asyncio.sleep(1)
        (queue,) = (await system.client.engine.queues()).queues
        assert (queue.waiting, queue.running) == (RUNS - SHARDS, SHARDS)
        (engine,) = system.engines
        await engine.sample()
        sample = engine.metrics.registry.get_sample_value
        assert sample("ironflow_engine_queue_waiting", {"queue": "default"}) == RUNS - SHARDS
        assert sample("ironflow_engine_queue_running", {"queue": "default"}) == SHARDS
        for run in runs:
            await run.wait("1m")


async def test_no_worker_has_more_passes_at_a_time_than_it_was_told(functions: Functions) -> None:
    async with running_system(*functions.all, concurrency=5, shards=SHARDS) as system:
        (worker,) = system.workers
        runs = await started(system, functions.slow)
        await asyncio.sleep(1)
        (view,) = (await system.client.engine.workers()).workers
        assert 3 <= view.running <= 5
        for run in runs:
            await run.wait("1m")
        assert await worker.problems() == []


async def test_a_worker_with_fewer_slots_than_shards_is_refused(functions: Functions) -> None:
    async with running_system(*functions.all, workers=0, shards=SHARDS) as system:
        with pytest.raises(DefinitionError, match=r"1 queues in 3 shards need a concurrency of at least 3: .* got 2"):
            await system.add_worker(concurrency=2)


# Told another number


@pytest.mark.parametrize(("standing", "told"), [*itertools.permutations([1, 2, 3], 2)])
async def test_an_engine_that_was_told_another_number_does_not_start_and_makes_nothing(
    functions: Functions, standing: int, told: int
) -> None:
    async with running_system(*functions.all, shards=standing) as system:
        broker = system.server.connect()
        engine = Engine(broker, Names("test", told))
        with pytest.raises(WrongShards, match=rf"told --shards {told}, .* has {standing}\. .*_SHARDS={standing}"):
            await engine.start()
        await engine.stop()
        for stream in set(Names("test", told).shard_streams) - set(system.names.shard_streams):
            with pytest.raises(NoSuchStream):
                await broker.stream_state(stream)
        await broker.close()
        assert (await system.run(functions.slow)).status == "completed"


@pytest.mark.parametrize("without_engine", [False, True])
@pytest.mark.parametrize(("standing", "told"), [(1, 3), (3, 1), (2, 3), (3, 2)])
async def test_a_worker_that_was_told_another_number_takes_and_writes_nothing(
    functions: Functions, standing: int, told: int, *, without_engine: bool
) -> None:
    async with running_system(*functions.all, shards=standing) as system:
        (right,) = system.workers
        await system.kill(right)
        runs = await started_in(system, functions.slow)
        if without_engine:
            (engine,) = system.engines
            await system.kill(engine)
        before = await stored(system)
        system.names = Names("test", told)
        wrong = await system.add_worker() if without_engine else await added_without_waiting(system)
        refused = asyncio.create_task(wrong.wait())
        await asyncio.wait([refused], timeout=60)
        system.names = Names("test", standing)
        if without_engine and 1 in (standing, told):
            # It finds no stream that it could take from, and hears from an engine what is wrong.
            assert not refused.done()
            await system.add_engine()
        with pytest.raises(WrongShards, match=f"start all engines and workers with --shards {standing}"):
            await refused
        assert await stored(system) == before
        await system.kill(wrong)
        if not system.engines:
            await system.add_engine()
        await system.add_worker()
        assert [await run.result("5m") for run in runs] == ["done"] * RUNS
        assert {functions.done[f"slow {run.id}"] for run in runs} == {1}


async def started_in(system: System, function: Any) -> list[RunHandle[Any]]:
    runs = [await system.client.start(function, None, id=f"run-{number}") for number in range(RUNS)]
    await asyncio.sleep(5)
    return runs


async def added_without_waiting(system: System) -> Any:
    """Start a worker that an engine will not register."""
    engines, system.engines = system.engines, {}
    try:
        return await system.add_worker()
    finally:
        system.engines = engines


async def stored(system: System) -> dict[str, int]:
    """Return how many messages the streams of shards have ever held, of those that there are."""
    found: dict[str, int] = {}
    for stream in {stream for count in (1, 2, 3) for stream in Names("test", count).shard_streams}:
        with contextlib.suppress(NoSuchStream):
            found[stream] = (await system.broker.stream_state(stream)).last_sequence
    return found


async def test_of_two_engines_that_are_told_different_numbers_at_once_one_starts() -> None:
    server = LocalServer()
    brokers = [server.connect() for _ in range(3)]
    engines = [Engine(broker, Names("test", count)) for broker, count in zip(brokers, (2, 3, 3), strict=True)]
    found = await asyncio.gather(*(engine.start() for engine in engines), return_exceptions=True)
    assert {type(outcome) for outcome in found} == {type(None), WrongShards}
    client = Client(brokers[0], Names("test"))
    assert (await client.engine.status()).problems == ()
    for engine, broker in zip(engines, brokers, strict=True):
        await engine.stop()
        await broker.close()
