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
from ironflow.broker.protocol import BrokerError, Publication, StorageFull, Unavailable
from ironflow.codec import decode_record, encode_record
from ironflow.handles import RunHandle
from ironflow.messages import FunctionsPage, RegisterFunctions, Reply
from ironflow.names import ENGINE_CONSUMER
from ironflow.records import FunctionRecord, OutcomeRecord, RunState
from ironflow_engine import conductor, reconciler
from ironflow_engine.facts import Decision, Fact, StateReviewed, WaitRecorded
from ironflow_engine.overdue import RunJournal
from ironflow_engine.reducer import decide
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

WITHIN_SECONDS = 35


async def purge(system: System, *streams: str) -> None:
    """Lose every task, or every timer, fired or not."""
    for stream in streams:
        await system.broker.purge(stream, ">")


def no_room(stage: Stage, verb: str, subject: str) -> BrokerError | None:
    return StorageFull("no room") if stage == "before" and verb == "publish" else None


async def seconds_of(run: RunHandle[Any]) -> float:
    """Return how long a run takes from now on."""
    begun = asyncio.get_running_loop().time()
    await run.wait("3h")
    return asyncio.get_running_loop().time() - begun


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


def dies_ending_runs(system: System) -> asyncio.Event:
    """Have the engine die before it records how a run has ended, and all timers with it; return what tells of that."""
    dead = asyncio.Event()

    def strike(stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if (stage, verb) != ("before", "publish") or ".outcome." not in subject:
            return None
        system.server.interceptor = None
        (engine,) = system.engines
        system.cut_off(engine)
        system.soon(engine.stop(), purge(system, system.names.all_shards[0].timers))
        dead.set()
        return Unavailable("killed")

    system.server.interceptor = strike
    return dead


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


@pytest.mark.parametrize("rest", ["wait.x.y", "wait.x", "try.x.1", "try.x", "step.x", "closed.x.y", "began.x.y"])
@pytest.mark.parametrize("payload", [b"{}", b'{"name": "x", "kind": "sleep", "token": "x", "delay_ms": 1}'])
async def test_a_record_that_nobody_can_read_keeps_no_other_run_from_going_on(rest: str, payload: bytes) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", 60)

    async with running_system(f) as system:
        poisoned, run = await system.client.start(f), await system.client.start(f)
        await asyncio.sleep(5)
        subject = f"{system.names.journal_of_run('default', poisoned.id).removesuffix('>')}{rest}"
        await system.broker.publish(Publication(subject=subject, payload=payload))
        await purge(system, system.names.all_shards[0].timers)
        assert await seconds_of(run) <= 60 + WITHIN_SECONDS
        state = await system.broker.consumer_state(system.names.all_shards[0].journal, ENGINE_CONSUMER)
        assert (state.pending, state.ack_pending) == (0, 0)


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("payload", [b"", b"{}", b'{"token": "x", "status": 7}'])
async def test_a_run_whose_wait_has_an_end_that_nobody_can_read_goes_on_and_fails(
    payload: bytes, *, is_lost: bool
) -> None:
    @ironflow.function(id="child")
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        if ctx.event.data == "invoke":
            await ctx.step.invoke(child, timeout="1m")
        await ctx.step.sleep("nap", 60)

    async with running_system(f, child) as system:
        runs = {"nap": await system.client.start(f), "child": await system.client.start(f, "invoke")}
        await asyncio.sleep(5)
        for step, run in runs.items():
            subject = system.names.journal_step("default", run.id, step)
            await system.broker.publish(Publication(subject=subject, payload=payload))
        timers = system.names.all_shards[0].timers
        if is_lost:
            await purge(system, timers)
        for run in runs.values():
            error = (await run.wait("3h")).error
            assert error is not None
            assert error.type == "TaskUnreadable"
        assert (await system.broker.consumer_state(timers, ENGINE_CONSUMER)).ack_pending == 0


@pytest.mark.parametrize("rest", ["wait.x.y", "wait.x", "try.x"])
async def test_a_run_whose_timer_is_lost_goes_on_and_fails_where_a_record_of_it_cannot_be_read(rest: str) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", 60)

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(5)
        subject = f"{system.names.journal_of_run('default', run.id).removesuffix('>')}{rest}"
        await system.broker.publish(Publication(subject=subject, payload=b"{}"))
        await purge(system, system.names.all_shards[0].timers)
        error = (await run.wait("3h")).error
        assert error is not None
        assert error.type == "TaskUnreadable"


@pytest.mark.parametrize("due_ms", [2**63 - 1, 2**63, 10**30])
async def test_a_run_that_says_it_rests_for_ever_stops_neither_lists_nor_others(due_ms: int) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", 60)

    @ironflow.function(id="hostile")
    async def hostile(ctx: Context) -> None:
        await ctx.step.run("work", asyncio.sleep, 3_600)

    async with running_system(f, hostile) as system:
        poisoned, run = await system.client.start(hostile), await system.client.start(f)
        await asyncio.sleep(5)
        outcome = OutcomeRecord(number=0, status="suspended", token="x", seen=10**6, due_ms=due_ms)
        subject = system.names.journal_outcome("default", poisoned.id, 0)
        await system.broker.publish(Publication(subject=subject, payload=encode_record(outcome)))
        await purge(system, system.names.all_shards[0].timers)
        assert await seconds_of(run) <= 60 + WITHIN_SECONDS
        assert {each.id async for each in system.client.runs()} == {run.id, poisoned.id}


@pytest.mark.parametrize("timeout_ms", [-1, 0, 366 * 86_400_000 + 1, 2**63])
async def test_a_function_whose_runs_could_take_longer_than_any_may_is_not_registered(timeout_ms: int) -> None:
    async with running_system(workers=0) as system:
        request = RegisterFunctions(functions=(FunctionRecord(id="f", queue="q", timeout_ms=timeout_ms),))
        answer = await system.broker.request(system.names.api("functions.register"), encode_record(request), 10.0)
        failure = decode_record(Reply, answer).failure
        assert failure is not None
        assert failure.type == "BadRequest"
        assert "timeout" in failure.message
        assert await system.client.engine.functions() == FunctionsPage(functions=())


@pytest.mark.parametrize("fact", [WaitRecorded, StateReviewed])
async def test_a_run_about_which_the_engine_makes_a_mistake_keeps_no_other_from_going_on(
    fact: type[Fact], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistaken: set[str] = set()

    def decides(state: RunState | None, about: Fact) -> Decision:
        if about.run in mistaken and isinstance(about, fact):
            raise AssertionError(about.run)
        return decide(state, about)

    monkeypatch.setattr(conductor, "decide", decides)

    @ironflow.function(id="f", timeout="1m")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", "2m" if ctx.event.data == "too long" else 50)

    async with running_system(f) as system:
        runs = [await system.client.start(f, data) for data in ("a nap", "too long") for _ in range(20)]
        await asyncio.sleep(5)
        mistaken |= {run.id for run in runs[::7]}
        await purge(system, system.names.all_shards[0].timers)
        for run in runs:
            if run.id not in mistaken:
                assert await seconds_of(run) <= 60 + WITHIN_SECONDS


async def test_a_run_that_the_engine_fails_to_look_at_keeps_no_other_from_going_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mistaken: set[str] = set()
    facts = RunJournal.facts

    def looks(journal: RunJournal, now_ms: int) -> list[Fact]:
        found = facts(journal, now_ms)
        if any(fact.run in mistaken for fact in found):
            raise AssertionError
        return found

    monkeypatch.setattr(RunJournal, "facts", looks)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", 60)

    async with running_system(f) as system:
        mistaken.add((await system.client.start(f)).id)
        run = await system.client.start(f)
        await asyncio.sleep(5)
        await purge(system, system.names.all_shards[0].timers)
        assert await seconds_of(run) <= 60 + WITHIN_SECONDS


async def test_runs_whose_waits_timed_out_fail_although_what_one_of_them_did_cannot_be_read() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.wait_for_event("approval", event="approved", timeout="1m")

    async with running_system(f) as system:
        poisoned = await system.client.start(f)
        await asyncio.sleep(0.5)
        run = await system.client.start(f)
        await asyncio.sleep(49)
        subject = system.names.journal_step("default", poisoned.id, "aaa")
        await system.broker.publish(Publication(subject=subject, payload=b'{"status":7}'))
        await dies_ending_runs(system).wait()
        await system.add_engine()
        assert await seconds_of(run) <= WITHIN_SECONDS
        # It may have something to undo, and when no worker can tell what, it ends all the same.
        await poisoned.wait("1h")
        state = await poisoned.state()
        assert (state.status, state.compensation) == ("failed", "failed")


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
