"""Retries of failed runs, from the outside: client, engine and worker on a virtual clock."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest

import ironflow
from ironflow import Context, Retry, Step
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, MessageTooLarge
from ironflow.function import forget_functions
from ironflow.handles import RunHandle
from tests.support import eventually
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

ONCE = Retry(max_attempts=1)
TWICE = Retry(max_attempts=2, initial_delay="10s", jitter=0)


class Bodies:
    """Bodies that count how often they ran, and fail until they are mended.

    Attributes:
        ran: the names of the bodies that ran, in order.
        broken: the names of those that fail.

    """

    def __init__(self, *broken: str) -> None:
        self.ran: list[str] = []
        self.broken = set(broken)

    def __call__(self, name: str) -> Callable[[], str]:
        """Return the body of that name."""

        def body() -> str:
            self.ran.append(name)
            if name in self.broken:
                msg = f"{name} is broken"
                raise ValueError(msg)
            return f"{name} {self.ran.count(name)}"

        return body


async def until_failed(run: RunHandle[Any], message: str | None = None) -> None:
    """Wait until a run has failed."""
    with pytest.raises(ironflow.RunFailedError, match=message):
        await run.result("5h")


async def step_statuses(run: RunHandle[Any]) -> list[tuple[str, str, int]]:
    """Return the name, the status and the attempt of each step that is shown."""
    return [(step.name, step.status, step.attempt) for step in await run.steps()]


async def attempt_is(run: RunHandle[Any], attempt: int) -> None:
    """Assert how often a run was tried."""
    assert (await run.state()).attempt == attempt


def three_steps(bodies: Bodies, **options: Any) -> ironflow.Function[Any, list[str]]:
    """Return a function of three steps."""

    @ironflow.function(id="f", **{"retry": ONCE, **options})
    async def f(ctx: Context) -> list[str]:
        return [await ctx.step.run(name, bodies(name)) for name in "abc"]

    return f


def now() -> float:
    """Return the virtual time in seconds."""
    return asyncio.get_running_loop().time()


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


# What may not be retried


async def test_only_a_run_that_has_failed_is_retried() -> None:
    bodies = Bodies()
    f = three_steps(bodies)

    @ironflow.function(id="sleeper")
    async def sleeper(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    async with running_system(f, sleeper) as system:
        completed = await system.client.start(f)
        assert not await completed.retry()
        await completed.result("1h")
        assert not await completed.retry()
        resting = await system.client.start(sleeper)
        await asyncio.sleep(60)
        assert not await resting.retry()
        assert (await system.client.engine.retry(resting.id)).status == "waiting"
        await resting.cancel()
        assert not await resting.retry()
        assert await system.subjects("retry") == []
        with pytest.raises(ironflow.RunNotFoundError, match="no run nobody"):
            await system.client.run("nobody").retry()


async def test_a_run_that_never_had_a_function_is_refused_with_what_to_do() -> None:
    async with running_system(workers=0) as system:
        run = await system.client.start("nobody-has-it")
        await until_failed(run, "no function 'nobody-has-it'")
        with pytest.raises(ironflow.IronflowError, match=r"never began.*no function 'nobody-has-it'.*with another id"):
            await run.retry()


async def test_a_run_of_which_the_event_is_gone_is_refused_with_what_to_do() -> None:
    bodies = Bodies("a")
    f = three_steps(bodies)
    async with running_system(f) as system:
        run = await system.client.start(f, id="s")
        await until_failed(run)
        # The outcome keeps the event; so EVENTS may forget it.
        await system.broker.purge(system.names.events, "test.events.>")
        bodies.broken.clear()
        assert await run.retry()
        assert await run.result("1h") == ["a 2", "b 1", "c 1"]


# Several at once, and trouble


async def test_of_several_who_retry_a_run_at_the_same_time_one_does() -> None:
    bodies = Bodies("b")
    f = three_steps(bodies)
    async with running_system(f, engines=2) as system:
        run = await system.client.start(f)
        await until_failed(run)
        bodies.broken.clear()
        assert sorted(await asyncio.gather(*(run.retry() for _ in range(5)))) == [False] * 4 + [True]
        assert await run.result("1h") == ["a 1", "b 2", "c 1"]
        assert (await run.state()).attempt == 2
        assert await system.subjects("retry", run) == ["retry.1"]
    assert bodies.ran == ["a", "b", "b", "c"]


async def test_a_retry_waits_for_an_engine() -> None:
    bodies = Bodies("b")
    f = three_steps(bodies)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_failed(run)
        bodies.broken.clear()
        await system.kill(next(iter(system.engines)))
        with pytest.raises(ironflow.EngineUnavailableError):
            await run.retry()
        system.soon(asyncio.sleep(1), system.add_engine())
        assert await run.retry()
        assert await run.result("1h") == ["a 1", "b 2", "c 1"]


@pytest.mark.parametrize("engines", [1, 2])
async def test_an_engine_may_die_right_after_the_retry_is_recorded(engines: int) -> None:
    bodies = Bodies("b")
    f = three_steps(bodies)
    async with running_system(f, engines=engines) as system:
        run = await system.client.start(f)
        await until_failed(run)
        bodies.broken.clear()

        def die(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            if (stage, verb) == ("after", "publish") and ".retry." in subject:
                for engine in list(system.engines):
                    system.cut_off(engine)
                    system.soon(system.kill(engine), system.add_engine())
            return None

        system.server.interceptor = die
        with pytest.raises(ironflow.EngineUnavailableError):
            await run.retry()
        system.server.interceptor = None
        await eventually(functools.partial(attempt_is, run, 2), within=60.0)
        assert await run.result("1h") == ["a 1", "b 2", "c 1"]


async def test_an_engine_that_remembers_the_failure_handles_what_another_retried() -> None:
    bodies = Bodies("b")

    @ironflow.function(id="f", retry=TWICE, timeout="5h")
    async def f(ctx: Context) -> str:
        await ctx.step.run("b", bodies("b"), retry=ONCE)
        await ctx.step.sleep("nap", "1h")
        return await ctx.step.run("flaky", bodies("flaky"))

    for _ in range(5):  # which engine gets what is a matter of chance
        bodies.broken, bodies.ran = {"b", "flaky"}, []
        async with running_system(f, engines=3) as system:
            run = await system.client.start(f)
            await until_failed(run)
            bodies.broken.clear()
            assert await run.retry()
            assert await run.result("2h") == "flaky 1"


async def test_a_stop_that_comes_late_takes_nothing_from_the_epoch_behind_it() -> None:
    @ironflow.function(id="f", retry=ONCE, timeout="30m")
    async def f(ctx: Context) -> float:
        await ctx.step.sleep("nap", "40m")
        return now()

    async with running_system(f) as system:
        held: list[str] = []

        def no_purge(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            if (stage, verb) == ("before", "purge"):
                held.append(subject)
            return None

        started = now()
        run = await system.client.start(f)
        system.server.interceptor = no_purge
        await until_failed(run, "timeout")
        await asyncio.sleep(1)
        system.server.interceptor = None
        assert await run.retry()
        await asyncio.sleep(1)
        assert held
        for subject in held:  # once more, as by an engine that was held up
            stream = system.names.tasks if ".tasks." in subject else system.names.timers
            await system.broker.purge(stream, subject)
        assert 2400 <= await run.result("5h") - started < 2402


# Code that changed


async def test_a_run_that_was_parked_goes_on_once_the_code_is_right() -> None:
    bodies = Bodies("b")
    right = three_steps(bodies)
    forget_functions()

    @ironflow.function(id="f", retry=ONCE)
    async def wrong(ctx: Context) -> str:
        await ctx.step.sleep("a", 1)
        return "wrong"

    async with running_system(right) as system:
        run = await system.client.start("f")
        await until_failed(run, "b is broken")
        await new_code(system, wrong)
        assert await run.retry()
        await until_failed(run, "recorded as 'run'.*asks for it as 'sleep'")
        assert await run.retry()
        await until_failed(run, "recorded as 'run'")
        bodies.broken.clear()
        await new_code(system, right)
        assert await run.retry()
        assert await run.result("1h") == ["a 1", "b 2", "c 1"]
    assert bodies.ran == ["a", "b", "b", "c"]


async def test_a_recorded_step_that_the_code_does_not_ask_for_any_more_is_reported() -> None:
    bodies = Bodies("c")
    longer = three_steps(bodies)
    forget_functions()

    @ironflow.function(id="f", retry=ONCE)
    async def shorter(ctx: Context) -> str:
        return await ctx.step.run("a", bodies("a"))

    async with running_system(longer) as system:
        run = await system.client.start("f")
        await until_failed(run, "c is broken")
        await new_code(system, shorter)
        assert await run.retry()
        assert await run.result("1h") == "a 1"
        assert {step.name: step.unasked for step in await run.steps()} == {"a": False, "b": True, "c": True}


async def new_code(system: System, function: ironflow.Function[Any, Any]) -> None:
    """Have a worker with other code take the place of those that are there."""
    for worker in list(system.workers):
        await system.kill(worker)
    system.functions[function.id] = function
    await system.add_worker()
