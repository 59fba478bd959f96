"""A pass that has ended leaves nothing behind: its journal and its event go at once, and not when the collector comes.

That looks at the young objects of a busy worker now and then only, and at the old ones hardly ever.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator

import pytest

import ironflow
from ironflow import Context, Retry, Step, StepError
from ironflow_worker.current_pass import CurrentPass
from ironflow_worker.memo import Memo
from ironflow_worker.replay import Replay
from tests.support import eventually
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

ONCE = Retry(max_attempts=1)


async def works() -> int:
    return 1


async def fails() -> None:
    raise ValueError("as it is meant to")


def fails_in_a_thread() -> None:
    raise ValueError("as it is meant to")


async def takes_long() -> None:
    await asyncio.sleep(60)


async def branch(step: Step) -> int:
    return await step.run("work", works)


async def failing_branch(step: Step) -> None:
    await step.run("work", fails)


async def sleeps_for_long(step: Step) -> None:
    await step.sleep("long", 7)


async def sleeps_and_waits(step: Step) -> None:
    await step.sleep("short", 5)
    await step.wait_for_event("answer", event="answer", timeout=5, on_timeout="none")


async def sleeping_item(_: int, step: Step, __: int) -> None:
    await step.sleep("nap", 5)


@ironflow.function(id="pass-that-completes")
async def completes(ctx: Context) -> None:
    await ctx.step.run("work", works)
    await ctx.step.run("in a thread", lambda: None)
    await ctx.step.parallel("all", [branch, branch])


@ironflow.function(id="pass-that-sleeps")
async def sleeps(ctx: Context) -> None:
    await ctx.step.run("work", works)
    await ctx.step.sleep("short", 1)
    await ctx.step.sleep("long", "10m")
    await ctx.step.map("naps", [1, 2], sleeping_item)


@ironflow.function(id="pass-that-ends-while-it-waits-for-a-sleep")
async def ends_before_a_sleep(ctx: Context) -> None:
    await ctx.step.parallel("both", [sleeps_for_long, sleeps_and_waits])


@ironflow.function(id="pass-that-waits")
async def waits(ctx: Context) -> None:
    await ctx.step.wait_for_event("answer", event="answer", timeout=5, on_timeout="none")
    await ctx.step.invoke(completes)


@ironflow.function(id="pass-that-lingers-in-vain")
async def lingers_in_vain(ctx: Context) -> None:
    await ctx.step.wait_for_event("answer", event="answer", timeout=10, on_timeout="none")


@ironflow.function(id="pass-that-lingers-and-is-told")
async def lingers(ctx: Context) -> None:
    await ctx.step.invoke_async(answers)
    await ctx.step.wait_for_event("answer", event="answer", timeout="1h")
    await ctx.step.run("work", works)


@ironflow.function(id="pass-that-answers")
async def answers(ctx: Context) -> None:
    await ctx.step.publish("answer")


@ironflow.function(id="pass-that-tries-again", retry=Retry(max_attempts=3, initial_delay="10s"))
async def tries_again(ctx: Context) -> None:
    await ctx.step.run("work", fails)


@ironflow.function(id="pass-that-undoes", retry=ONCE)
async def undoes(ctx: Context) -> None:
    await ctx.step.run("work", works)
    ctx.step.compensate("work", works)
    await ctx.step.run("fails", fails_in_a_thread)


@ironflow.function(id="pass-that-raises", retry=ONCE)
async def raises(ctx: Context) -> None:
    await ctx.step.run("work", works)
    raise ValueError("as it is meant to")


@ironflow.function(id="pass-that-catches", retry=ONCE)
async def catches(ctx: Context) -> None:
    try:
        await ctx.step.run("work", fails)
    except StepError:
        await ctx.step.run("else", works)


@ironflow.function(id="pass-that-takes-too-long", retry=ONCE)
async def takes_too_long(ctx: Context) -> None:
    await ctx.step.run("work", takes_long, timeout="1s")


@ironflow.function(id="pass-that-loses-a-branch", retry=ONCE)
async def loses_a_branch(ctx: Context) -> None:
    await ctx.step.parallel("settled", [branch, failing_branch], on_error="all_settled")
    await ctx.step.parallel("all", [branch, failing_branch])


@pytest.fixture
def left() -> Iterator[Callable[[], list[str]]]:
    """What is there of passes, while the collector does not come, but for what a failed test before this one keeps."""
    gc.collect()
    before = _of_passes()
    gc.disable()
    yield lambda: [type(each).__name__ for each in _of_passes() if not any(each is known for known in before)]
    gc.enable()


def _of_passes() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, CurrentPass | Memo | Replay)]


@pytest.mark.parametrize(
    ("function", "status"),
    [
        (completes, "completed"),
        (sleeps, "completed"),
        (ends_before_a_sleep, "completed"),
        (waits, "completed"),
        (lingers_in_vain, "completed"),
        (lingers, "completed"),
        (tries_again, "failed"),
        (undoes, "failed"),
        (raises, "failed"),
        (catches, "completed"),
        (takes_too_long, "failed"),
        (loses_a_branch, "failed"),
    ],
    ids=lambda value: value.id if isinstance(value, ironflow.Function) else value,
)
async def test_a_pass_that_has_ended_leaves_nothing_to_the_garbage_collector(
    function: ironflow.Function[object, object], status: str, left: Callable[[], list[str]]
) -> None:
    async with running_system(function, completes, answers) as system:
        assert (await (await system.client.start(function)).wait("1h")).status == status

        async def nothing() -> None:
            assert left() == []

        await eventually(nothing)
