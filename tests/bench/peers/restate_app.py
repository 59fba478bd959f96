"""The workloads' workflows for Restate: ``python -m tests.bench.peers.restate_app PORT``."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import sys
import time
from pathlib import Path

import restate
import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.bench.peers.bodies import clock, seen, trivial

bench = restate.Service("bench")


@bench.handler()
async def three(ctx: restate.Context) -> int:
    """Run three steps."""
    return await steps(ctx, 3)


@bench.handler()
async def many(ctx: restate.Context, number: int) -> int:
    """Run so many steps, one after another."""
    return await steps(ctx, number)


async def steps(ctx: restate.Context, many: int) -> int:
    """Run so many steps."""
    return sum([await ctx.run_typed(f"step-{number}", trivial, number=number) for number in range(many)])


@bench.handler()
async def nap(ctx: restate.Context, seconds: float) -> list[float]:
    """Sleep, and return when that began and ended."""
    begun = await ctx.run_typed("begun", clock)
    await ctx.sleep(dt.timedelta(seconds=seconds))
    return [begun, time.time()]


def write(path: str, text: str) -> None:
    """Write a file."""
    Path(path).write_text(text, encoding="utf-8")


@bench.handler()
async def wait(ctx: restate.Context, told: str) -> float:
    """Leave the address of an event in a file, wait for it, and return when it came."""
    address, event = ctx.awakeable()

    await ctx.run_typed("tell", write, path=told, text=address)
    await event
    return time.time()


@bench.handler()
async def fan(ctx: restate.Context, many: int) -> int:
    """Run steps in parallel, in groups of fifty: the SDK cannot wait for "one of these, then start another" cheaply."""
    for first in range(0, many, 50):
        group = range(first, min(first + 50, many))
        await restate.gather(*(ctx.run_typed(f"step-{number}", trivial, number=number) for number in group))
    return many


@bench.handler()
async def slow(ctx: restate.Context, argument: list) -> None:
    """Run ten steps that take a while."""
    witness, run = argument
    for number in range(10):
        await ctx.run_typed(f"step-{number}", seen, witness=witness, name=f"{run}/{number}")


async def main(port: int) -> None:
    """Serve; several processes may share the port."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    await serve(restate.app([bench]), config, shutdown_trigger=asyncio.Event().wait)


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1])))
