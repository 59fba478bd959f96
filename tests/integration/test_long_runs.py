"""What a long run costs each time that it is woken: counted, not timed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import ironflow
from ironflow import Context, Retry
from ironflow.broker.protocol import StoredMessage
from ironflow.handles import RunHandle
from tests.support.eventually import eventually
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

STEPS = 150
WAKES = 10
PASSES_RECORDS = 3
"""What a pass that sleeps once more leaves: the end of the sleep before, the wait, the outcome."""


async def number(value: int) -> int:
    return value


@ironflow.function(id="long", queue="q")
async def long(ctx: Context[int]) -> int:
    total = 0
    for index in range(STEPS):
        total += await ctx.step.run(f"step-{index}", number, index)
    for index in range(ctx.event.data):
        await ctx.step.sleep(f"nap-{index}", "10s")
    return total


@ironflow.function(id="flaky", queue="q", retry=Retry(max_attempts=1))
async def flaky(ctx: Context[list[int]]) -> int:
    for index in range(STEPS):
        await ctx.step.run(f"step-{index}", number, index)
    await ctx.step.sleep("nap", "10s")
    return await ctx.step.run("last", fails_once, ctx.run.attempt)


async def fails_once(attempt: int) -> int:
    if attempt == 1:
        raise ValueError
    return attempt


class Reads:
    """Counts the journal's records that a worker reads.

    Args:
        system: whose first worker is meant.
        monkeypatch: puts the count in.

    """

    def __init__(self, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records = 0
        self._journal = system.names.all_shards[0].journal
        self._broker = next(iter(system.workers.values()))
        self._read = self._broker.read
        monkeypatch.setattr(self._broker, "read", self.read)

    async def read(
        self, stream: str, subject_filter: str, after: int = 0, **how: Any
    ) -> AsyncIterator[list[StoredMessage]]:
        """Read as the broker does."""
        async for page in self._read(stream, subject_filter, after, **how):
            self.records += len(page) if stream == self._journal else 0
            yield page


async def has(system: System, run: RunHandle[Any], subject: str) -> None:
    """Wait until something is recorded of a run."""

    async def recorded() -> None:
        assert subject in await system.subjects(run=run)

    await eventually(recorded, within=600)


async def test_a_long_run_that_is_woken_often_has_its_journal_read_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(long) as system:
        reads = Reads(system, monkeypatch)
        assert await system.output(long, WAKES) == sum(range(STEPS))
        assert reads.records <= STEPS + PASSES_RECORDS * (WAKES + 1)


async def test_a_worker_that_is_new_to_a_long_run_reads_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(long) as system:
        run = await system.client.start(long, 3)
        await has(system, run, "wait.nap-1")
        await system.kill(next(iter(system.workers)))
        await system.add_worker()
        reads = Reads(system, monkeypatch)
        assert await run.result("1h") == sum(range(STEPS))
        assert reads.records >= STEPS


async def test_two_workers_that_take_turns_do_no_step_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[int] = []

    async def noted(value: int) -> int:
        bodies.append(value)
        return value

    monkeypatch.setattr("tests.integration.test_long_runs.number", noted)
    async with running_system(long, workers=2) as system:
        assert await system.output(long, WAKES) == sum(range(STEPS))
    assert sorted(bodies) == list(range(STEPS))


async def test_a_restarted_server_has_the_journal_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(long) as system:
        run = await system.client.start(long, 4)
        await has(system, run, "wait.nap-2")
        system.server.restart()
        reads = Reads(system, monkeypatch)
        assert await run.result("1h") == sum(range(STEPS))
        assert reads.records >= STEPS


async def test_a_long_run_that_is_retried_goes_on_from_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(flaky) as system:
        run = await system.client.start(flaky, [])
        assert (await run.wait("1h")).status == "failed"
        await run.retry()
        assert await run.result("1h") == 2
