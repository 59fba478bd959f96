"""A family of functions on two queues, for the process tests."""

from __future__ import annotations

from typing import Any

import ironflow
from ironflow import Context, InvokeError, Step


@ironflow.function(id="pay", queue="payments")
async def pay(ctx: Context) -> int:
    """Take a moment, and return what was asked for, or fail."""
    await ctx.step.sleep("settle", "500ms")
    if ctx.event.data < 0:
        msg = f"cannot pay {ctx.event.data}"
        raise ironflow.NonRetryableError(msg)
    return int(ctx.event.data)


@ironflow.function(id="wait-long", queue="payments")
async def wait_long(ctx: Context) -> None:
    """Go on for longer than any test."""
    await ctx.step.sleep("long", "1h")


@ironflow.function(id="buy", queue="orders")
async def buy(ctx: Context) -> list[Any]:
    """Pay some amounts at the same time, see one fail and one take too long."""

    async def one(amount: int, step: Step, _: int) -> int:
        return await step.invoke(pay, amount)

    seen: list[Any] = list(await ctx.step.map("amounts", ctx.event.data, one))
    try:
        await ctx.step.invoke(pay, -1, name="fails")
    except InvokeError as error:
        seen.append(type(error).__name__)
    try:
        await ctx.step.invoke(wait_long, timeout="1s")
    except InvokeError as error:
        seen.append(type(error).__name__)
    return seen


@ironflow.function(id="parent", queue="orders")
async def parent(ctx: Context) -> None:
    """Wait for a child that takes long."""
    await ctx.step.invoke(wait_long)
