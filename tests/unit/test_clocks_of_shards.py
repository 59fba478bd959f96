"""The streams of two shards may be led by servers whose clocks differ: each shard's sleeps end by its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.local import LocalBroker
from ironflow.broker.protocol import Publication
from ironflow.codec import encode_record
from ironflow.function import forget_functions
from ironflow.names import Names
from ironflow.records import EventRecord, InputRecord, Task, WaitRecord
from tests.support.executors import Handed, a_queue, a_slot, an_executor

pytestmark = pytest.mark.virtual_time

NAMES = Names("test", 2)
EVENT = EventRecord(id="e", name="go", time="2026-01-01T00:00:00Z")
NAP_MS = 2_000
AHEAD_MS = 60_000


def handed(run: str, number: int, time_ms: int) -> Handed:
    task = Task(run=run, function="nap", number=number, started_at=0, event=EVENT)
    return Handed(encode_record(task), subject=NAMES.task("q", run, number), time_ms=time_ms)


@pytest.fixture
def nap() -> Iterator[ironflow.Function[None, None]]:
    forget_functions()

    @ironflow.function(id="nap")
    async def nap(ctx: Context) -> None:
        await ctx.step.sleep("nap", NAP_MS / 1000)

    yield nap
    forget_functions()


@pytest.fixture
async def broker() -> AsyncGenerator[LocalBroker]:
    async with a_queue(NAMES, "q") as (_, made):
        yield made


async def test_a_sleep_does_not_end_by_the_clock_of_another_shard(
    broker: LocalBroker, nap: ironflow.Function[None, None]
) -> None:
    runs = {NAMES.shard_of(run): run for run in map(str, range(20))}
    ahead, sleeper = (runs[shard] for shard in NAMES.all_shards)
    loop = asyncio.get_running_loop()
    executor = an_executor(broker, NAMES, {"nap": nap})
    stored_ms = await broker.server_time_ms(NAMES.shard_of(sleeper).tasks)
    await executor.execute("q", handed(ahead, 0, stored_ms + AHEAD_MS), a_slot())

    wait = WaitRecord(name="nap", kind="sleep", token="t", delay_ms=NAP_MS)
    for subject, record in (
        (NAMES.journal_input("q", sleeper), InputRecord(event=EVENT, token="t")),
        (NAMES.journal_wait("q", sleeper, "nap"), wait),
    ):
        await broker.publish(Publication(subject=subject, payload=encode_record(record)))
    began = loop.time()
    delivery = handed(sleeper, 1, stored_ms)
    await executor.execute("q", delivery, a_slot())
    assert delivery.answers == ["ack"]
    assert loop.time() - began >= NAP_MS / 1000
