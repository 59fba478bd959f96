"""A step that a handler calls and never awaits: nothing was done, and the run says so rather than complete."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

import ironflow
from ironflow import Context, NonRetryableError, Retry, StepError
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

Handler = Callable[[Context[Any]], Awaitable[Any]]


def function_of(handler: Handler) -> ironflow.Function[Any, Any]:
    @ironflow.function(id="f", retry=Retry(max_attempts=3))
    async def f(ctx: Context) -> Any:
        return await handler(ctx)

    return f


async def refuse() -> int:
    reason = "no"
    raise NonRetryableError(reason)


def limited(ctx: Context[Any], bodies: list[Callable[[], Any]], at_once: int = 1) -> list[Coroutine[Any, Any, Any]]:
    """Return steps of which so many are done at the same time."""
    turn = asyncio.Semaphore(at_once)

    async def in_turn(step: Awaitable[Any]) -> Any:
        async with turn:
            return await step

    return [in_turn(ctx.step.run(f"step {number}", body)) for number, body in enumerate(bodies)]


async def hour_long(step: Awaitable[Any]) -> Any:
    await asyncio.sleep(3600)
    return await step


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


async def forgets_one_beside_a_failure(ctx: Context[Any]) -> None:
    ctx.step.publish("mail.sent")  # type: ignore[unused-coroutine]
    with contextlib.suppress(StepError):
        await asyncio.gather(*limited(ctx, [refuse, int, int]))


async def forgets_one_that_was_in_a_variable(ctx: Context[Any]) -> None:
    asked = ctx.step.run("mail", int)
    asked = ctx.step.run("another mail", int)
    await asked


@pytest.mark.parametrize(
    ("handler", "call"),
    [
        (forgets_one_beside_a_failure, "step.publish('mail.sent', …)"),
        (forgets_one_that_was_in_a_variable, "step.run('mail', …)"),
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


async def keeps_some_waiting_for_their_turn(ctx: Context[Any]) -> int:
    with contextlib.suppress(StepError):
        await asyncio.gather(*limited(ctx, [refuse, int, int, int]))
    return 0


async def has_a_group_cancel_those_that_wait_for_their_turn(ctx: Context[Any]) -> int:
    try:
        async with asyncio.TaskGroup() as group:
            for step in limited(ctx, [refuse, int, int, int]):
                group.create_task(step)
    except* StepError:
        pass
    return 0


async def waits_for_the_first_and_cancels_the_others(ctx: Context[Any]) -> int:
    tasks = [asyncio.create_task(step) for step in limited(ctx, [int] * 4)]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    return sum(task.result() for task in done)


async def cancels_one_that_would_have_called_later(ctx: Context[Any]) -> int:
    task = asyncio.create_task(hour_long(ctx.step.run("late", int)))
    await ctx.step.run("s", int)
    task.cancel()
    del task
    return await ctx.step.run("t", int)


async def times_out_before_any_has_begun(ctx: Context[Any]) -> int:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await hour_long(ctx.step.run("late", int))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await asyncio.gather(*(hour_long(ctx.step.run(f"late {number}", int)) for number in range(3)))
    return await ctx.step.run("s", int)


async def comes_to_no_need_for_one(ctx: Context[Any]) -> int:
    prepared = ctx.step.run("mail", int)
    try:
        await ctx.step.run("fail", refuse)
    except StepError:
        return 0
    return await prepared


GIVEN_UP = [
    keeps_some_waiting_for_their_turn,
    has_a_group_cancel_those_that_wait_for_their_turn,
    waits_for_the_first_and_cancels_the_others,
    cancels_one_that_would_have_called_later,
    times_out_before_any_has_begun,
    comes_to_no_need_for_one,
]


@pytest.mark.parametrize(
    "handler",
    [awaits_later, gathers, makes_tasks, cancels_one_that_has_not_begun, closes_one, *GIVEN_UP],
    ids=lambda value: value.__name__,
)
@pytest.mark.parametrize("passes", [1, 3])
async def test_a_step_may_be_awaited_later_by_others_or_be_given_up(passes: int, handler: Handler) -> None:
    async def handles(ctx: Context[Any]) -> Any:
        result = await handler(ctx)
        for number in range(1, passes):
            await ctx.step.sleep(f"nap {number}", "1m")
        return result

    f = function_of(handles)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with running_system(f) as system:
            assert await (await system.client.start(f)).result("3h") == 0
        gc.collect()


async def test_a_step_that_somebody_has_let_go_is_logged() -> None:
    f = function_of(comes_to_no_need_for_one)
    async with running_system(f) as system:
        with capture_logs() as logs:
            assert await system.output(f) == 0
    told = [log for log in logs if log["event"] == "a step was called and not awaited, nothing was done"]
    assert [(log["log_level"], log["call"]) for log in told] == [("warning", "step.run('mail', …)")]


async def test_an_error_of_the_handler_comes_first() -> None:
    async def forgets_and_fails(ctx: Context[Any]) -> None:
        ctx.step.run("mail", int).close()
        raise ironflow.NonRetryableError("no")

    f = function_of(forgets_and_fails)
    async with running_system(f) as system:
        with pytest.raises(ironflow.RunFailedError, match="NonRetryableError: no"):
            await (await system.client.start(f)).result("1h")
