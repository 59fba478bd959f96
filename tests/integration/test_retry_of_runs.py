"""Retries of failed runs, from the outside: client, engine and worker on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import ironflow
from ironflow import Context, Step
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, MessageTooLarge
from tests.integration.retries import ONCE, TWICE, Bodies, now, step_statuses, three_steps, until_failed
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time


# What is done again, and what is not


async def test_the_failed_step_runs_again_and_recorded_ones_do_not() -> None:
    bodies = Bodies("b")
    f = three_steps(bodies)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run, "b is broken")
        bodies.broken.clear()
        assert await run.retry()
        assert await run.result("1h") == ["a 1", "b 2", "c 1"]
        assert bodies.ran == ["a", "b", "b", "c"]
        assert await step_statuses(run) == [(name, "completed", 1) for name in "abc"]
        view = await run.state()
    assert (view.status, view.attempt, view.error) == ("completed", 2, None)
    assert view.finished_at is not None


async def test_a_run_that_goes_on_shows_no_error_and_no_end() -> None:
    bodies = Bodies("b")
    f = three_steps(bodies)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run)
        await system.kill(next(iter(system.workers)))
        assert await run.retry()
        view = await run.state()
        assert (view.status, view.attempt, view.error, view.finished_at) == ("queued", 2, None, None)
        assert [run.id async for run in system.client.runs(status="failed")] == []
        assert await step_statuses(run) == [("a", "completed", 1), ("b", "failed", 1)]


async def test_a_run_may_be_retried_again_and_again() -> None:
    bodies = Bodies("b")
    f = three_steps(bodies)
    attempts: list[int] = []

    @ironflow.function(id="g", retry=ONCE)
    async def g(ctx: Context) -> list[str]:
        attempts.append(ctx.run.attempt)
        return await f.handler(ctx)

    async with running_system(g) as system:
        run = await system.client.start(g)
        for _ in range(3):
            await until_failed(run, "b is broken")
            assert await run.retry()
        await until_failed(run)
        bodies.broken.clear()
        assert await run.retry()
        assert await run.result("1h") == ["a 1", "b 5", "c 1"]
        assert (await run.state()).attempt == 5
        assert await system.subjects("retry", run) == [f"retry.{epoch}" for epoch in (1, 2, 3, 4)]
    assert attempts == [1, 2, 3, 4, 5]


async def test_the_failed_branch_of_a_parallel_runs_again_alone() -> None:
    bodies = Bodies("y")

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> Any:
        def branch(name: str) -> Callable[[Step], Any]:
            async def run(step: Step) -> str:
                await step.run("before", bodies(f"{name} before"))
                if name == "y":
                    await ctx.step.sleep("let the others end", 1)
                return await step.run("work", bodies(name))

            return run

        return await ctx.step.parallel("all", (branch("x"), branch("y"), branch("z")))

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run, "y is broken")
        bodies.broken.clear()
        assert await run.retry()
        assert await run.result("1h") == ["x 1", "y 2", "z 1"]
        assert [view.unasked for view in await run.steps()] == [False] * 7
    assert sorted(bodies.ran) == sorted(["x before", "y before", "z before", "x", "y", "z", "y"])


async def test_a_failure_that_the_handler_caught_is_made_good_too() -> None:
    bodies = Bodies("charge", "last")

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> list[str]:
        try:
            charged = await ctx.step.run("charge", bodies("charge"))
        except ironflow.StepError:
            charged = "not charged"
        return [charged, await ctx.step.run("last", bodies("last"))]

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run)
        bodies.broken.clear()
        assert await run.retry()
        assert await run.result("1h") == ["charge 2", "last 2"]


async def test_the_attempts_of_a_step_count_anew() -> None:
    bodies = Bodies("b")
    f = three_steps(bodies, retry=TWICE)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run, "after 2 attempt")
        assert await run.retry()
        started = now()
        await until_failed(run, "after 2 attempt")
        assert now() - started >= 10
        bodies.broken.clear()
        assert await run.retry()
        assert await run.result("1h") == ["a 1", "b 5", "c 1"]
        assert await step_statuses(run) == [(name, "completed", 1) for name in "abc"]


async def test_the_attempts_of_a_pass_count_anew() -> None:
    passes: list[int] = []
    bodies = Bodies()

    @ironflow.function(id="f", retry=TWICE)
    async def f(ctx: Context) -> str:
        result = await ctx.step.run("a", bodies("a"))
        passes.append(ctx.run.attempt)
        if len(passes) < 4:
            raise ConnectionError("not yet")
        return result

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run, "not yet")
        assert passes == [1, 1]
        assert await run.retry()
        assert await run.result("1h") == "a 1"
    assert passes == [1, 1, 2, 2]


async def test_what_is_done_again_keeps_its_idempotency_key_and_its_event() -> None:
    keys: list[str] = []
    bodies = Bodies("b")

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        keys.append(ctx.step.idempotency_key("b"))
        event = await ctx.step.publish("thing.done", {"n": 1})
        await ctx.step.run("b", bodies("b"))
        return event.id

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run)
        bodies.broken.clear()
        assert await run.retry()
        event = await run.result("1h")
        assert [each.id async for each in system.client.events(name="thing.done")] == [event]
    assert len(keys) == 2
    assert len(set(keys)) == 1


async def test_what_was_undone_is_another_thing_when_it_is_done_again() -> None:
    charged: list[str] = []
    refunded: list[str] = []
    bodies = Bodies("ship")

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        await ctx.step.publish("stock.taken", {"n": 1})
        ctx.step.compensate("publish:stock.taken", int)
        key = ctx.step.idempotency_key("charge")
        await ctx.step.run("charge", charged.append, key)
        ctx.step.compensate("charge", refunded.append, key)
        await ctx.step.run("ship", bodies("ship"))

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run)
        for _ in range(2):
            assert await run.retry()
            await until_failed(run)
        bodies.broken.clear()
        assert await run.retry()
        await run.result("1h")
        taken = [each.id async for each in system.client.events(name="stock.taken")]
    epochs = ["", ".1", ".2", ".3"]
    assert charged == [f"{run.id}/charge{epoch}" for epoch in epochs]
    assert refunded == charged[:-1]
    assert sorted(taken) == sorted(f"{run.id}/publish=3Astock=2Etaken{epoch}" for epoch in epochs)


async def test_what_was_undone_once_keeps_its_new_key_over_attempts_and_retries() -> None:
    keys: list[str] = []
    bodies = Bodies("charge", "ship")

    @ironflow.function(id="f", retry=TWICE)
    async def f(ctx: Context) -> None:
        def charge(key: str) -> None:
            keys.append(key)
            if len(keys) > 1:
                bodies("charge")()

        await ctx.step.run("charge", charge, ctx.step.idempotency_key("charge"))
        ctx.step.compensate("charge", int)
        await ctx.step.run("ship", bodies("ship"))

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run)
        for _ in range(2):
            assert await run.retry()
            await until_failed(run, "charge is broken")
        bodies.broken.clear()
        assert await run.retry()
        await run.result("1h")
    assert keys == [f"{run.id}/charge"] + [f"{run.id}/charge.1"] * 5


async def test_an_undo_that_is_tried_again_in_a_retried_run_has_the_key_of_the_charge_that_it_undoes() -> None:
    charged: list[str] = []
    refunded: list[str] = []

    @ironflow.function(id="f", retry=TWICE)
    async def f(ctx: Context) -> None:
        def refund(key: str) -> None:
            refunded.append(key)
            if len(refunded) % 2:
                msg = "try again"
                raise ConnectionError(msg)

        key = ctx.step.idempotency_key("charge")
        await ctx.step.run("reserve", int)
        # Its undo comes last, in a pass that finds the charge undone already.
        ctx.step.compensate("reserve", refund, key)
        await ctx.step.run("charge", charged.append, key)
        ctx.step.compensate("charge", refund, key)
        reason = "no"
        raise ironflow.NonRetryableError(reason)

    async with running_system(f) as system:
        run = await system.client.start(f)
        for retry in range(3):
            assert retry == 0 or await run.retry()
            await until_failed(run)
    assert charged == [f"{run.id}/charge{epoch}" for epoch in ("", ".1", ".2")]
    assert refunded == [key for key in charged for _ in range(4)]


async def test_a_step_whose_result_is_not_of_its_type_is_done_again() -> None:
    results: list[Any] = ["x", 5]

    def answer() -> int:
        return results.pop(0)  # type: ignore[no-any-return]

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> int:
        return await ctx.step.run("answer", answer)

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run, "SerializationError: result of step 'answer': Expected `int`, got `str`")
        assert await step_statuses(run) == [("answer", "failed", 1)]
        assert await run.retry()
        assert await run.result("1h") == 5


async def test_a_publish_that_seemed_to_fail_publishes_one_event_in_all_epochs() -> None:
    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        return (await ctx.step.publish("thing.done", {"n": 1})).id

    async with running_system(f) as system:

        def lost(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            return MessageTooLarge("it says") if (stage, verb) == ("after", "publish") and "thing" in subject else None

        run = await system.client.start(f)
        system.server.interceptor = lost
        await until_failed(run)
        system.server.interceptor = None
        assert await run.retry()
        event = await run.result("1h")
        assert [each.id async for each in system.client.events(name="thing.done")] == [event]


# Sleeps


async def test_a_sleep_that_was_open_ends_when_it_was_due() -> None:
    bodies = Bodies("b")

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> list[Any]:
        async def sleeps(step: Step) -> float:
            await step.sleep("nap", "1h")
            return now()

        async def works(step: Step) -> str:
            await step.sleep("short", "10m")
            return await step.run("b", bodies("b"))

        return list(await ctx.step.parallel("all", (sleeps, works)))

    async with running_system(f) as system:
        started = now()
        run = await system.client.start(f)
        await until_failed(run)
        await asyncio.sleep(1200)
        bodies.broken.clear()
        assert await run.retry()
        woke, _ = await run.result("5h")
    assert 3600 <= woke - started < 3602
    assert bodies.ran == ["b", "b"]


@pytest.mark.parametrize("ended_by", ["a branch", "its timeout"])
async def test_a_sleep_that_fell_due_before_the_retry_is_over(ended_by: str) -> None:
    bodies = Bodies("b") if ended_by == "a branch" else Bodies()

    @ironflow.function(id="f", retry=ONCE, timeout="30m" if ended_by == "its timeout" else None)
    async def f(ctx: Context) -> list[Any]:
        async def sleeps(step: Step) -> float:
            await step.sleep("nap", "1h")
            return now()

        async def works(step: Step) -> str:
            return await step.run("b", bodies("b"))

        return list(await ctx.step.parallel("all", (sleeps, works)))

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run)
        await asyncio.sleep(7200)
        bodies.broken.clear()
        retried = now()
        assert await run.retry()
        woke, _ = await run.result("5h")
    assert 0 <= woke - retried < 2


# Waits for events


def waiting_in_a_branch(bodies: Bodies, **options: Any) -> ironflow.Function[Any, list[Any]]:
    """Return a function in which a branch waits for events while another may fail."""

    @ironflow.function(id="f", retry=ONCE, **options)
    async def f(ctx: Context) -> list[Any]:
        async def waits(step: Step) -> list[Any]:
            first = await step.wait_for_event("first", event="x", on_timeout="none", timeout="10h")
            second = await step.wait_for_event("second", event="x", on_timeout="none", timeout="10h")
            return [event.data if event else None for event in (first, second)]

        async def works(step: Step) -> str:
            await step.sleep("nap", "10m")
            return await step.run("b", bodies("b"))

        return list(await ctx.step.parallel("all", (waits, works)))

    return f


async def test_a_wait_begins_anew_and_sees_what_came_meanwhile_but_not_what_was_consumed() -> None:
    bodies = Bodies("b")
    f = waiting_in_a_branch(bodies)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(60)
        await system.client.publish("x", 1)
        await until_failed(run)
        await system.client.publish("x", 2)
        await asyncio.sleep(60)
        bodies.broken.clear()
        assert await run.retry()
        assert await run.result("5h") == [[1, 2], "b 2"]


async def test_a_wait_that_begins_anew_has_all_its_time_again() -> None:
    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> Any:
        event = await ctx.step.wait_for_event("w", event="x", timeout="1h")
        return event.data

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run, "waitForEvent timed out")
        retried = now()
        assert await run.retry()
        await until_failed(run, "waitForEvent timed out")
        assert 3600 <= now() - retried < 3602
        assert await run.retry()
        await asyncio.sleep(3000)
        assert (await run.state()).status == "waiting"
        await system.client.publish("x", "at last")
        assert await run.result("1m") == "at last"


async def test_nothing_is_left_of_the_waits_of_an_epoch_that_ended() -> None:
    bodies = Bodies("b")
    f = waiting_in_a_branch(bodies)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run)
        assert await open_waits(system) == []
        bodies.broken.clear()
        assert await run.retry()
        await asyncio.sleep(60)
        (key,) = await open_waits(system)
        assert key.endswith(".1")
        await run.cancel()
        assert await open_waits(system) == []


async def open_waits(system: System) -> list[str]:
    """Return where events find waits."""
    names = system.names
    return [
        message.subject
        async for page in system.broker.read(f"KV_{names.waits_bucket}", names.waits_for("x", None, None))
        for message in page
    ]


# Timeouts


async def test_the_time_of_the_run_counts_anew_and_the_timer_of_the_epoch_before_does_nothing() -> None:
    bodies = Bodies("a")

    @ironflow.function(id="f", retry=ONCE, timeout="1h")
    async def f(ctx: Context) -> float:
        await ctx.step.run("a", bodies("a"))
        await ctx.step.sleep("nap", "90m")
        return now()

    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run, "a is broken")
        bodies.broken.clear()
        await asyncio.sleep(1800)
        retried = now()
        assert await run.retry()
        await until_failed(run, "timeout of 3600 s")
        assert 3600 <= now() - retried < 3602
        assert await run.retry()
        # The sleep was open, and is due an hour and a half after it began.
        assert 5400 <= await run.result("5h") - retried < 5402
