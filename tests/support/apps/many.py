"""Fifty functions, for whoever counts what each of them costs."""

from __future__ import annotations

import ironflow
from ironflow import Context

COUNT = 50


async def double(number: int) -> int:
    """Do as little as a body can."""
    return 2 * number


def define(number: int) -> None:
    """Define one of the functions; every tenth run of each fails."""

    @ironflow.function(id=f"many-{number}", queue="orders", retry=ironflow.Retry(max_attempts=1))
    async def one_of_many(ctx: Context[int]) -> int:
        if ctx.event.data % 10 == 0:
            raise ironflow.NonRetryableError("every tenth")
        return await ctx.step.run("double", double, ctx.event.data)


for each in range(COUNT):
    define(each)
