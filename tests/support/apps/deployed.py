"""Functions that are at work while their workers are replaced; each body that begins leaves a line in a file."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import ironflow
from ironflow import Context, Step


def witness(run: str, body: str) -> None:
    """Append a line in one write, so that lines of several processes never mix."""
    handle = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, f"{run} {body}\n".encode())
    finally:
        os.close(handle)


async def work(run: str, body: str, seconds: float) -> str:
    """Take some of the loop's time."""
    witness(run, body)
    await asyncio.sleep(seconds)
    return body


def toil(run: str, body: str, seconds: float) -> str:
    """Take a thread for a while."""
    witness(run, body)
    time.sleep(seconds)
    return body


@ironflow.function(id="part", queue="orders")
async def part(ctx: Context[float]) -> str:
    """Do what another run waits for."""
    return await ctx.step.run("part", work, ctx.run.id, "part", ctx.event.data)


@ironflow.function(id="mixed", queue="orders")
async def mixed(ctx: Context[dict[str, Any]]) -> str:
    """Do some of everything: bodies, a sleep, a child, an event, and branches."""
    run, seconds = ctx.run.id, ctx.event.data["seconds"]
    await ctx.step.run("first", work, run, "first", seconds)
    await ctx.step.run("plain", toil, run, "plain", seconds)
    await ctx.step.sleep("nap", "300ms")
    await ctx.step.invoke(part, seconds)
    await ctx.step.publish("deployed.news", {"of": run})
    await ctx.step.wait_for_event("news", event="deployed.news", match="of", value=run, timeout="60s")

    async def item(_: int, step: Step, index: int) -> str:
        return await step.run("item", work, run, f"item-{index}", seconds)

    await ctx.step.map("items", range(4), item, concurrency=2)
    return "done"


@ironflow.function(id="long", queue="orders")
async def long(ctx: Context[dict[str, Any]]) -> str:
    """Do one body after the other without a wait between them, for longer than a worker has to drain."""
    for number in range(ctx.event.data["bodies"]):
        await ctx.step.run(f"body-{number}", work, ctx.run.id, f"body-{number}", ctx.event.data["seconds"])
    return "done"
