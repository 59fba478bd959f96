"""Passes whose task says how the wait has ended: what they read, and what they leave in the journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest

import ironflow
from ironflow import Context
from ironflow.broker.local import LocalBroker, LocalServer, Stage
from ironflow.broker.protocol import BrokerError, Denied, Publication, Unavailable
from ironflow.codec import decode_record, encode_raw, encode_record
from ironflow.function import forget_functions
from ironflow.names import Names
from ironflow.records import EventRecord, OutcomeRecord, StepRecord, Task, WaitEnd
from ironflow_worker.cancellations import Cancellations
from ironflow_worker.executor import Executor
from tests.support.executors import Handed, a_queue, a_slot, an_executor

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")
EVENT = EventRecord(id="e", name="go", time="2026-01-01T00:00:00Z")
COMES = EventRecord(id="e2", name="come", time="2026-01-01T00:00:00Z", data=msgspec.Raw(b"7"))
END = WaitEnd(
    step="wait",
    record=StepRecord(name="wait", kind="wait_for_event", token="", output=encode_raw(COMES)),
)


class Bench:
    """A worker with a function that does something, waits, and does something more."""

    def __init__(self, server: LocalServer, broker: LocalBroker) -> None:
        self.server = server
        self.broker = broker
        self.bodies: list[str] = []
        self.reads = 0
        self.cancellations = Cancellations(broker, NAMES)
        self.began_ms = 0
        self.now_ms = 0
        self.executor = self.another_worker()
        server.interceptor = self.count_reads

    def another_worker(self) -> Executor:
        function = ironflow.function(id="f")(self.handle)
        forget_functions()
        return an_executor(self.broker, NAMES, {"f": function}, self.cancellations, lambda: self.now_ms)

    def count_reads(self, stage: Stage, verb: str, _: str) -> BrokerError | None:
        self.reads += stage == "before" and verb in ("read", "last")
        return None

    async def start(self) -> None:
        await self.cancellations.start()
        await self.cancellations.note_time("q")
        self.began_ms = await self.broker.server_time_ms(NAMES.all_shards[0].tasks) + 1

    async def handle(self, ctx: Context) -> int:
        await ctx.step.run("before", self.body, "before")
        event = await ctx.step.wait_for_event("wait", event="come")
        await ctx.step.run("after", self.body, "after")
        return int(event.data)

    async def body(self, name: str) -> None:
        self.bodies.append(name)

    async def execute(
        self,
        number: int,
        end: WaitEnd | None = None,
        *,
        on: Executor | None = None,
        delivered: int = 1,
        age_ms: int = 0,
        changes: dict[str, object] | None = None,
    ) -> list[str]:
        task = Task(run="r", function="f", number=number, started_at=self.began_ms, server=self.broker.server.id)
        task = msgspec.structs.replace(task, event=None if number else EVENT, end=end, **(changes or {}))
        stored_ms = self.began_ms + 10 * number
        self.now_ms = stored_ms + age_ms
        delivery = Handed(encode_record(task), time_ms=stored_ms, delivered=delivered)
        await (on or self.executor).execute("q", delivery, a_slot())
        return delivery.answers

    def outcome(self, number: int) -> OutcomeRecord:
        message = self.server.stream("TEST_JOURNAL").last(f"test.journal.q.r.outcome.{number}")
        assert message is not None
        return decode_record(OutcomeRecord, message.payload)

    def recorded(self) -> list[str]:
        journal = self.server.stream("TEST_JOURNAL")
        messages = (journal.at(sequence) for sequence in journal.select("test.journal.q.r.>", 0))
        return [message.subject.partition(".r.")[2] for message in messages if message is not None]


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    async with a_queue(NAMES, "q") as (server, broker):
        made = Bench(server, broker)
        await made.start()
        yield made
        server.interceptor = None
        await made.cancellations.stop()


async def test_what_the_task_says_counts_before_the_journal_has_it_and_the_journal_has_it_then(bench: Bench) -> None:
    await bench.execute(0)
    assert await bench.execute(1, END, on=bench.another_worker()) == ["ack"]
    assert bench.bodies == ["before", "after"]
    assert "step.wait" in bench.recorded()
    assert bench.recorded()[-1] == "outcome.1"
    assert (bench.outcome(1).status, bytes(bench.outcome(1).output), bench.outcome(1).told) == ("completed", b"7", True)


async def test_what_the_journal_says_already_is_left_alone(bench: Bench) -> None:
    await bench.execute(0)
    other = EventRecord(id="e2", name="come", time=COMES.time, data=msgspec.Raw(b"8"))
    record = StepRecord(name="wait", kind="wait_for_event", token="engine", output=encode_raw(other))
    await bench.broker.publish(Publication(subject="test.journal.q.r.step.wait", payload=encode_record(record)))
    await bench.execute(1, END, on=bench.another_worker())
    assert bytes(bench.outcome(1).output) == b"8"


async def test_where_the_end_cannot_be_recorded_for_a_while_the_next_body_waits_for_that(bench: Bench) -> None:
    await bench.execute(0)
    tries: list[list[str]] = []

    def refuse_the_end(stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if not (stage == "before" and verb == "publish" and subject.endswith(".step.wait")):
            return None
        tries.append(list(bench.bodies))
        return Unavailable("not now") if len(tries) <= 5 else None

    bench.server.interceptor = refuse_the_end
    assert await bench.execute(1, END) == ["ack"]
    assert tries == [["before"]] * 6
    assert bench.bodies == ["before", "after"]


async def test_where_the_end_may_not_be_recorded_no_body_begins_and_the_pass_is_done_again(bench: Bench) -> None:
    await bench.execute(0)

    def refuse_the_end(stage: Stage, verb: str, subject: str) -> BrokerError | None:
        refused = stage == "before" and verb == "publish" and subject.endswith(".step.wait")
        return Denied("not you") if refused else None

    bench.server.interceptor = refuse_the_end
    assert await bench.execute(1, END) == ["nak 1"]
    assert "outcome.1" not in bench.recorded()
    assert bench.bodies == ["before"]

    bench.server.interceptor = None
    assert await bench.execute(1, END, delivered=2) == ["ack"]
    assert bench.bodies == ["before", "after"]


async def test_the_worker_that_brought_a_run_to_its_wait_need_not_read_its_journal(bench: Bench) -> None:
    await bench.execute(0)
    assert await bench.execute(1, END) == ["ack"]
    assert bench.reads == 0
    assert bench.bodies == ["before", "after"]


REASONS_TO_READ: dict[str, dict[str, object]] = {
    "it was handed out before": {"delivered": 2},
    "it may have been published before": {"changes": {"check_journal": True}},
    "the server has restarted since": {"changes": {"server": "another process"}},
    "the run was retried": {"changes": {"attempt": 2}},
    "it was stored so long ago that another worker may have been at it": {"age_ms": 2_500},
    "a pass was left out": {"number": 2},
    "it does not say how the wait has ended": {"end": None},
}


@pytest.mark.parametrize("reason", REASONS_TO_READ.values(), ids=REASONS_TO_READ)
async def test_the_journal_is_read_where_others_may_have_recorded_something(
    bench: Bench, reason: dict[str, object]
) -> None:
    await bench.execute(0)
    await bench.execute(**{"number": 1, "end": END, **reason})  # type: ignore[arg-type]
    assert bench.reads > 0
    assert bench.bodies in (["before", "after"], ["before"])


async def test_the_journal_is_read_after_the_run_was_heard_to_be_cancelled(bench: Bench) -> None:
    await bench.execute(0)
    bench.broker.notify(NAMES.cancelled("r"), b"")
    await asyncio.sleep(1)
    await bench.execute(1, END)
    assert bench.reads > 0


async def test_the_journal_is_read_where_others_had_a_part_in_the_pass_before(bench: Bench) -> None:
    await bench.execute(0, delivered=2)
    reads = bench.reads
    await bench.execute(1, END)
    assert bench.reads > reads
