"""What a branch may do that was cancelled because another one had failed, on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

import ironflow
from ironflow import Context, NonRetryableError, Retry, Step, StepError
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

ONCE = Retry(max_attempts=1)
REFUSED = "a branch was cancelled, and cannot begin a step any more"

Part = Callable[[Step], Awaitable[Any]]


async def refuse(reason: str = "no") -> int:
    raise NonRetryableError(reason)


async def fails_soon(step: Step) -> None:
    await step.run("wait a little", asyncio.sleep, 1)
    await step.run("fail", refuse, "the other branch")


async def raises_soon(step: Step) -> None:
    await asyncio.sleep(1)
    reason = "the other branch"
    raise NonRetryableError(reason)


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("fails", [fails_soon, raises_soon])
@pytest.mark.parametrize("how", ["finally", "except"])
@pytest.mark.parametrize(
    "cancelled_in",
    [
        lambda step: step.run("long", asyncio.sleep, 60),
        lambda step: step.sleep("long", "10m"),
        lambda step: step.wait_for_event("long", event="never.sent"),
        lambda step: step.parallel("long", [lambda own: own.sleep("nap", "10m")]),
        lambda _: asyncio.sleep(60),
    ],
    ids=["body", "sleep", "event", "parallel", "plain await"],
)
@pytest.mark.parametrize(
    "clean_up",
    [
        lambda step: step.run("unlock", int),
        lambda step: step.publish("lock.released"),
        lambda step: step.sleep("grace", "1m"),
        lambda step: step.wait_for_event("quiet", event="never.sent"),
        lambda step: step.parallel("all", [lambda own: own.run("unlock", int)]),
    ],
    ids=["run", "publish", "sleep", "event", "parallel"],
)
async def test_a_cancelled_branch_can_start_no_step_and_its_parallel_ends(
    clean_up: Part, cancelled_in: Part, how: str, fails: Part
) -> None:
    async def cleans_up(step: Step) -> None:
        await step.run("lock", int)
        if how == "finally":
            try:
                await cancelled_in(step)
            finally:
                await clean_up(step)
        else:
            try:
                await cancelled_in(step)
            except asyncio.CancelledError:
                await clean_up(step)
                raise

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        await ctx.step.parallel("both", [fails, cleans_up])

    async with running_system(f) as system:
        run = await system.client.start(f)
        with capture_logs() as logs:
            view = await run.wait("5m")
        recorded = {step.name for step in await run.steps()}
    assert view.status == "failed"
    assert view.error is not None
    assert "the other branch" in view.error.message
    assert recorded.isdisjoint({"unlock", "publish:lock.released", "grace", "quiet"})
    assert [log["log_level"] for log in logs if log["event"] == REFUSED] == ["warning"]


async def test_a_branch_within_a_cancelled_one_can_start_no_step_either() -> None:
    begun: list[str] = []

    async def inner(step: Step) -> None:
        try:
            await step.run("long", asyncio.sleep, 60)
        finally:
            await step.run("unlock", begun.append, "unlock")

    async def outer(step: Step) -> None:
        await step.map("items", range(3), lambda _, own, __: inner(own), on_error="all_settled")

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        await ctx.step.parallel("both", [outer, fails_soon])

    async with running_system(f) as system:
        view = await (await system.client.start(f)).wait("5m")
    assert view.status == "failed"
    assert begun == []


async def test_what_a_cancelled_branch_has_started_and_waits_for_can_start_no_step_either() -> None:
    begun: list[str] = []
    passes = 0

    async def waits_for_its_task(step: Step) -> None:
        # A replay holds the new step back until it is known whether the other branch fails again.
        task = asyncio.create_task(step.run("new", begun.append, "new")) if passes > 1 else None
        try:
            await asyncio.sleep(60)
        finally:
            if task is not None:
                await asyncio.wait([task])

    async def fails_after_a_while(step: Step) -> None:
        with contextlib.suppress(StepError):
            await step.run("fail", refuse)
        await asyncio.sleep(10)
        await step.run("fail too", refuse)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        nonlocal passes
        passes += 1
        with contextlib.suppress(StepError):
            await ctx.step.parallel("both", [waits_for_its_task, fails_after_a_while])
        await ctx.step.sleep("nap", "1m")
        return "done"

    async with running_system(f) as system:
        assert await (await system.client.start(f)).result("10m") == "done"
    assert begun == []


async def test_a_branch_that_is_cancelled_at_a_new_step_can_await_what_is_no_step() -> None:
    cleaned_up: list[float] = []

    async def has_caught_a_failure(step: Step) -> None:
        # It may raise that failure yet, so it is cancelled no sooner than it comes to its next step.
        with contextlib.suppress(StepError):
            await step.run("caught", refuse)
        await asyncio.sleep(5)
        try:
            await step.run("new", refuse)
        finally:
            await asyncio.sleep(1)
            cleaned_up.append(now())

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        await ctx.step.parallel("both", [has_caught_a_failure, raises_soon])

    async with running_system(f) as system:
        assert (await (await system.client.start(f)).wait("5m")).status == "failed"
    assert len(cleaned_up) == 1


async def test_a_cancelled_branch_that_asks_for_steps_in_a_loop_leaves_the_worker_to_others() -> None:
    asked = Counter[str]()

    async def insists(step: Step) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        until = now() + 30
        while now() < until:
            asked["steps"] += 1
            with contextlib.suppress(asyncio.CancelledError):
                await step.run(f"unlock {asked['steps']}", int)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        await ctx.step.parallel("both", [insists, raises_soon])

    async with running_system(f) as system:
        assert (await (await system.client.start(f)).wait("5m")).status == "failed"
    assert asked["steps"] < 60


@pytest.mark.parametrize("fails", [fails_soon, raises_soon])
async def test_what_is_done_behind_a_parallel_whose_branch_asked_for_a_step_too_late_is_undone(fails: Part) -> None:
    undone: list[str] = []

    async def cleans_up(step: Step) -> None:
        await step.run("lock", int)
        step.compensate("lock", undone.append, "lock")
        try:
            await step.run("long", asyncio.sleep, 60)
        finally:
            await step.run("unlock", int)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        with contextlib.suppress(StepError, NonRetryableError):
            await ctx.step.parallel("both", [cleans_up, fails])
        await ctx.step.run("behind", int)
        ctx.step.compensate("behind", undone.append, "behind")
        await ctx.step.run("fail too", refuse)

    async with running_system(f) as system:
        view = await (await system.client.start(f)).wait("10m")
    assert (view.status, view.compensation) == ("failed", "completed")
    assert undone == ["behind", "lock"]


async def test_cleaning_up_behind_the_parallel_works() -> None:
    unlocked: list[int] = []

    async def locks(index: int, step: Step) -> None:
        await step.run("lock", int)
        await step.run("long", asyncio.sleep, 60)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        branches: list[Part] = [fails_soon, partial(locks, 0), partial(locks, 1)]
        try:
            await ctx.step.parallel("all", branches)
        finally:
            for index in range(2):
                await ctx.step.run(f"unlock {index}", unlocked.append, index)

    async with running_system(f) as system:
        assert (await (await system.client.start(f)).wait("5m")).status == "failed"
    assert unlocked == [0, 1]
