"""Small functions for the process tests. Each body writes a line to the file that WITNESS names."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import ironflow
from ironflow import Context, Retry, Step


def witness(line: str) -> None:
    """Append a line in one write, so that lines of several processes never mix."""
    handle = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, f"{line}\n".encode())
    finally:
        os.close(handle)


async def count(run: str, number: int) -> int:
    """Be seen, and return the number."""
    witness(f"{run} {number}")
    return number


@ironflow.function(id="ten-steps", queue="orders", triggers=["ten"])
async def ten_steps(ctx: Context) -> int:
    """Run ten steps, one after another."""
    return sum([await ctx.step.run(f"step-{number}", count, ctx.run.id, number) for number in range(1, 11)])


async def pass_gate(run: str, number: int) -> int:
    """Be seen, with the process that this is, then block until the test opens the gate."""
    witness(f"{run} {number}")
    witness(f"{run} is in {os.getpid()}")
    gate = Path(os.environ["GATE"])
    while not await asyncio.to_thread(gate.exists):  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.01)
    return number


@ironflow.function(id="gated", queue="orders", triggers=["gated"])
async def gated(ctx: Context) -> int:
    """Run ten steps, of which the seventh blocks."""
    total = 0
    for number in range(1, 11):
        body = pass_gate if number == 7 else count
        total += await ctx.step.run(f"step-{number}", body, ctx.run.id, number)
    return total


async def need_gate(run: str) -> str:
    """Be seen, and fail as long as the gate is closed."""
    witness(f"{run} gate")
    if not await asyncio.to_thread(Path(os.environ["GATE"]).exists):
        msg = "the gate is closed"
        raise ConnectionError(msg)
    return "through"


@ironflow.function(id="needs-gate", queue="orders", triggers=["needs-gate"], retry=Retry(max_attempts=1))
async def needs_gate(ctx: Context) -> str:
    """Run a step, and then one that fails as long as the gate is closed."""
    await ctx.step.run("first", count, ctx.run.id, 1)
    return await ctx.step.run("gate", need_gate, ctx.run.id)


async def short_work() -> int:
    """Take 20 ms and say who did it."""
    await asyncio.sleep(0.02)
    return os.getpid()


@ironflow.function(id="shared", queue="orders", triggers=["shared"])
async def shared(ctx: Context) -> int:
    """Say which process has executed it."""
    return await ctx.step.run("work", short_work)


@ironflow.function(id="sleeper", queue="orders", triggers=["sleep"])
async def sleeper(ctx: Context[float]) -> str:
    """Sleep for as many seconds as the event says."""
    await ctx.step.run("before", count, ctx.run.id, 1)
    await ctx.step.sleep("nap", ctx.event.data)
    await ctx.step.run("after", count, ctx.run.id, 2)
    return "awake"


@ironflow.function(id="hurried", queue="orders", timeout="2s")
async def hurried(ctx: Context) -> None:
    """Sleep for longer than the run may take."""
    await ctx.step.sleep("nap", "1h")


async def double(number: int) -> int:
    """Do as little as a body can."""
    return 2 * number


@ironflow.function(id="doubles", queue="orders", triggers=["doubles"])
async def doubles(ctx: Context[int]) -> list[int]:
    """Map as many items as the event says."""

    async def each(item: int, step: Step, index: int) -> int:
        return await step.run("double", double, item)

    return await ctx.step.map("all", range(ctx.event.data), each)


async def seen_double(number: int) -> int:
    """Say who does it, and do as little as a body can."""
    witness(f"{os.getpid()} {number}")
    return 2 * number


@ironflow.function(id="seen-doubles", queue="orders")
async def seen_doubles(ctx: Context[int]) -> list[int]:
    """Map as many items as the event says, a hundred at a time."""

    async def each(item: int, step: Step, index: int) -> int:
        return await step.run("double", seen_double, item)

    return await ctx.step.map("all", range(ctx.event.data), each, concurrency=100)


@ironflow.function(
    id="flaky", queue="orders", triggers=["flaky"], retry=Retry(max_attempts=3, initial_delay="200ms", jitter=0)
)
async def flaky(ctx: Context) -> int:
    """Fail twice, then succeed."""

    def attempt() -> int:
        witness(f"{ctx.run.id} attempt")
        lines = Path(os.environ["WITNESS"]).read_text().splitlines()
        if lines.count(f"{ctx.run.id} attempt") < 3:
            msg = "not yet"
            raise RuntimeError(msg)
        return 3

    return await ctx.step.run("attempt", attempt)


@ironflow.function(id="racer", queue="orders", triggers=["race"])
async def racer(ctx: Context) -> bool:
    """Say whether the event came before two seconds were over."""
    event = await ctx.step.wait_for_event("flag", event="flag", match="n", timeout="2s", on_timeout="none")
    return event is not None


async def pause(milliseconds: int) -> int:
    """Let some time go by."""
    await asyncio.sleep(milliseconds / 1000)
    return milliseconds


@ironflow.function(id="late-waiter", queue="orders", triggers=["late"])
async def late_waiter(ctx: Context) -> bool:
    """Wait for an event that was published 0 to 50 ms before, and say whether it came."""
    number = ctx.event.data["n"]
    await ctx.step.publish("early", {"n": number})
    await ctx.step.run("pause", pause, number % 51)
    event = await ctx.step.wait_for_event("flag", event="early", match="n", timeout="20s", on_timeout="none")
    return event is not None


@ironflow.function(id="old-waiter", queue="orders", triggers=["begin"])
async def old_waiter(ctx: Context) -> bool:
    """Wait for an event that has come long ago when the run begins to wait for it, and say whether it is found."""
    await ctx.step.wait_for_event("go", event="go", match="wave", timeout="1h")
    event = await ctx.step.wait_for_event("flag", event="paid", match="n", timeout="10m", on_timeout="none")
    return event is not None


@ironflow.function(id="patient", queue="orders")
async def patient(ctx: Context[str]) -> str:
    """Wait for an event that names this run's data."""
    await ctx.step.run("before", count, ctx.run.id, 1)
    event = await ctx.step.wait_for_event("word", event="word", match="of", value=ctx.event.data, timeout="1h")
    await ctx.step.run("after", count, ctx.run.id, 2)
    return str(event.data["says"])


@ironflow.function(id="delegates", queue="orders")
async def delegates(ctx: Context) -> str:
    """Start a run of another function, and leave it to itself."""
    return await ctx.step.invoke_async(sleeper, 0.1)


@ironflow.function(id="parent", queue="orders")
async def parent(ctx: Context[float]) -> str:
    """Wait for a child that sleeps."""
    await ctx.step.run("before", count, ctx.run.id, 1)
    return await ctx.step.invoke(sleeper, ctx.event.data)
