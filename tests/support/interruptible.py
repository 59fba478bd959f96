"""Functions whose runs are ended from outside, and what tests ask of such runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import ironflow
from ironflow import Context, Retry
from ironflow.handles import RunHandle
from tests.support.inprocess import System

ONCE = Retry(max_attempts=1)


class Body:
    """A body that takes its time, and knows when it began and how it ended.

    Args:
        seconds: how long it takes.

    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self.begins: asyncio.Queue[None] = asyncio.Queue()
        self.began: list[float] = []
        self.cancelled: list[float] = []

    async def __call__(self) -> str:
        loop = asyncio.get_running_loop()
        self.began.append(loop.time())
        self.begins.put_nowait(None)
        try:
            await asyncio.sleep(self._seconds)
        except asyncio.CancelledError:
            self.cancelled.append(loop.time())
            raise
        return "done"


def working(body: Body, **options: Any) -> ironflow.Function[Any, str]:
    """Return a function of three steps, each of which runs the body."""

    @ironflow.function(id="f", retry=ONCE, **options)
    async def f(ctx: Context) -> str:
        for number in range(3):
            await ctx.step.run(f"work-{number}", body)
        return "finished"

    return f


def sleeping(body: Body, **options: Any) -> ironflow.Function[Any, str]:
    """Return a function that sleeps for an hour, and then runs the body."""

    @ironflow.function(id="f", **options)
    async def f(ctx: Context) -> str:
        await ctx.step.sleep("nap", "1h")
        return await ctx.step.run("work", body)

    return f


async def until_status(run: RunHandle[Any], status: str) -> None:
    """Wait until a run has a status."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(ironflow.RunNotFoundError):
                if (await run.state()).status == status:
                    return
            await asyncio.sleep(0.01)


async def until_begun(body: Body, times: int = 1) -> None:
    """Wait until a body has begun so often."""
    async with asyncio.timeout(60):
        for _ in range(times):
            await body.begins.get()


async def assert_ended_once(system: System, run: RunHandle[Any], status: str) -> None:
    """Assert that the journal has one outcome that ends the run, and that nothing of it is left to be done."""
    state = await system.run_state(run.id)
    assert state.status == status
    assert not state.live
    outcomes = await system.subjects("outcome", run)
    assert f"outcome.{state.number}" == outcomes[-1]
    assert [subject async for subject in pending(system, run)] == []


async def pending(system: System, run: RunHandle[Any]) -> AsyncIterator[str]:
    """Yield the subjects of a run's tasks and timers."""
    shard = system.names.shard_of(run.id)
    filters = {
        shard.tasks: system.names.tasks_of_run("*", run.id),
        shard.timers: system.names.timers_of_run(run.id),
    }
    for stream, wanted in filters.items():
        async for page in system.broker.read(stream, wanted):
            for message in page:
                yield message.subject
