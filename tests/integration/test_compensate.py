"""Sagas: what a run did is undone, newest first, each step at least once, wherever the run or a worker breaks."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import ironflow
from ironflow import Context, Function, NonRetryableError, Retry, RetryAfter, Step, StepError
from ironflow.handles import RunHandle
from ironflow.messages import RunView, StepView
from tests.integration.sagas import STEPS, Saga, check_unwound, kill_worker_at
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

ONCE = Retry(max_attempts=1)
TWICE = Retry(max_attempts=2, initial_delay="5s", jitter=0)
PATIENCE = "3h"


def undos(steps: list[StepView]) -> list[str]:
    """Return the names of the undos in the order in which they were recorded."""
    return [step.name for step in steps if step.kind == "compensate"]


def function(handler: Callable[[Context[Any]], Any], **options: Any) -> Function[Any, Any]:
    return ironflow.function(id="f", **{"retry": ONCE, **options})(handler)


# The matrix: where the run breaks, which undo fails, and at which of its writes an undo loses its worker


@pytest.mark.parametrize("failing_undo", [None, *STEPS])
@pytest.mark.parametrize("failing_step", STEPS)
async def test_each_step_may_fail_and_each_undo(failing_step: int, failing_undo: int | None) -> None:
    saga = Saga(failing_step, failing_undo)
    async with running_system(saga.function) as system:
        run = await system.client.start(saga.function)
        check_unwound(saga, await run.wait(PATIENCE), await run.steps())
    assert saga.undone == saga.expected_undos()


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("failing_undo", [None, *STEPS])
@pytest.mark.parametrize("failing_step", STEPS)
async def test_a_worker_may_be_killed_at_each_undo(failing_step: int, failing_undo: int | None, stage: Any) -> None:
    for killed_at in range(1, failing_step):
        saga = Saga(failing_step, failing_undo)
        async with running_system(saga.function) as system:
            system.server.interceptor = kill = kill_worker_at(system, f".step.compensate=3Astep-{killed_at}", stage)
            run = await system.client.start(saga.function)
            check_unwound(saga, await run.wait(PATIENCE), await run.steps())
        assert kill.killed
        again = [killed_at] if stage == "before" else []
        assert sorted(saga.undone) == sorted([*saga.expected_undos(), *again])
        assert [number for number, _ in itertools.groupby(saga.undone)] == [*reversed(range(1, failing_step))]
        saga.forget()


# Undos are like steps


async def test_an_undo_is_retried_under_the_functions_policy_and_the_next_one_waits_for_it() -> None:
    told: list[str] = []

    async def undo(name: str) -> str:
        told.append(f"{name} at {round(asyncio.get_running_loop().time() - began)}")
        if name == "b" and len(told) < 3:
            raise ConnectionError
        return name

    async def f(ctx: Context) -> None:
        for name in "ab":
            await ctx.step.run(name, str)
            ctx.step.compensate(name, undo, name)
        msg = "no"
        raise NonRetryableError(msg)

    durable = function(f, retry=Retry(max_attempts=3, initial_delay="10s", backoff=2, jitter=0))
    async with running_system(durable) as system:
        began = asyncio.get_running_loop().time()
        run = await system.client.start(durable)
        await asyncio.sleep(15)
        view, steps = await run.state(), await run.steps()
        assert (view.status, view.compensation, view.finished_at) == ("compensating", "running", None)
        assert view.error is not None
        assert view.error.message == "no"
        assert [(step.name, step.status, step.attempt) for step in steps][2:] == [("compensate:b", "retrying", 2)]
        view, steps = await run.wait(PATIENCE), await run.steps()
    assert told == ["b at 0", "b at 10", "b at 30", "a at 30"]
    assert (view.status, view.compensation) == ("failed", "completed")
    assert [(step.name, step.attempt, bytes(step.output)) for step in steps][2:] == [
        ("compensate:b", 3, b'"b"'),
        ("compensate:a", 1, b'"a"'),
    ]


async def test_an_undo_may_say_when_it_is_to_be_tried_again() -> None:
    told: list[float] = []

    async def undo() -> None:
        told.append(asyncio.get_running_loop().time())
        if len(told) == 1:
            raise RetryAfter("7m")

    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", undo)
        raise NonRetryableError

    durable = function(f, retry=TWICE)
    async with running_system(durable) as system:
        view = await system.run(durable)
    assert view.compensation == "completed"
    assert told[1] - told[0] == pytest.approx(7 * 60, abs=1)


async def test_undos_may_be_plain_functions_with_arguments() -> None:
    told: list[Any] = []

    def undo(*args: Any, **kwargs: Any) -> int:
        time.sleep(0.001)
        told.append((args, kwargs))
        return 5

    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", undo, 1, step_name="x")
        await ctx.step.run("b", str)
        ctx.step.compensate("b", lambda: told.append("b"))
        raise NonRetryableError

    durable = function(f)
    async with running_system(durable) as system:
        view = await system.run(durable)
    assert view.compensation == "completed"
    assert told == ["b", ((1,), {"step_name": "x"})]


async def cancels_itself() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("undo", "type"),
    [
        (lambda: float("nan"), "SerializationError"),
        (lambda: "x" * 600_000, "PayloadTooLargeError"),
        (partial(sys.exit, 3), "SystemExit"),
        (cancels_itself, "CancelledError"),
    ],
)
async def test_an_undo_that_cannot_succeed_is_recorded_and_stops_nothing(undo: Any, type: str) -> None:
    async def f(ctx: Context) -> None:
        for name in "ab":
            await ctx.step.run(name, str)
            ctx.step.compensate(name, undo if name == "b" else str)
        raise NonRetryableError

    durable = function(f)
    async with running_system(durable) as system:
        run = await system.client.start(durable)
        view, steps = await run.wait(PATIENCE), await run.steps()
        (listed,) = [view async for view in system.client.engine.runs()]
    assert (view.status, view.compensation) == (listed.status, listed.compensation) == ("failed", "failed")
    assert [(step.name, step.error and step.error.type) for step in steps][2:] == [
        ("compensate:b", type),
        ("compensate:a", None),
    ]


async def test_an_undo_has_no_steps_of_its_own() -> None:
    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", lambda: ctx.step.run("more", str))
        await ctx.step.run("b", str)
        ctx.step.compensate("b", lambda: ctx.step.compensate("b", str))
        raise NonRetryableError

    durable = function(f)
    async with running_system(durable) as system:
        run = await system.client.start(durable)
        view, steps = await run.wait(PATIENCE), await run.steps()
    assert view.compensation == "failed"
    errors = [step.error for step in steps if step.kind == "compensate"]
    assert all(error and error.type == "DefinitionError" and "inside the body" in error.message for error in errors)
    assert [step.name for step in steps] == ["a", "b", "compensate:b", "compensate:a"]


# What unwinds, and what does not


async def test_a_caught_failure_undoes_nothing() -> None:
    told: list[str] = []

    async def f(ctx: Context) -> str:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", told.append, "a")
        try:
            await ctx.step.run("b", fails)
        except StepError:
            ctx.step.compensate("b", told.append, "b")
        return "fine"

    durable = function(f)
    async with running_system(durable) as system:
        view = await system.run(durable)
    assert (view.status, view.compensation, told) == ("completed", None, [])


async def test_a_failed_step_may_have_an_undo_too() -> None:
    told: list[str] = []

    async def f(ctx: Context) -> None:
        try:
            await ctx.step.run("a", fails)
        except StepError:
            ctx.step.compensate("a", told.append, "a")
            raise

    durable = function(f)
    async with running_system(durable) as system:
        view = await system.run(durable)
    assert (view.status, view.compensation, told) == ("failed", "completed", ["a"])


async def test_a_run_without_undos_fails_at_once() -> None:
    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        await ctx.step.run("b", fails)

    durable = function(f)
    async with running_system(durable) as system:
        run = await system.client.start(durable)
        view = await run.wait(PATIENCE)
        assert await system.subjects("outcome", run) == ["outcome.0"]
    assert (view.status, view.compensation) == ("failed", None)


async def test_a_handler_that_fails_outside_of_steps_is_unwound_once_its_attempts_are_used_up() -> None:
    told: list[str] = []
    passes = itertools.count(1)

    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", told.append, "a")
        told.append(f"pass {next(passes)}")
        raise LookupError("outside")

    durable = function(f, retry=TWICE)
    async with running_system(durable) as system:
        view = await system.run(durable)
    assert (view.status, view.compensation) == ("failed", "completed")
    assert view.error is not None
    assert view.error.message == "outside"
    assert told == ["pass 1", "pass 2", "pass 3", "a"]


@pytest.mark.parametrize("output", [float("inf"), "x" * 600_000], ids=["not JSON", "too large"])
async def test_an_output_that_cannot_be_stored_unwinds(output: object) -> None:
    told: list[str] = []

    async def f(ctx: Context) -> object:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", told.append, "a")
        return output

    durable = function(f)
    async with running_system(durable) as system:
        view = await system.run(durable)
    assert (view.status, view.compensation, told) == ("failed", "completed", ["a"])


async def test_a_wait_that_times_out_unwinds() -> None:
    told: list[str] = []

    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", told.append, "a")
        await ctx.step.wait_for_event("b", event="never", timeout="1m")
        told.append("went on")

    durable = function(f)
    async with running_system(durable) as system:
        view = await system.run(durable)
        state = await system.run_state(view.id)
    assert (view.status, view.compensation, told) == ("failed", "completed", ["a"])
    assert view.error is not None
    assert view.error.message.startswith("waitForEvent timed out: step 'b': ")
    assert state.ending == "failed"


async def test_a_run_that_takes_too_long_unwinds_and_its_undos_may_take_longer() -> None:
    told: list[str] = []

    async def undo() -> None:
        await asyncio.sleep(300)
        told.append("a")

    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", undo)
        await ctx.step.sleep("b", "1h")

    durable = function(f, timeout="2m")
    async with running_system(durable) as system:
        run = await system.client.start(durable)
        view = await run.wait(PATIENCE)
        assert [step.name for step in await run.steps()] == ["a", "compensate:a"]
        assert await pending(system, run) == []
    assert (view.status, view.compensation, told) == ("failed", "completed", ["a"])
    assert view.error is not None
    assert view.error.type == "RunTimeoutError"


async def test_the_time_of_a_run_is_over_while_it_compensates_and_changes_nothing() -> None:
    async def undo() -> None:
        await asyncio.sleep(600)

    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", undo)
        raise NonRetryableError("mine")

    durable = function(f, timeout="2m")
    async with running_system(durable) as system:
        run = await system.client.start(durable)
        view = await run.wait(PATIENCE)
        assert await system.subjects("outcome", run) == ["outcome.0", "outcome.1"]
    assert (view.status, view.compensation) == ("failed", "completed")
    assert view.error is not None
    assert view.error.message == "mine"


# Mistakes


async def test_an_undo_is_registered_behind_its_step() -> None:
    async def f(ctx: Context) -> None:
        ctx.step.compensate("a", str)
        await ctx.step.run("a", str)

    view = await outcome(f)
    assert view.error is not None
    assert (view.status, view.error.type) == ("failed", "DefinitionError")
    assert "step 'a' has no result yet" in view.error.message


async def test_a_step_has_one_undo() -> None:
    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", str)
        ctx.step.compensate("a", str)

    view = await outcome(f)
    assert view.error is not None
    assert (view.error.type, view.compensation) == ("DuplicateStepError", "completed")
    assert "'a' has an undo already" in view.error.message


async def test_an_undo_must_be_a_function() -> None:
    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", "no function")  # type: ignore[arg-type]  # that is what is tested

    view = await outcome(f)
    assert view.error is not None
    assert view.error.type == "DefinitionError"


async def test_a_step_of_the_longest_name_can_be_undone() -> None:
    name = "n" * 10_000

    async def f(ctx: Context) -> None:
        await ctx.step.run(name, str)
        ctx.step.compensate(name, str)
        raise NonRetryableError

    assert (await outcome(f)).compensation == "completed"


async def test_a_run_that_does_not_fit_its_code_keeps_what_it_did() -> None:
    told: list[str] = []
    passes = itertools.count()

    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", told.append, "a")
        if next(passes):
            await ctx.step.publish("x", name="b")
        await ctx.step.sleep("b", "1m")

    view = await outcome(f)
    assert view.error is not None
    assert (view.status, view.error.type, view.compensation) == ("failed", "NondeterminismError", None)
    assert told == []


async def outcome(handler: Callable[[Context[Any]], Any]) -> RunView:
    durable = function(handler)
    async with running_system(durable) as system:
        return await system.run(durable)


async def fails() -> None:
    raise NonRetryableError("doomed")


async def pending(system: System, run: RunHandle[Any]) -> list[str]:
    """Return the subjects of a run's tasks and timers."""
    found: list[str] = []
    for stream, wanted in (
        (system.names.all_shards[0].tasks, system.names.tasks_of_run("*", run.id)),
        (system.names.all_shards[0].timers, system.names.timers_of_run(run.id)),
    ):
        async for page in system.broker.read(stream, wanted):
            found += [message.subject for message in page]
    return found


# Branches


async def test_branches_are_undone_in_the_reverse_of_the_order_in_which_they_were_recorded() -> None:
    told: list[str] = []

    async def branch(step: Step, name: str, pause: int) -> None:
        for part in ("first", "second"):
            await step.sleep(f"nap {part}", pause)
            await step.run(part, str)
            step.compensate(part, told.append, f"{name} {part}")

    async def f(ctx: Context) -> None:
        await ctx.step.parallel("all", [lambda step: branch(step, "slow", 20), lambda step: branch(step, "quick", 5)])
        await ctx.step.run("end", fails)

    durable = function(f)
    async with running_system(durable) as system:
        view = await system.run(durable)
    assert (view.status, view.compensation) == ("failed", "completed")
    assert told == ["slow second", "slow first", "quick second", "quick first"]


@pytest.mark.parametrize("concurrency", [None, 2])
@pytest.mark.parametrize("killed", [False, True])
async def test_a_map_that_fails_undoes_all_items_that_were_done(concurrency: int | None, killed: bool) -> None:  # noqa: FBT001
    told: list[int] = []

    async def each(item: int, step: Step, index: int) -> None:
        if item == 3:
            await step.sleep("nap", "1m")
            await step.run("work", fails)
        await step.run("work", str)
        step.compensate("work", told.append, item)
        if item > 3:
            await step.sleep("nap", "1h")

    async def f(ctx: Context) -> None:
        await ctx.step.map("all", list(range(6)), each, concurrency=concurrency)

    durable = function(f)
    async with running_system(durable) as system:
        if killed:
            # The next worker finds the failure recorded, and fails at once.
            system.server.interceptor = kill_worker_at(system, ".step.all/3/work", "after")
        run = await system.client.start(durable)
        view, steps = await run.wait(PATIENCE), await run.steps()
    done = [step.scope[1] for step in steps if step.kind == "run" and step.status == "completed"]
    assert (view.status, view.compensation) == ("failed", "completed")
    assert told == [*reversed(done)]
    assert set(told) >= {0, 1, 2}


async def test_a_gather_of_which_one_part_fails_undoes_the_others() -> None:
    told: list[str] = []

    async def f(ctx: Context) -> None:
        async def part(name: str) -> None:
            if name == "a":
                await ctx.step.sleep("nap", "1s")
            await ctx.step.run(name, fails if name == "a" else str)
            ctx.step.compensate(name, told.append, name)
            await ctx.step.sleep(f"nap {name}", "1h")

        await asyncio.gather(*(part(name) for name in "cba"))

    durable = function(f)
    async with running_system(durable) as system:
        system.server.interceptor = kill_worker_at(system, ".step.a", "after")
        view = await system.run(durable)
    assert (view.status, view.compensation) == ("failed", "completed")
    assert sorted(told) == ["b", "c"]
