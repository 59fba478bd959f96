"""The pass behind a sleep is begun ahead of its end, and waits for that, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest

import ironflow
from ironflow import Context, Retry, RunFailedError
from ironflow.broker.local import LocalBroker, Stage
from ironflow.broker.protocol import BrokerError
from ironflow.handles import RunHandle
from ironflow.records import RunState
from ironflow_worker.beginners import COUNTS_SECONDS, LIMITS
from tests.support.eventually import eventually
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(system: System, run: RunHandle[Any], holds: Callable[[RunState], bool]) -> RunState:
    async def look() -> RunState:
        state = await system.run_state(run.id)
        assert holds(state)
        return state

    return await eventually(look, within=120.0)


async def nap_ended_ms(run: RunHandle[Any]) -> float:
    (nap,) = [step for step in await run.steps() if step.name == "nap"]
    assert nap.finished_at is not None
    return datetime.fromisoformat(nap.finished_at).timestamp() * 1000


def sleeping(after: list[float]) -> ironflow.Function[Any, Any]:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1m")
        after.append(now())
        await ctx.step.run("work", asyncio.sleep, 10)

    return f


async def has_begun_early(system: System, run: RunHandle[Any]) -> RunState:
    return await until(system, run, lambda state: state.live and state.number == 1)


async def test_a_sleep_ends_when_it_is_due_and_its_end_is_recorded_once() -> None:
    after: list[float] = []
    async with running_system(sleeping(after)) as system:
        run = await system.client.start("f")
        state = await until(system, run, lambda state: state.status == "waiting")
        due = state.due_ms
        assert (await run.wait("1h")).status == "completed"
        assert 0 <= await nap_ended_ms(run) - due < 20
        assert await system.subjects("outcome", run) == ["outcome.0", "outcome.1"]
    assert len(after) == 1


@pytest.mark.parametrize("engines", [1, 2, 3])
async def test_each_of_several_sleeps_ends_when_it_is_due_however_many_engines_there_are(engines: int) -> None:
    """An engine that has not heard of a run for a while remembers where it stood then."""

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        for number in range(6):
            await ctx.step.sleep(f"nap-{number}", 15)

    async with running_system(f, engines=engines) as system:
        begun = now()
        assert (await system.run(f)).status == "completed"
        assert now() - begun < 6 * 15 + 0.2


async def test_until_its_sleep_ends_a_run_is_shown_to_wait_and_behind_it_to_go_on() -> None:
    after: list[float] = []
    async with running_system(sleeping(after)) as system:
        run = await system.client.start("f")
        early = await has_begun_early(system, run)
        assert (early.status, after) == ("waiting", [])
        assert (await run.state()).status == "waiting"
        going_on = await until(system, run, lambda state: state.status == "queued")
        assert going_on.live
        assert now() - after[0] < 0.5
        assert (await run.state()).status == "running"
        assert (await run.wait("1h")).status == "completed"


async def test_a_run_that_sleeps_holds_no_slot() -> None:
    after: list[float] = []
    began: list[float] = []

    @ironflow.function(id="g")
    async def g(_: Context) -> None:
        began.append(now())

    async with running_system(sleeping(after), g, concurrency=1) as system:
        run = await system.client.start("f")
        await has_begun_early(system, run)
        asked = now()
        await system.output("g")
        assert after == []
        assert began[0] - asked < 0.1
        assert (await run.wait("1h")).status == "completed"


async def test_behind_its_sleep_a_run_waits_for_its_turn() -> None:
    after: list[float] = []

    @ironflow.function(id="g")
    async def g(ctx: Context) -> None:
        await ctx.step.run("long", asyncio.sleep, 100)

    async with running_system(sleeping(after), g, concurrency=1) as system:
        run = await system.client.start("f")
        await has_begun_early(system, run)
        other = await system.client.start("g")
        begun = now()
        assert (await run.wait("1h")).status == "completed"
        assert (await other.wait("1m")).status == "completed"
    assert after[0] - begun > 99.9


async def kill_worker(system: System) -> None:
    for worker in list(system.workers):
        await system.kill(worker)
    await system.add_worker()


async def kill_engine(system: System) -> None:
    for engine in list(system.engines):
        await system.kill(engine)
    await system.add_engine()


@pytest.mark.parametrize("kill", [kill_worker, kill_engine])
async def test_a_process_may_die_while_a_run_sleeps_its_last_moments(kill: Callable[[System], Awaitable[None]]) -> None:
    after: list[float] = []
    async with running_system(sleeping(after)) as system:
        run = await system.client.start("f")
        due_ms = (await has_begun_early(system, run)).due_ms
        await kill(system)
        assert (await run.wait("1h")).status == "completed"
        assert 0 <= await nap_ended_ms(run) - due_ms < 500


async def test_a_sleep_that_no_worker_waits_for_is_ended_by_the_engine() -> None:
    after: list[float] = []
    async with running_system(sleeping(after)) as system:
        run = await system.client.start("f")
        state = await until(system, run, lambda state: state.status == "waiting")
        for worker in list(system.workers):
            await worker.drain()
            system.cut_off(worker)

        async def has_ended() -> None:
            assert "step.nap" in await system.subjects("step", run)

        await eventually(has_ended, within=120.0)
        assert 0 <= system.now_ms() - state.due_ms < 500
        await system.add_worker()
        assert (await run.wait("1h")).status == "completed"
    assert len(after) == 1


async def test_a_run_that_waits_for_an_event_as_well_is_not_begun_early() -> None:
    woken: list[float] = []

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        async def event(step: ironflow.Step) -> None:
            await step.wait_for_event("paid", event="order.paid", timeout="1h")
            woken.append(now())

        async def nap(step: ironflow.Step) -> None:
            await step.sleep("nap", "1m")

        await ctx.step.parallel("both", [event, nap])

    async with running_system(f) as system:
        run = await system.client.start(f)
        state = await until(system, run, lambda state: state.status == "waiting")
        await asyncio.sleep((state.due_ms - system.now_ms()) / 1000 - 1)
        assert not (await system.run_state(run.id)).live
        sent = now()
        await system.client.publish("order.paid")
        assert (await run.wait("1h")).status == "completed"
        assert now() - sent < 2
    assert woken[0] - sent < 0.1


async def test_sleeps_that_end_soon_after_one_another_end_within_one_pass() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        async def nap(step: ironflow.Step, seconds: float) -> None:
            await step.sleep("nap", seconds)
            await step.run("work", lambda: None)

        await ctx.step.map("all", [60.0, 60.5, 61.0], lambda seconds, step, _: nap(step, seconds))

    async with running_system(f) as system:
        run = await system.client.start(f)
        assert (await run.wait("1h")).status == "completed"
        assert await system.subjects("outcome", run) == ["outcome.0", "outcome.1"]


async def test_a_sleep_that_begins_beside_one_that_ends_soon_does_not_wait_for_that() -> None:
    at: dict[str, float] = {}

    async def note(place: str) -> None:
        at[place] = now()

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        async def other(step: ironflow.Step) -> None:
            await step.sleep("nap", 10.4)

        async def sleeps_again(step: ironflow.Step) -> None:
            await step.sleep("first", 8)
            await step.run("before", note, "before")
            await step.sleep("second", 0.1)
            await step.run("behind", note, "behind")

        await ctx.step.parallel("both", [other, sleeps_again])

    async with running_system(f) as system:
        assert (await system.run(f)).status == "completed"
    assert 0.1 <= at["behind"] - at["before"] <= 0.6


async def test_a_longer_sleep_that_begins_beside_sleeps_that_end_soon_does_not_end_the_pass() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        async def nap(step: ironflow.Step, seconds: float) -> None:
            await step.sleep("short", seconds)
            await step.sleep("long", 60)

        await ctx.step.map("all", [10.0, 11.0, 12.0], lambda seconds, step, _: nap(step, seconds))

    async with running_system(f) as system:
        run = await system.client.start(f)
        assert (await run.wait("1h")).status == "completed"
        assert await system.subjects("outcome", run) == ["outcome.0", "outcome.1", "outcome.2"]


async def test_a_cancel_ends_a_run_that_sleeps_its_last_moments_at_once() -> None:
    after: list[float] = []
    async with running_system(sleeping(after)) as system:
        run = await system.client.start("f")
        due_ms = (await has_begun_early(system, run)).due_ms
        assert await run.cancel()
        assert (await run.wait("1h")).status == "cancelled"
        assert system.now_ms() < due_ms
        await asyncio.sleep(10)
    assert after == []


async def test_a_failure_of_another_branch_ends_a_run_while_one_sleeps() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        async def nap(step: ironflow.Step) -> None:
            await step.sleep("long", 61)

        async def fail(step: ironflow.Step) -> None:
            await step.sleep("short", 60)
            msg = "no"
            raise ValueError(msg)

        try:
            await ctx.step.parallel("both", [nap, fail])
        except ValueError:
            return "went on"
        return ""

    async with running_system(f) as system:
        start = now()
        assert await system.output(f) == "went on"
        assert now() - start < 60.5


@pytest.mark.parametrize(("sleep_ms", "most"), LIMITS)
async def test_of_many_runs_that_begin_together_few_are_on_their_way_to_their_sleep(
    monkeypatch: pytest.MonkeyPatch, sleep_ms: int, most: int
) -> None:
    arrive = LocalBroker._arrive  # noqa: SLF001 - the one place that all requests pass

    async def arrive_later(broker: LocalBroker) -> str:
        await asyncio.sleep(0.0001)
        return await arrive(broker)

    monkeypatch.setattr(LocalBroker, "_arrive", arrive_later)
    asleep: list[str] = []
    on_their_way: list[int] = []

    async def begin() -> None:
        on_their_way.append(len(on_their_way) + 1 - len(asleep))

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.run("begun", begin)
        await ctx.step.sleep("nap", sleep_ms / 1000)

    def note(at: Stage, verb: str, subject: str) -> BrokerError | None:
        if (at, verb) == ("after", "publish") and subject.endswith(".wait.nap"):
            asleep.append(subject)
        return None

    async with running_system(f, concurrency=200) as system:
        system.server.interceptor = note
        await (await system.client.start("f")).result("5m")
        on_their_way.clear()
        asleep.clear()
        runs = await asyncio.gather(*(system.client.start("f") for _ in range(200)))
        await asyncio.gather(*(run.result("5m") for run in runs))
    assert len(on_their_way) == 200
    assert most / 2 < max(on_their_way) <= most


async def test_runs_of_a_function_that_does_not_sleep_begin_together_once_one_has_ended() -> None:
    begun: list[float] = []

    async def work() -> None:
        begun.append(now())
        await asyncio.sleep(10)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.run("work", work)

    async with running_system(f, concurrency=200) as system:
        await (await system.client.start("f")).result("5m")
        begun.clear()
        runs = await asyncio.gather(*(system.client.start("f") for _ in range(200)))
        await asyncio.gather(*(run.result("5m") for run in runs))
    assert len(begun) == 200
    assert max(begun) - min(begun) < COUNTS_SECONDS


@pytest.mark.parametrize("seconds", [1, 2, 5, 60])
@pytest.mark.parametrize("back_seconds", [0.1, 10, 3_600])
async def test_a_sleep_lasts_as_long_as_it_says_when_the_server_s_clock_has_been_set_back(
    back_seconds: float, seconds: int
) -> None:
    times: list[float] = []

    async def note() -> None:
        times.append(now())

    @ironflow.function(id="f")
    async def f(ctx: Context[float]) -> None:
        await ctx.step.run("before", note)
        await ctx.step.sleep("nap", ctx.event.data)
        await ctx.step.run("after", note)

    async with running_system(f) as system:
        await system.run(f, 5)
        await asyncio.sleep(10)
        system.server.clock._epoch_us -= round(back_seconds * 1_000_000)  # noqa: SLF001 - no server does that by itself
        times.clear()
        await system.run(f, seconds)
        assert 0 <= times[1] - times[0] - seconds < 0.5


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_sleep_begun_behind_another_one_is_not_late_where_its_pass_rests_just_before(retries: int) -> None:
    fails = [ConnectionError() for _ in range(retries)]

    def work() -> None:
        if fails:
            raise fails.pop()

    @ironflow.function(id="f", retry=Retry(max_attempts=1))
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("first", 10)
        await ctx.step.run("work", work)
        await asyncio.gather(ctx.step.sleep("nap", 10), ctx.step.run("long", asyncio.sleep, 9.8))

    async with running_system(f) as system:
        run = await system.client.start(f)
        for _ in range(retries):
            with pytest.raises(RunFailedError):
                await run.result("1m")
            await run.retry()
        assert (await run.wait("1m")).status == "completed"
        (nap,) = [step for step in await run.steps() if step.name == "nap"]
        assert nap.finished_at is not None
        lasted = datetime.fromisoformat(nap.finished_at) - datetime.fromisoformat(nap.started_at)
        assert 10.0 <= lasted.total_seconds() <= 10.05
