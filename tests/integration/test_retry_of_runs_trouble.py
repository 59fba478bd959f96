"""Retries that are refused, that come at the same time, and that meet trouble or other code."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError
from ironflow.function import forget_functions
from ironflow_engine import unwinding
from ironflow_engine.dispatcher import Dispatcher
from tests.integration.retries import ONCE, TWICE, Bodies, attempt_is, now, three_steps, until_failed
from tests.support import eventually
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time


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
        started = now()
        run = await system.client.start(f)
        await until_failed(run, "timeout")
        ended = await system.run_state(run.id)
        assert await run.retry()
        await asyncio.sleep(1)
        # Once more, as by an engine that was held up.
        late = unwinding.stop(ended)
        assert await Dispatcher(system.broker, system.names).carry_out(late) == [None]
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
