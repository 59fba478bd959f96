"""The workloads' workflows for Temporal: ``python -m tests.bench.peers.temporal_app ADDRESS``."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import sys
import time

import uvloop
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.bench.peers import bodies

QUEUE = "bench"
LOCAL = "IRONFLOW_BENCH_LOCAL_ACTIVITIES"
POLLERS = 20
AT_A_TIME = 600
LONGEST = dt.timedelta(seconds=5)

trivial = activity.defn(bodies.trivial)
clock = activity.defn(bodies.clock)
seen = activity.defn(bodies.seen)

step = workflow.execute_local_activity if os.environ.get(LOCAL) else workflow.execute_activity


async def steps(many: int) -> int:
    """Run so many steps."""
    return sum([await step(trivial, number, start_to_close_timeout=LONGEST) for number in range(many)])


@workflow.defn(name="three")
class Three:
    """Runs three steps."""

    @workflow.run
    async def run(self) -> int:
        """Run it."""
        return await steps(3)


@workflow.defn(name="many")
class Many:
    """Runs so many steps, one after another."""

    @workflow.run
    async def run(self, many: int) -> int:
        """Run it."""
        return await steps(many)


@workflow.defn(name="nap")
class Nap:
    """Sleeps, and returns when that began and ended."""

    @workflow.run
    async def run(self, seconds: float) -> list[float]:
        """Run it."""
        begun = await step(clock, start_to_close_timeout=LONGEST)
        await asyncio.sleep(seconds)
        return [begun, time.time()]


@workflow.defn(name="wait")
class Wait:
    """Waits for a signal, and returns when it came."""

    def __init__(self) -> None:
        self.gone = False

    @workflow.run
    async def run(self) -> float:
        """Run it."""
        await workflow.wait_condition(lambda: self.gone)
        return time.time()

    @workflow.signal
    def go(self) -> None:
        """Take the signal."""
        self.gone = True


@workflow.defn(name="fan")
class Fan:
    """Runs steps in parallel, fifty at once."""

    @workflow.run
    async def run(self, many: int) -> int:
        """Run it."""
        room = asyncio.Semaphore(50)

        async def one(number: int) -> int:
            async with room:
                return await step(trivial, number, start_to_close_timeout=LONGEST)

        return len(await asyncio.gather(*(one(number) for number in range(many))))


@workflow.defn(name="slow")
class Slow:
    """Runs ten steps that take a while."""

    @workflow.run
    async def run(self, argument: list) -> None:
        """Run it."""
        witness, run = argument
        for number in range(10):
            await step(seen, args=[witness, f"{run}/{number}"], start_to_close_timeout=LONGEST)


async def main(address: str) -> None:
    """Work until killed."""
    worker = Worker(
        await Client.connect(address),
        task_queue=QUEUE,
        workflows=[Three, Many, Nap, Wait, Fan, Slow],
        activities=[trivial, clock, seen],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_workflow_tasks=AT_A_TIME,
        max_concurrent_activities=AT_A_TIME,
        max_concurrent_local_activities=AT_A_TIME,
        max_concurrent_workflow_task_polls=POLLERS,
        max_concurrent_activity_task_polls=POLLERS,
        max_cached_workflows=2 * AT_A_TIME,
    )
    await worker.run()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(sys.argv[1]))
