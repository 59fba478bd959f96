"""Steps that a handler asks for in another thread, or in an event loop of its own there: refused before they begin."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import ironflow
from ironflow import Context, Retry, Step
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

Handler = Callable[[Context[Any]], Awaitable[Any]]

begun: list[str] = []


def work() -> int:
    begun.append("work")
    return 1


async def two_branches(step: Step) -> int:
    return sum(await step.parallel("both", [lambda step: step.run("work", work)] * 2))


async def in_a_thread(ctx: Context[Any]) -> int:
    return await asyncio.to_thread(lambda: asyncio.run(ctx.step.run("work", work)))


async def in_a_loop_in_a_thread(ctx: Context[Any]) -> int:
    async def there() -> int:
        return await ctx.step.run("work", work)

    return await asyncio.to_thread(lambda: asyncio.run(there()))


async def branches_in_a_thread(ctx: Context[Any]) -> int:
    return await asyncio.to_thread(lambda: asyncio.run(two_branches(ctx.step)))


async def in_a_thread_of_its_own(ctx: Context[Any]) -> int:
    ended = asyncio.get_running_loop().create_future()

    def there() -> None:
        try:
            asyncio.run(ctx.step.run("work", work))
        except Exception as error:  # noqa: BLE001 - the handler is handed whatever it is
            ended.get_loop().call_soon_threadsafe(ended.set_exception, error)

    threading.Thread(target=there).start()
    result: int = await ended
    return result


@pytest.mark.parametrize("handler", [in_a_thread, in_a_loop_in_a_thread, branches_in_a_thread, in_a_thread_of_its_own])
async def test_a_step_in_the_event_loop_of_a_thread_is_refused(handler: Handler) -> None:
    begun.clear()

    @ironflow.function(id="f", retry=Retry(max_attempts=3))
    async def f(ctx: Context) -> Any:
        return await handler(ctx)

    async with running_system(f) as system:
        run = await system.run(f)
        steps = await system.client.run(run.id).steps()
    assert run.error is not None
    assert run.error.type == "DefinitionError"
    assert "was asked for outside of the event loop that its handler runs in" in run.error.message
    assert (begun, steps) == ([], [])


async def test_a_step_that_a_thread_hands_to_the_handlers_loop_runs() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> int:
        loop = asyncio.get_running_loop()

        def there() -> int:
            return asyncio.run_coroutine_threadsafe(ctx.step.run("work", work), loop).result()

        return await asyncio.to_thread(there)

    async with running_system(f) as system:
        assert await system.output(f) == 1
