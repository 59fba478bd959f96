"""The workloads' workflows for Ironflow."""

from __future__ import annotations

import asyncio
import os
import time

import ironflow
from ironflow import Context, Step

QUEUE = "bench"


async def trivial(number: int) -> int:
    """Do nothing that takes time."""
    return number


@ironflow.function(id="three", queue=QUEUE)
async def three(ctx: Context[None]) -> int:
    """Run three steps."""
    total = 0
    for number in range(3):
        total += await ctx.step.run(f"step-{number}", trivial, number)
    return total


@ironflow.function(id="many", queue=QUEUE)
async def many(ctx: Context[int]) -> int:
    """Run as many steps as asked for, one after another."""
    total = 0
    for number in range(ctx.event.data):
        total += await ctx.step.run(f"step-{number}", trivial, number)
    return total


async def clock() -> float:
    """Return the time."""
    return time.time()


@ironflow.function(id="nap", queue=QUEUE)
async def nap(ctx: Context[float]) -> list[float]:
    """Sleep, and return when that began and ended."""
    begun = await ctx.step.run("begun", clock)
    await ctx.step.sleep("nap", ctx.event.data)
    return [begun, time.time()]


@ironflow.function(id="wait", queue=QUEUE)
async def wait(ctx: Context[str]) -> float:
    """Wait for the event with this run's key, and return when it came."""
    await ctx.step.wait_for_event("event", event="bench.go", match="key", value=ctx.event.data)
    return time.time()


@ironflow.function(id="woken", queue=QUEUE)
async def woken(ctx: Context[tuple[str, int, int]]) -> None:
    """Run many steps, then wait for one event after another."""
    key, steps, waits = ctx.event.data
    for number in range(steps):
        await ctx.step.run(f"step-{number}", trivial, number)
    for number in range(waits):
        await ctx.step.wait_for_event(f"event-{number}", event="bench.go", match="key", value=f"{key}-{number}")


@ironflow.function(id="fan", queue=QUEUE)
async def fan(ctx: Context[int]) -> int:
    """Run steps in parallel, fifty at once."""

    async def one(number: int, step: Step, _index: int) -> int:
        return await step.run("work", trivial, number)

    return len(await ctx.step.map("all", list(range(ctx.event.data)), one, concurrency=50))


async def seen(witness: str, name: str) -> None:
    """Leave word of having run, and take 50 ms."""
    handle = os.open(witness, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, f"{name}\n".encode())
    finally:
        os.close(handle)
    await asyncio.sleep(0.05)


@ironflow.function(id="slow", queue=QUEUE)
async def slow(ctx: Context[tuple[str, int]]) -> None:
    """Run ten steps that take a while."""
    witness, run = ctx.event.data
    for number in range(10):
        await ctx.step.run(f"step-{number}", seen, witness, f"{run}/{number}")
