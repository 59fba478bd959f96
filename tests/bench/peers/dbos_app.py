"""The workloads' workflows for DBOS: ``python -m tests.bench.peers.dbos_app DATABASE_URL EXECUTOR``."""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop
from dbos import DBOS

from tests.bench.peers.bodies import clock, seen, trivial

QUEUE = "bench"
VERSION = "bench"
RUNNING_AT_A_TIME = 100
"""Workflows per worker. More was no faster."""
POLL_SECONDS = 0.01


async def steps(many: int) -> int:
    """Run so many steps."""
    return sum([await DBOS.run_step_async({"name": f"step-{n}"}, trivial, n) for n in range(many)])


@DBOS.workflow(name="three")
async def three() -> int:
    """Run three steps."""
    return await steps(3)


@DBOS.workflow(name="many")
async def many(number: int) -> int:
    """Run so many steps, one after another."""
    return await steps(number)


@DBOS.workflow(name="nap")
async def nap(seconds: float) -> list[float]:
    """Sleep, and return when that began and ended."""
    begun = await DBOS.run_step_async({"name": "begun"}, clock)
    await DBOS.sleep_async(seconds)
    return [begun, time.time()]


@DBOS.workflow(name="wait")
async def wait() -> float:
    """Wait for a message, and return when it came."""
    await DBOS.recv_async("go", timeout_seconds=60)
    return time.time()


@DBOS.workflow(name="fan")
async def fan(many: int) -> int:
    """Run steps in parallel, fifty at once."""
    room = asyncio.Semaphore(50)

    async def one(number: int) -> int:
        async with room:
            return await DBOS.run_step_async({"name": f"step-{number}"}, trivial, number)

    return len(await asyncio.gather(*(one(number) for number in range(many))))


@DBOS.workflow(name="slow")
async def slow(witness: str, run: int) -> None:
    """Run ten steps that take a while."""
    for number in range(10):
        await DBOS.run_step_async({"name": f"step-{number}"}, seen, witness, f"{run}/{number}")


async def main(url: str, executor: str) -> None:
    """Work until killed."""
    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "executor_id": executor,
            "application_version": VERSION,
            "log_level": "WARNING",
            "notification_listener_polling_interval_sec": POLL_SECONDS,
        }
    )
    DBOS.launch()
    await DBOS.register_queue_async(QUEUE, worker_concurrency=RUNNING_AT_A_TIME, polling_interval_sec=POLL_SECONDS)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(*sys.argv[1:3]))
