"""What becomes of what child runs did that are ended since nothing waits for them any more. On a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import ironflow
from ironflow import Context, Function, InvokeTimeoutError, NonRetryableError, Retry, Step, StepError
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, Unavailable
from ironflow.handles import RunHandle
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

UNDONE = ("cancelled", "completed")
"""The status and the compensation of a child that was cancelled and undid what it did."""


@ironflow.function(id="pay")
async def pay(ctx: Context) -> str:
    await ctx.step.run("charge", lambda: "charged")
    ctx.step.compensate("charge", lambda: "refunded")
    await ctx.step.sleep("settles", "5h")
    return "paid"


@ironflow.function(id="middle")
async def middle(ctx: Context) -> str:
    return await ctx.step.invoke(pay)


def fail() -> None:
    raise NonRetryableError("sold out")


async def fails_later(step: Step) -> None:
    await step.sleep("a-while", "1m")
    await step.run("reserve", fail)


@ironflow.function(id="waits")
async def waits(ctx: Context) -> str:
    return await ctx.step.invoke(middle)


@ironflow.function(id="has-little-time", timeout="1m")
async def has_little_time(ctx: Context) -> str:
    return await ctx.step.invoke(middle)


@ironflow.function(id="has-little-patience")
async def has_little_patience(ctx: Context) -> str:
    return await ctx.step.invoke(middle, timeout="1m")


@ironflow.function(id="gives-up-and-goes-on")
async def gives_up_and_goes_on(ctx: Context) -> str:
    try:
        return await ctx.step.invoke(middle, timeout="1m")
    except InvokeTimeoutError:
        return "went on"


@ironflow.function(id="has-a-branch-that-fails")
async def has_a_branch_that_fails(ctx: Context) -> None:
    await ctx.step.parallel("all", [lambda step: step.invoke(middle), fails_later])


@ironflow.function(id="goes-on-behind-a-branch-that-fails")
async def goes_on_behind_a_branch_that_fails(ctx: Context) -> str:
    try:
        await ctx.step.parallel("all", [lambda step: step.invoke(middle), fails_later])
    except StepError:
        return "went on"
    return "did not fail"


@ironflow.function(id="fails-beside")
async def fails_beside(ctx: Context) -> None:
    await asyncio.gather(ctx.step.invoke(middle), fails_later(ctx.step))


@ironflow.function(id="fails-outside-of-steps", retry=Retry(max_attempts=1))
async def fails_outside_of_steps(ctx: Context) -> None:
    async def fails(step: Step) -> None:
        await step.sleep("a-while", "1m")
        raise LookupError

    await ctx.step.parallel("all", [lambda step: step.invoke(middle), fails])


@ironflow.function(id="waits-for-what-never-comes")
async def waits_for_what_never_comes(ctx: Context) -> None:
    await asyncio.gather(ctx.step.invoke(middle), ctx.step.wait_for_event("ok", event="never", timeout="1m"))


async def the_run_of(system: System, function: str) -> RunHandle[Any]:
    (run,) = [run async for run in system.client.runs(function=function)]
    return run


async def end_of(system: System, function: str) -> tuple[str, str | None]:
    """Return how the run of a function has ended, a while from now, and how its undos went."""
    await asyncio.sleep(120)
    state = await (await the_run_of(system, function)).state()
    return state.status, state.compensation


@asynccontextmanager
async def parent_waits(parent: Function[Any, Any]) -> AsyncIterator[tuple[System, RunHandle[Any]]]:
    """Provide a parent whose grandchild has charged something."""
    async with running_system(parent, middle, pay) as system:
        run = await system.client.start(parent)
        await asyncio.sleep(30)
        yield system, run


@pytest.mark.parametrize(
    "parent",
    [
        has_little_time,
        has_little_patience,
        gives_up_and_goes_on,
        has_a_branch_that_fails,
        goes_on_behind_a_branch_that_fails,
        fails_beside,
        fails_outside_of_steps,
        waits_for_what_never_comes,
    ],
    ids=lambda parent: parent.id,
)
async def test_what_a_child_did_is_undone_when_nothing_waits_for_it_any_more(parent: Function[Any, Any]) -> None:
    async with parent_waits(parent) as (system, run):
        assert await end_of(system, "pay") == UNDONE
        assert (await (await the_run_of(system, "middle")).state()).status == "cancelled"
        assert (await run.state()).status == ("completed" if "goes-on" in parent.id else "failed")


async def test_a_cancel_that_is_to_undo_reaches_children_of_a_run_without_results_of_its_own() -> None:
    async with parent_waits(waits) as (system, run):
        assert await run.cancel(compensate=True)
        assert await end_of(system, "pay") == UNDONE
        assert [(await each.state()).status async for each in system.client.runs()] == ["cancelled"] * 3


async def test_a_cancel_that_is_to_undo_nothing_leaves_what_children_did() -> None:
    async with parent_waits(waits) as (system, run):
        assert await run.cancel()
        assert await end_of(system, "pay") == ("cancelled", None)


async def test_a_parent_that_is_retried_has_the_child_that_it_left_undone_and_starts_another_one() -> None:
    async with parent_waits(has_little_patience) as (system, run):
        assert (await run.wait("1h")).status == "failed"
        assert await end_of(system, "pay") == UNDONE
        assert await run.retry()
        await asyncio.sleep(30)
        statuses = sorted([(await each.state()).status async for each in system.client.runs(function="pay")])
        assert statuses == ["cancelled", "waiting"]


async def test_a_child_whose_end_cannot_be_recorded_at_first_is_undone_all_the_same() -> None:
    async with parent_waits(gives_up_and_goes_on) as (system, run):
        child = await the_run_of(system, "middle")
        end = system.names.journal_outcome("default", child.id, 1)
        refused: list[Stage] = []

        def refuse(stage: Stage, verb: str, what: str) -> BrokerError | None:
            if (stage, verb, what) != ("before", "publish", end) or len(refused) > 2:
                return None
            refused.append(stage)
            return Unavailable("nobody there")

        system.server.interceptor = refuse
        assert (await run.wait("1h")).status == "completed"
        assert await end_of(system, "pay") == UNDONE
        assert refused
