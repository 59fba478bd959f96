"""Runs a body as a step, in the pass that executes it and in one that replays it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import ironflow
from ironflow import Context, Retry
from tests.support.inprocess import running_system

ONCE = Retry(max_attempts=1)


async def two_passes(body: Callable[[], Any]) -> tuple[Any, Any]:
    """Run a body as a step, and return what the pass that runs it gets, and what a replay gets."""
    seen: list[Any] = []
    bodies = 0

    @functools.wraps(body)
    def counted() -> Any:
        nonlocal bodies
        bodies += 1
        return body()

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            seen.append(await ctx.step.run("work", counted))
        except Exception as error:  # noqa: BLE001 - it is what the table is about
            seen.append(error)
        await ctx.step.sleep("nap", 1)
        return "done"

    async with running_system(f) as system:
        assert await system.output(f) == "done"
    first, second = seen
    assert bodies == 1
    return first, second


def raising(error: BaseException) -> Callable[[], Any]:
    """Return a body that raises this."""

    def body() -> Any:
        raise error

    return body
