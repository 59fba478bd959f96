"""What the reconciler brings back when tasks, timers and wake-ups are lost, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from msgspec.structs import replace

import ironflow
from ironflow import Context, Retry, Step
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, Publication
from ironflow.broker.topology import queue_consumers
from ironflow.codec import encode_record
from ironflow_engine import reconciler
from tests.integration.overdue_runs import WITHIN_SECONDS, dies_ending_runs, no_room, purge, seconds_of
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time


async def test_a_sleep_whose_timer_is_lost_ends_all_the_same() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        await ctx.step.sleep("nap", 60)
        return "awake"

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(10)
        await purge(system, system.names.all_shards[0].timers)
        took = await seconds_of(run)
        assert 50 <= took <= 50 + WITHIN_SECONDS
        assert await run.result() == "awake"


async def sleeps(ctx: Context) -> None:
    await ctx.step.sleep("nap", 60)


async def fails_in_a_step(ctx: Context) -> None:
    await ctx.step.run("flaky", fails_before_a_minute)


async def fails_as_a_whole(_: Context) -> None:
    await fails_before_a_minute()


async def fails_before_a_minute() -> None:
    if asyncio.get_running_loop().time() < 60:
        raise ConnectionError


@pytest.mark.parametrize("ahead_hours", [-24, 24])
@pytest.mark.parametrize("handler", [sleeps, fails_in_a_step, fails_as_a_whole])
async def test_a_worker_whose_clock_is_wrong_delays_nothing(
    handler: Callable[[Context], Coroutine[Any, Any, None]], ahead_hours: int
) -> None:
    f = ironflow.function(id="f", retry=Retry(initial_delay="1m", jitter=0))(handler)
    async with running_system(f, workers=0) as system:
        await add_worker_with_a_wrong_clock(system, ahead_hours)
        run = await system.client.start(f)
        await asyncio.sleep(10)
        await purge(system, system.names.all_shards[0].timers)
        assert 40 <= await seconds_of(run) <= 50 + WITHIN_SECONDS
        assert (await run.state()).status == "completed"


async def test_what_is_not_overdue_is_left_alone_however_wrong_the_clock_of_a_worker_is() -> None:
    @ironflow.function(id="child")
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("nap", "2h")

    @ironflow.function(id="parent")
    async def parent(ctx: Context) -> None:
        await asyncio.gather(ctx.step.sleep("nap", "1h"), ctx.step.invoke(child))

    async with running_system(parent, child, workers=0) as system:
        await add_worker_with_a_wrong_clock(system, -24)
        await system.client.start(parent)
        await asyncio.sleep(50 * 60)
        assert (await system.broker.stream_state(system.names.events)).messages == 2
        (engine,) = system.engines
        assert engine.metrics.registry.get_sample_value("ironflow_engine_runs_reconciled_total") == 0


async def add_worker_with_a_wrong_clock(system: System, ahead_hours: int) -> None:
    """Add a worker to a system that has none yet."""
    by_the_server = system.now_ms
    system.now_ms = lambda: by_the_server() + ahead_hours * 3_600_000  # type: ignore[method-assign]
    await system.add_worker()
    system.now_ms = by_the_server  # type: ignore[method-assign]


async def test_a_back_off_whose_timer_is_lost_ends_all_the_same() -> None:
    attempts: list[int] = []

    @ironflow.function(id="f", retry=Retry(initial_delay="1m", jitter=0))
    async def f(ctx: Context) -> Any:
        def fails_once() -> int:
            attempts.append(1)
            if len(attempts) == 1:
                raise ConnectionError
            return len(attempts)

        return await ctx.step.run("flaky", fails_once)

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(10)
        await purge(system, system.names.all_shards[0].timers)
        assert await seconds_of(run) <= 50 + WITHIN_SECONDS
        assert await run.result() == 2


async def test_a_pass_that_is_retried_as_a_whole_needs_no_timer_either() -> None:
    passes: list[int] = []

    @ironflow.function(id="f", retry=Retry(initial_delay="1m", jitter=0))
    async def f(ctx: Context) -> int:
        passes.append(1)
        if len(passes) == 1:
            raise ConnectionError
        return len(passes)

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(10)
        await purge(system, system.names.all_shards[0].timers)
        assert await seconds_of(run) <= 50 + WITHIN_SECONDS


async def test_a_task_that_its_consumer_has_forgotten_is_published_again() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        return ctx.event.data

    async with running_system(f, workers=0) as system:
        worker = await system.add_worker()
        await worker.stop()
        run = await system.client.start(f, "x")
        await asyncio.sleep(1)
        tasks = system.names.all_shards[0].tasks
        async with system.broker.pull(tasks, f.queue) as puller:
            puller.request(1)
            [taken] = await puller.batch(1)
            # It stays in the stream, as with nats-server when a task beside it is purged.
            system.server.stream(tasks).consumer(f.queue).forget(taken.sequence)
        await system.add_worker()
        assert await seconds_of(run) <= WITHIN_SECONDS
        assert await run.result() == "x"


@pytest.mark.parametrize("waits_first", [False, True])
async def test_a_task_that_is_lost_is_published_again(*, waits_first: bool) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        if waits_first:
            await ctx.step.sleep("nap", 5)
        return ctx.event.data

    async with running_system(f, workers=0) as system:
        worker = await system.add_worker()
        if waits_first:
            run = await system.client.start(f, "x")
            await asyncio.sleep(1)
            await worker.stop()
        else:
            await worker.stop()
            run = await system.client.start(f, "x")
        await asyncio.sleep(10)
        await purge(system, system.names.all_shards[0].tasks)
        await system.add_worker()
        assert await seconds_of(run) <= WITHIN_SECONDS
        assert await run.result() == "x"


async def test_a_wake_up_that_is_lost_is_found_in_the_journal() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        await ctx.step.sleep("nap", 60)
        return "awake"

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(50)
        (engine,) = system.engines
        dies_at = f"{system.names.namespace}.journal."

        def strike(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            # The engine dies between the end of the sleep and what follows from it, and its message with it.
            if stage == "after" and subject.startswith(dies_at) and ".step." in subject:
                system.server.interceptor = None
                system.cut_off(engine)
                system.soon(engine.stop(), purge(system, system.names.all_shards[0].timers), system.add_engine())
            return None

        system.server.interceptor = strike
        assert await seconds_of(run) <= 10 + 2 * WITHIN_SECONDS
        assert await run.result() == "awake"


async def test_the_end_of_a_runs_time_is_found_without_its_timer() -> None:
    @ironflow.function(id="f", timeout="1m")
    async def f(ctx: Context) -> None:
        await ctx.step.wait_for_event("never", event="never.comes")

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(10)
        await purge(system, system.names.all_shards[0].timers)
        assert await seconds_of(run) <= 50 + WITHIN_SECONDS
        state = await run.state()
        assert state.error is not None
        assert state.error.type == "RunTimeoutError"


async def test_a_wait_for_an_event_times_out_without_its_timer() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        event = await ctx.step.wait_for_event("approval", event="approved", timeout="1m", on_timeout="none")
        return "nothing" if event is None else "approved"

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(10)
        await purge(system, system.names.all_shards[0].timers)
        assert await seconds_of(run) <= 50 + WITHIN_SECONDS
        assert await run.result() == "nothing"


async def test_a_run_whose_wait_timed_out_fails_although_its_engine_died_before_it_had_ended_it() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.wait_for_event("approval", event="approved", timeout="1m")

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(50)
        await dies_ending_runs(system).wait()
        await system.add_engine()
        assert await seconds_of(run) <= WITHIN_SECONDS
        error = (await run.state()).error
        assert error is not None
        assert error.type == "WaitTimeoutError"
        missed = "step 'approval': no event 'approved' that it waits for came within 1m"
        assert error.message == f"waitForEvent timed out: {missed}"
        assert await system.subjects("outcome", run) == ["outcome.0", "outcome.1"]


@pytest.mark.parametrize("timeout", ["1h", None])
async def test_a_run_whose_wait_timed_out_fails_also_where_another_pass_came_first(timeout: str | None) -> None:
    @ironflow.function(id="child")
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("nap", "3h")

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        async def wakes() -> None:
            await ctx.step.wait_for_event("first", event="first", timeout="1h")
            await ctx.step.invoke(child, timeout=timeout)

        await asyncio.gather(ctx.step.wait_for_event("approval", event="approved", timeout="1m"), wakes())

    async with running_system(f, child) as system:
        run = await system.client.start(f)
        await asyncio.sleep(50)
        await dies_ending_runs(system).wait()
        await system.add_engine()
        await system.client.publish("first")
        assert await seconds_of(run) <= WITHIN_SECONDS
        error = (await run.state()).error
        assert error is not None
        assert error.type == "WaitTimeoutError"


async def test_a_run_that_rests_although_it_waits_for_nothing_is_looked_at_too() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.wait_for_event("approval", event="approved", timeout="1m")

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(50)
        await dies_ending_runs(system).wait()
        # As a pass of an earlier version left it that had found the time-out.
        state = replace(await system.run_state(run.id), due_ms=0)
        await system.broker.publish(Publication(subject=system.names.run_key(run.id), payload=encode_record(state)))
        await system.add_engine()
        assert await seconds_of(run) <= WITHIN_SECONDS


async def test_a_task_that_is_lost_is_published_again_however_many_older_runs_are_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconciler, "_MOST", 10)

    @ironflow.function(id="slow", queue="slow")
    async def slow(ctx: Context) -> None:
        await ctx.step.run("work", asyncio.sleep, 3_600)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None: ...

    async with running_system(slow, f, workers=0) as system:
        await system.add_worker("slow", concurrency=1)
        await (await system.add_worker("default", functions=("f",))).stop()
        for _ in range(35):
            await system.client.start(slow)
        await asyncio.sleep(20)
        run = await system.client.start(f)
        await asyncio.sleep(1)
        assert await system.broker.purge(system.names.all_shards[0].tasks, system.names.tasks_of_run("default", run.id))
        await system.add_worker("default", functions=("f",))
        assert await seconds_of(run) <= WITHIN_SECONDS + 3 * reconciler.SWEEP_SECONDS


async def test_a_sleep_whose_timer_is_lost_ends_however_many_runs_are_overdue_that_nothing_can_be_done_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconciler, "_MOST", 10)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", 60)

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(10)
        await purge(system, system.names.all_shards[0].timers)
        for number in range(35):
            state = replace(await system.run_state(run.id), id=f"nothing-recorded-{number}", due_ms=1)
            await system.broker.publish(
                Publication(subject=system.names.run_key(state.id), payload=encode_record(state))
            )
        assert await seconds_of(run) <= 50 + WITHIN_SECONDS + 3 * reconciler.SWEEP_SECONDS


async def test_a_load_whose_tasks_and_timers_are_all_lost_again_and_again_completes() -> None:
    bodies: list[str] = []

    @ironflow.function(id="f", retry=Retry(initial_delay=2, jitter=0))
    async def f(ctx: Context) -> int:
        def flaky(name: str) -> None:
            bodies.append(name)
            if bodies.count(name) < 2:
                raise ConnectionError

        async def branch(item: int, step: Step, index: int) -> int:
            await step.sleep("nap", 3 + index)
            await step.run("work", flaky, f"{ctx.run.id} {index}")
            return item

        total = sum(await ctx.step.map("all", [1, 2, 3], branch))
        await ctx.step.sleep("rest", 20)
        return total

    async with running_system(f, engines=2, workers=2, concurrency=5) as system:
        runs = [await system.client.start(f) for _ in range(40)]

        async def lose() -> None:
            for _ in range(6):
                await asyncio.sleep(7)
                await purge(system, system.names.all_shards[0].tasks, system.names.all_shards[0].timers)

        system.soon(lose())
        assert [await run.result("30m") for run in runs] == [6] * 40


async def test_what_fell_due_while_there_was_no_room_goes_on_when_there_is() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        await ctx.step.sleep("nap", 30)
        return "awake"

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(10)
        await purge(system, system.names.all_shards[0].timers)
        system.server.interceptor = no_room
        await asyncio.sleep(120)
        assert (await run.state()).status == "waiting"
        system.server.interceptor = None
        assert await seconds_of(run) <= WITHIN_SECONDS


async def test_nothing_is_done_about_runs_that_are_as_they_should_be() -> None:
    @ironflow.function(id="f", timeout="1h")
    async def f(ctx: Context) -> None:
        await ctx.step.run("work", asyncio.sleep, 100)
        await ctx.step.sleep("nap", 100)
        await ctx.step.wait_for_event("approval", event="approved", timeout=100, on_timeout="none")

    async with running_system(f) as system:
        swept: list[int] = []
        (engine,) = system.engines
        sweep = engine.reconciler.sweep

        async def counted() -> int:
            swept.append(await sweep())
            return swept[-1]

        engine.reconciler.sweep = counted  # type: ignore[method-assign]
        assert await seconds_of(await system.client.start(f)) == pytest.approx(300, abs=2)
        assert len(swept) > 30
        assert set(swept) == {0}


async def test_one_engine_at_a_time_sweeps_and_another_goes_on_when_it_dies() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", 60)

    async with running_system(f, engines=2) as system:
        run = await system.client.start(f)
        await asyncio.sleep(30)
        first = next(iter(system.engines))
        await system.kill(first)
        await purge(system, system.names.all_shards[0].timers)
        assert await seconds_of(run) <= 30 + WITHIN_SECONDS


async def test_an_engine_that_starts_beside_another_gives_a_queues_consumer_its_settings_back() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None: ...

    async with running_system(f) as system:
        await asyncio.sleep(30)
        [wanted] = queue_consumers(system.names, "default")
        await system.broker.ensure_consumer(replace(wanted, max_ack_pending=1))
        await system.add_engine()
        await asyncio.sleep(WITHIN_SECONDS)
        tasks = system.server.stream(system.names.all_shards[0].tasks)
        assert tasks.consumer("default").spec == wanted
