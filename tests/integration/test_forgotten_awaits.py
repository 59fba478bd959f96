"""A step that a handler calls and never awaits: nothing was done, and the run says so rather than complete."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import ironflow
from ironflow import Context, Retry
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

Handler = Callable[[Context[Any]], Awaitable[Any]]


def function_of(handler: Handler) -> ironflow.Function[Any, Any]:
    @ironflow.function(id="f", retry=Retry(max_attempts=3))
    async def f(ctx: Context) -> Any:
        return await handler(ctx)

    return f


async def child(ctx: Context) -> None:
    """Do nothing."""


async def forgets_a_run(ctx: Context[Any]) -> None:
    ctx.step.run("mail", int)  # type: ignore[unused-coroutine]


async def forgets_a_sleep_and_more(ctx: Context[Any]) -> None:
    ctx.step.sleep("night", "8h")  # type: ignore[unused-coroutine]
    await ctx.step.run("mail", int)
    ctx.step.publish("mail.sent")  # type: ignore[unused-coroutine]


async def forgets_a_wait_by_name(ctx: Context[Any]) -> None:
    ctx.step.wait_for_event(name="paid", event="order.paid")  # type: ignore[unused-coroutine]


async def forgets_in_a_branch(ctx: Context[Any]) -> None:
    async def branch(step: ironflow.Step) -> None:
        step.run("inner", int)  # type: ignore[unused-coroutine]

    await ctx.step.parallel("both", [branch])


async def forgets_a_parallel(ctx: Context[Any]) -> None:
    ctx.step.parallel("both", [])  # type: ignore[unused-coroutine]


async def forgets_one_of_many(ctx: Context[Any]) -> None:
    for number in range(200):
        asked = ctx.step.run(f"s-{number}", int)
        if number != 100:
            await asked


@pytest.mark.parametrize(
    ("handler", "call"),
    [
        (forgets_a_run, "step.run('mail', …)"),
        (forgets_a_sleep_and_more, "step.sleep('night', …)"),
        (forgets_a_wait_by_name, "step.wait_for_event('paid', …)"),
        (forgets_in_a_branch, "step.run('inner', …)"),
        (forgets_a_parallel, "step.parallel('both', …)"),
        (forgets_one_of_many, "step.run('s-100', …)"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_run_whose_handler_forgot_to_await_a_step_fails_and_says_which(handler: Handler, call: str) -> None:
    f = function_of(handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with running_system(f) as system:
            run = await system.client.start(f)
            with pytest.raises(ironflow.RunFailedError) as caught:
                await run.result("1h")
            assert (await run.state()).attempt == 1
        gc.collect()
    text = f"DefinitionError: {call} was called and never awaited, so nothing was done; write 'await' in front of it"
    assert text in str(caught.value)


async def awaits_later(ctx: Context[Any]) -> int:
    first = ctx.step.run("first", int)
    await ctx.step.sleep("nap", "1h")
    return await first


async def gathers(ctx: Context[Any]) -> int:
    return sum(await asyncio.gather(*(ctx.step.run(f"s-{number}", int) for number in range(200))))


async def makes_tasks(ctx: Context[Any]) -> int:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ctx.step.run(f"s-{number}", int)) for number in range(3)]
    return sum(task.result() for task in tasks)


async def cancels_one_that_has_not_begun(ctx: Context[Any]) -> int:
    task = asyncio.create_task(ctx.step.run("never", int))
    task.cancel()
    return await ctx.step.run("s", int)


async def closes_one(ctx: Context[Any]) -> int:
    ctx.step.run("never", int).close()
    return 0


@pytest.mark.parametrize(
    "handler",
    [awaits_later, gathers, makes_tasks, cancels_one_that_has_not_begun, closes_one],
    ids=lambda value: value.__name__,
)
async def test_a_step_may_be_awaited_later_by_others_or_be_given_up(handler: Handler) -> None:
    f = function_of(handler)
    async with running_system(f) as system:
        assert await (await system.client.start(f)).result("2h") == 0


async def test_an_error_of_the_handler_comes_first() -> None:
    async def forgets_and_fails(ctx: Context[Any]) -> None:
        ctx.step.run("mail", int).close()
        raise ironflow.NonRetryableError("no")

    f = function_of(forgets_and_fails)
    async with running_system(f) as system:
        with pytest.raises(ironflow.RunFailedError, match="NonRetryableError: no"):
            await (await system.client.start(f)).result("1h")
