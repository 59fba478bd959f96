"""Cancels, from the outside: client, engine and worker on a virtual clock."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import ironflow
from ironflow import Context, Retry
from ironflow.broker.local import LocalBroker
from ironflow.broker.protocol import Publication
from ironflow.records import TERMINAL
from tests.support.inprocess import running_system
from tests.support.interruptible import (
    ONCE,
    Body,
    assert_ended_once,
    pending,
    sleeping,
    until_begun,
    until_status,
    working,
)

pytestmark = pytest.mark.virtual_time


# Cancel, wherever the run stands


async def test_a_queued_run_is_cancelled_and_never_begins() -> None:
    body = Body()
    f = working(body)
    async with running_system(f) as system:
        await system.kill(next(iter(system.workers)))
        run = await system.client.start(f)
        await until_status(run, "queued")
        assert await run.cancel("ordered twice")
        await assert_ended_once(system, run, "cancelled")
        await system.add_worker()
        await asyncio.sleep(3600)
        view = await run.state()
    assert body.began == []
    assert view.error is not None
    assert (view.error.type, view.error.message) == ("Cancelled", "ordered twice")
    assert view.finished_at is not None


async def test_a_run_is_cancelled_as_soon_as_it_is_started() -> None:
    body = Body(1)
    f = working(body)
    async with running_system(f) as system:
        run = await system.client.start(f)
        assert await run.cancel()
        cancelled = asyncio.get_running_loop().time()
        with pytest.raises(ironflow.RunCancelledError):
            await run.result("1m")
        await asyncio.sleep(60)
        await assert_ended_once(system, run, "cancelled")
    assert all(began < cancelled + 1 for began in body.began)


async def test_a_task_that_turns_up_after_its_run_was_cancelled_begins_nothing() -> None:
    body = Body()
    f = working(body)
    async with running_system(f) as system:
        await system.kill(next(iter(system.workers)))
        run = await system.client.start(f)
        await until_status(run, "queued")
        task = await system.broker.last(system.names.all_shards[0].tasks, system.names.task(f.queue, run.id, 0))
        assert task is not None
        assert await run.cancel()
        # An engine that was held up publishes it after the others have taken it back.
        await system.broker.publish(Publication(subject=task.subject, payload=task.payload))
        await system.add_worker()
        await asyncio.sleep(60)
        assert [subject async for subject in pending(system, run)] == []
    assert body.began == []


async def test_a_worker_that_has_heard_of_the_cancel_begins_nothing() -> None:
    body = Body()
    f = working(body)
    async with running_system(f, workers=0) as system:
        await system.add_worker()
        (worker,) = system.workers
        await asyncio.sleep(1)
        withheld: list[Any] = []
        executor = worker._executor  # noqa: SLF001 - there is no other way to hold a delivery back
        execute = executor.execute

        async def late(queue: str, delivery: Any, slot: Any) -> None:
            withheld.append(delivery)
            await asyncio.sleep(5)
            await execute(queue, delivery, slot)

        for runner in worker._runners:  # noqa: SLF001 - likewise
            runner._execute = late  # noqa: SLF001 - likewise
        run = await system.client.start(f)
        await until_status(run, "queued")
        assert await run.cancel()
        await asyncio.sleep(60)
    assert withheld
    assert body.began == []


async def test_an_async_body_is_cancelled_within_a_second() -> None:
    body = Body(600)
    f = working(body)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_begun(body)
        assert await run.cancel()
        cancelled = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        await assert_ended_once(system, run, "cancelled")
        assert [step.name for step in await run.steps()] == []
        (worker,) = (await system.client.engine.workers()).workers
        assert worker.running == 0
    assert len(body.began) == 1
    assert body.cancelled[0] <= cancelled + 1


async def test_a_plain_body_goes_on_and_its_result_does_not_count() -> None:
    begun, gate = threading.Event(), threading.Event()
    calls: list[str] = []

    def blocking() -> str:
        calls.append("body")
        begun.set()
        gate.wait(10)
        return "too late"

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        await ctx.step.run("first", blocking)
        return await ctx.step.run("second", blocking)

    async with running_system(f) as system:
        run = await system.client.start(f)
        assert await asyncio.to_thread(begun.wait, 10)
        assert await run.cancel()
        gate.set()
        await asyncio.sleep(60)
        await assert_ended_once(system, run, "cancelled")
        assert await run.steps() == []
    assert calls == ["body"]


async def test_branches_beside_each_other_are_all_cancelled() -> None:
    body = Body(600)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        await asyncio.gather(*(ctx.step.run(f"work-{number}", body) for number in range(5)))

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_begun(body, 5)
        assert await run.cancel()
        await asyncio.sleep(60)
        await assert_ended_once(system, run, "cancelled")
    assert len(body.cancelled) == 5


async def test_a_handler_that_ignores_its_cancellation_begins_no_further_step() -> None:
    body, after = Body(600), Body()

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.run("work", body)
        except BaseException:  # noqa: BLE001 - what a user may write
            await ctx.step.run("after", after)
        return "nevertheless"

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_begun(body)
        assert await run.cancel()
        await asyncio.sleep(60)
        await assert_ended_once(system, run, "cancelled")
    assert after.began == []


async def test_a_sleeping_run_is_cancelled_and_its_timer_taken_back() -> None:
    body = Body()
    f = sleeping(body)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_status(run, "waiting")
        assert await run.cancel()
        assert (await run.state()).status == "cancelled"
        await assert_ended_once(system, run, "cancelled")
        await asyncio.sleep(2 * 3600)
        assert (await run.state()).status == "cancelled"
        assert (await run.state()).error is None
    assert body.began == []


async def test_a_run_that_backs_off_is_cancelled() -> None:
    attempts: list[int] = []

    def failing() -> None:
        attempts.append(1)
        raise ValueError

    @ironflow.function(id="f", retry=Retry(max_attempts=3, initial_delay="10m", max_delay="1h"))
    async def f(ctx: Context) -> None:
        await ctx.step.run("work", failing)

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_status(run, "waiting")
        assert await run.cancel()
        await asyncio.sleep(2 * 3600)
        await assert_ended_once(system, run, "cancelled")
    assert len(attempts) == 1


async def test_a_run_that_has_ended_is_not_cancelled() -> None:
    f = working(Body())
    async with running_system(f) as system:
        run = await system.client.start(f)
        assert await run.result("1m") == "finished"
        assert not await run.cancel()
        assert (await run.state()).status == "completed"
        answer = await system.client.engine.cancel(run.id)
        assert (answer.recorded, answer.status) == (False, "completed")


async def test_an_unknown_run_is_not_cancelled() -> None:
    async with running_system(working(Body())) as system:
        for name in ("nothing", "no.such>run", ""):
            with pytest.raises(ironflow.RunNotFoundError):
                await system.client.run(name).cancel()


@pytest.mark.parametrize("reason", ["ä" * 501, 7, "\udc80"], ids=["long", "no text", "no unicode"])
async def test_a_reason_that_is_not_allowed_is_refused_before_anything_is_stored(reason: Any) -> None:
    f = sleeping(Body())
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_status(run, "waiting")
        with pytest.raises((ironflow.LimitError, ironflow.DefinitionError)):
            await run.cancel(reason)
        assert (await run.state()).status == "waiting"


async def test_result_raises_that_the_run_was_cancelled_and_why() -> None:
    f = sleeping(Body())
    async with running_system(f) as system:
        run = await system.client.start(f)
        system.soon(until_status(run, "waiting"), run.cancel("ordered twice"))
        with pytest.raises(ironflow.RunCancelledError, match="was cancelled: ordered twice"):
            await run.result("1m")


async def test_a_hint_without_a_cancel_costs_a_pass_and_nothing_else() -> None:
    body = Body(5)
    f = working(body)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_begun(body)
        system.broker.notify(system.names.cancelled(run.id), b"")
        assert await run.result("1m") == "finished"


async def test_a_pass_whose_hint_was_lost_is_stopped_a_little_later(monkeypatch: pytest.MonkeyPatch) -> None:
    body = Body(600)
    f = working(body)
    notify = LocalBroker.notify

    def lossy(broker: LocalBroker, subject: str, payload: bytes, *, at_once: bool = False) -> None:
        if ".cancel." not in subject:
            notify(broker, subject, payload, at_once=at_once)

    monkeypatch.setattr(LocalBroker, "notify", lossy)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_begun(body)
        assert await run.cancel()
        cancelled = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        await assert_ended_once(system, run, "cancelled")
    assert len(body.began) == 1
    assert body.cancelled[0] <= cancelled + 20


# Races


async def test_of_many_who_cancel_at_once_one_has_done_it() -> None:
    f = sleeping(Body())
    async with running_system(f, engines=2) as system:
        run = await system.client.start(f)
        await until_status(run, "waiting")
        recorded = await asyncio.gather(*(run.cancel(f"by {number}") for number in range(5)))
        assert sorted(recorded) == [False] * 4 + [True]
        await assert_ended_once(system, run, "cancelled")


async def test_a_cancel_that_races_the_end_of_the_run_leaves_one_terminal_state() -> None:
    ends: Counter[str] = Counter()
    for rounds in range(80):
        at_work = asyncio.Event()

        async def work(at_work: asyncio.Event = at_work, rounds: int = rounds) -> None:
            at_work.set()
            # Each round of the loop takes the cancel a little further before the run goes on to its end.
            for _ in range(rounds):
                await asyncio.sleep(0)

        @ironflow.function(id="f", retry=ONCE)
        async def f(ctx: Context, work: Callable[[], Awaitable[None]] = work) -> str:
            await ctx.step.run("work", work)
            return "finished"

        async with running_system(f, engines=2, workers=2) as system:
            run = await system.client.start(f)
            await at_work.wait()
            recorded = await run.cancel()
            view = await run.wait("1m")
            await asyncio.sleep(30)
            assert view.status == (await run.state()).status
            assert (view.status == "cancelled") is recorded
            await assert_ended_once(system, run, view.status)
            ends[view.status] += 1
    assert set(ends) == {"completed", "cancelled"}


async def test_a_cancel_that_races_a_wake_up_leaves_one_terminal_state() -> None:
    ends: Counter[str] = Counter()
    for seed in range(60):
        chance = random.Random(seed)

        @ironflow.function(id="f")
        async def f(ctx: Context) -> str:
            await asyncio.gather(*(ctx.step.sleep(f"nap-{number}", 1 + number / 1000) for number in range(4)))
            return "slept"

        async with running_system(f, engines=2, workers=2) as system:
            run = await system.client.start(f)
            await asyncio.sleep(0.99 + 0.03 * chance.random())
            recorded = await run.cancel()
            view = await run.wait("1m")
            await asyncio.sleep(30)
            assert (view.status == "cancelled") is recorded
            await assert_ended_once(system, run, view.status)
            ends[view.status] += 1
    assert set(ends) == {"completed", "cancelled"}


async def test_after_a_recorded_cancel_no_body_begins() -> None:
    for seed in range(40):
        chance = random.Random(seed)
        body = Body(0.01)

        @ironflow.function(id="f", retry=ONCE)
        async def f(ctx: Context, body: Body = body) -> None:
            for number in range(20):
                await ctx.step.run(f"work-{number}", body)
                if number % 5 == 0:
                    await ctx.step.sleep(f"nap-{number}", 0.02)

        async with running_system(f, engines=2, workers=2) as system:
            run = await system.client.start(f)
            await asyncio.sleep(0.5 * chance.random())
            recorded = await run.cancel()
            at = asyncio.get_running_loop().time()
            await asyncio.sleep(60)
            assert (await run.state()).status in TERMINAL
            assert not recorded or all(began <= at for began in body.began)


async def test_an_engine_that_dies_right_after_the_cancel_was_recorded_leaves_the_rest_to_the_next() -> None:
    body = Body(600)
    f = working(body)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_begun(body)
        (engine,) = system.engines

        def die(stage: str, verb: str, subject: str) -> None:
            if (stage, verb) == ("after", "publish") and ".outcome." in subject:
                system.cut_off(engine)

        system.server.interceptor = die
        with pytest.raises(ironflow.EngineUnavailableError):
            await run.cancel()
        system.server.interceptor = None
        await engine.stop()
        assert (await system.subjects("outcome", run)) == ["outcome.0"]
        assert body.cancelled == []
        await system.add_engine()
        assert (await run.wait("1m")).status == "cancelled"
        await asyncio.sleep(60)
        await assert_ended_once(system, run, "cancelled")
    assert len(body.began) == len(body.cancelled) == 1


async def test_a_cancel_outlives_a_restart_of_the_server() -> None:
    body = Body()
    f = sleeping(body)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_status(run, "waiting")
        assert await run.cancel()
        system.server.stop()
        await asyncio.sleep(10)
        system.server.start()
        await asyncio.sleep(2 * 3600)
        await assert_ended_once(system, run, "cancelled")
    assert body.began == []
