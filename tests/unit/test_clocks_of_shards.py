"""The streams of two shards may be led by servers whose clocks differ: each shard's sleeps end by its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.broker.protocol import Publication
from ironflow.broker.topology import queue_consumers, streams
from ironflow.codec import encode_record
from ironflow.function import forget_functions
from ironflow.names import Names
from ironflow.records import EventRecord, InputRecord, Task, WaitRecord
from ironflow_worker.bodies import Bodies
from ironflow_worker.cancellations import Cancellations
from ironflow_worker.executor import Executor
from ironflow_worker.leases import Leases
from ironflow_worker.metrics import Metrics
from ironflow_worker.presence import Presence
from ironflow_worker.slots import Slot, Slots

pytestmark = pytest.mark.virtual_time

NAMES = Names("test", 2)
EVENT = EventRecord(id="e", name="go", time="2026-01-01T00:00:00Z")
NAP_MS = 2_000
AHEAD_MS = 60_000


class Handed:
    """A task as the server delivers it."""

    sequence = 1
    delivered = 1

    def __init__(self, run: str, number: int, time_ms: int) -> None:
        task = Task(run=run, function="nap", number=number, started_at=0, event=EVENT)
        self.subject = NAMES.task("q", run, number)
        self.lease = run
        self.payload = encode_record(task)
        self.time_ms = time_ms

    def ack(self) -> None: ...

    def nak(self, delay_seconds: float = 0.0) -> None:
        raise AssertionError(f"handed back for {delay_seconds} s")


def a_slot() -> Slot:
    slots = Slots(1, lambda _: None)
    slots.fill()
    return slots.come()


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
    made = LocalServer().connect()
    for stream in streams(NAMES):
        await made.ensure_stream(stream)
    for consumer in queue_consumers(NAMES, "q"):
        await made.ensure_consumer(consumer)
    yield made
    await made.close()


async def test_a_sleep_does_not_end_by_the_clock_of_another_shard(
    broker: LocalBroker, nap: ironflow.Function[None, None]
) -> None:
    runs = {NAMES.shard_of(run): run for run in map(str, range(20))}
    ahead, sleeper = (runs[shard] for shard in NAMES.all_shards)
    loop = asyncio.get_running_loop()
    executor = Executor(
        broker,
        NAMES,
        {"nap": nap},
        Bodies(ThreadPoolExecutor(1)),
        Leases(),
        Presence(broker, NAMES, "w"),
        Metrics(),
        Cancellations(broker, NAMES),
        worker_id="w",
        make_token=lambda: "of a pass",
        chance=lambda: 0.5,
        now_ms=lambda: 0,
        monotonic=loop.time,
    )
    stored_ms = await broker.server_time_ms(NAMES.shard_of(sleeper).tasks)
    await executor.execute("q", Handed(ahead, 0, stored_ms + AHEAD_MS), a_slot())

    wait = WaitRecord(name="nap", kind="sleep", token="t", delay_ms=NAP_MS)
    for subject, record in (
        (NAMES.journal_input("q", sleeper), InputRecord(event=EVENT, token="t")),
        (NAMES.journal_wait("q", sleeper, "nap"), wait),
    ):
        await broker.publish(Publication(subject=subject, payload=encode_record(record)))
    began = loop.time()
    await executor.execute("q", Handed(sleeper, 1, stored_ms), a_slot())
    assert loop.time() - began >= NAP_MS / 1000
