"""One task: when its journal is read, and when it is acknowledged or handed back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest

import ironflow
from ironflow import Context
from ironflow.broker.local import LocalBroker, LocalServer, Stage
from ironflow.broker.protocol import BrokerError, Denied, Publication, Unavailable
from ironflow.codec import encode_record
from ironflow.function import forget_functions
from ironflow.names import Names
from ironflow.records import BeganRecord, EventRecord, OutcomeRecord, StepRecord, Task
from ironflow_worker.cancellations import Cancellations
from tests.support.executors import Handed, a_queue, a_slot, an_executor

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")
EVENT = EventRecord(id="e", name="go", time="2026-01-01T00:00:00Z")


class Bench:
    """An executor of one function, which counts its passes and bodies."""

    def __init__(self, server: LocalServer, broker: LocalBroker) -> None:
        self.server = server
        self.broker = broker
        self.passes = 0
        self.bodies = 0
        self.seconds = 0.0
        self.is_at_work = asyncio.Event()
        self.cancellations = Cancellations(broker, NAMES)
        self.listens_since_ms = 0
        self.now_ms = 0
        functions = {"f": ironflow.function(id="f")(self.handle)}
        self.executor = an_executor(broker, NAMES, functions, self.cancellations, lambda: self.now_ms)

    async def start(self) -> None:
        await self.cancellations.start()
        await self.cancellations.note_time("q")
        self.listens_since_ms = await self.broker.server_time_ms(NAMES.all_shards[0].tasks)

    async def handle(self, ctx: Context) -> int:
        self.passes += 1
        return await ctx.step.run("work", self.body)

    async def body(self) -> int:
        self.bodies += 1
        self.is_at_work.set()
        await asyncio.sleep(self.seconds)
        return self.bodies

    def record(self, rest: str, record: msgspec.Struct) -> None:
        self.server.store(Publication(subject=f"test.journal.q.r.{rest}", payload=encode_record(record)))

    def task(self, *, delivered: int = 1, clock_ms: int = 0, **changes: object) -> Handed:
        self.now_ms = self.listens_since_ms + 1 + clock_ms
        started_at = self.listens_since_ms + 1
        task = Task(run="r", function="f", number=0, started_at=started_at, event=EVENT, server=self.broker.server.id)
        return Handed(encode_record(msgspec.structs.replace(task, **changes)), delivered=delivered)

    async def answers(self, delivery: Handed) -> list[str]:
        await self.executor.execute("q", delivery, a_slot())
        return delivery.answers


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    async with a_queue(NAMES, "q") as (server, broker):
        bench = Bench(server, broker)
        await bench.start()
        yield bench
        server.interceptor = None
        await bench.cancellations.stop()
        forget_functions()


REASONS_TO_READ: dict[str, dict[str, object]] = {
    "it was handed out before": {"delivered": 2},
    "it may have been published before": {"check_journal": True},
    "the server has restarted since": {"server": "another process"},
    "it is not the first pass": {"number": 1},
    "the run began so long ago that another engine and worker may have been at it": {"clock_ms": 2_500},
    "the clocks differ by so much that nobody knows how long ago the run began": {"clock_ms": -2_500},
    "the run started before this worker could hear of its end": {"started_at": 0},
}


@pytest.mark.parametrize("reason", REASONS_TO_READ.values(), ids=REASONS_TO_READ)
async def test_the_journal_is_read_where_something_may_be_recorded(bench: Bench, reason: dict[str, object]) -> None:
    bench.record("step.work", StepRecord(name="work", kind="run", token="another", output=msgspec.Raw(b"41")))
    assert await bench.answers(bench.task(**reason)) == ["ack"]  # type: ignore[arg-type]
    assert (bench.passes, bench.bodies) == (1, 0)


async def test_the_journal_of_a_task_that_is_surely_new_is_not_read(bench: Bench) -> None:
    def refuse_to_read(_: Stage, verb: str, __: str) -> BrokerError | None:
        return Unavailable("nothing is read here") if verb in ("read", "last") else None

    bench.server.interceptor = refuse_to_read
    assert await bench.answers(bench.task()) == ["ack"]
    assert (bench.passes, bench.bodies) == (1, 1)


@pytest.mark.parametrize(("seconds", "bodies"), [(0.5, 2), (2.5, 1)])
async def test_the_journal_of_a_task_that_waited_for_a_harmful_one_is_read_if_it_is_not_surely_new_any_more(
    bench: Bench, seconds: float, bodies: int
) -> None:
    for count in (1, 2):
        bench.record(f"began.0.{count}", BeganRecord(token="lost", worker=f"lost {count}"))
    await asyncio.sleep(2)
    bench.seconds = 0.9
    suspect = asyncio.create_task(bench.answers(bench.task(delivered=2)))
    await bench.is_at_work.wait()
    delivery = bench.task(run="other")
    delivery.lease = "another lease"
    waiting = asyncio.create_task(bench.answers(delivery))
    await asyncio.sleep(0)
    bench.now_ms += round(1000 * seconds)
    bench.server.store(
        Publication(
            subject="test.journal.q.other.step.work",
            payload=encode_record(StepRecord(name="work", kind="run", token="another", output=msgspec.Raw(b"41"))),
        )
    )
    assert bench.passes == 1
    assert [*await asyncio.gather(suspect, waiting)] == [["ack"], ["ack"]]
    assert bench.passes == 2
    # Where it could be taken for new, its body was begun, which another's record then overrules.
    assert bench.bodies == bodies


@pytest.mark.parametrize(("newest", "passes"), [(0, 1), (1, 0), (2, 0)])
async def test_a_pass_that_has_its_outcome_or_a_later_one_is_not_executed(
    bench: Bench, newest: int, passes: int
) -> None:
    bench.record(f"outcome.{newest}", OutcomeRecord(number=newest, status="suspended", token="another"))
    assert await bench.answers(bench.task(number=1)) == ["ack"]
    assert bench.passes == passes


async def test_a_task_of_an_unknown_function_waits_for_a_worker_that_has_it(bench: Bench) -> None:
    assert await bench.answers(bench.task(function="g")) == ["nak 5"]


async def test_a_task_of_a_newer_kind_waits_for_a_worker_that_can_read_it(bench: Bench) -> None:
    assert await bench.answers(Handed(b'{"run": 5}')) == ["nak 5"]


async def test_a_journal_that_cannot_be_read_waits_for_a_worker_that_can(bench: Bench) -> None:
    bench.server.store(Publication(subject="test.journal.q.r.step.work", payload=b"{"))
    assert await bench.answers(bench.task(delivered=2)) == ["nak 7.5"]
    assert bench.passes == 0


@pytest.mark.parametrize(
    ("delivered", "answers"), [(1, ["nak 5"]), (3, ["nak 11.25"]), (19, ["nak 30"]), (20, ["ack"]), (21, ["ack"])]
)
async def test_a_run_that_no_worker_can_make_anything_of_fails_in_the_end(
    bench: Bench, delivered: int, answers: list[str]
) -> None:
    assert await bench.answers(bench.task(function="g", delivered=delivered)) == answers


async def test_a_later_pass_without_its_event_is_tried_again(bench: Bench) -> None:
    assert await bench.answers(bench.task(number=1, event=None)) == ["nak 5"]


@pytest.mark.parametrize("part", [".step.", ".outcome."])
async def test_what_may_not_be_recorded_is_tried_again_and_later(bench: Bench, part: str) -> None:
    bench.server.interceptor = lambda _, __, subject: Denied("no") if part in subject else None
    assert await bench.answers(bench.task()) == ["nak 1"]
    assert bench.cancellations.running == set()


async def test_a_mistake_of_ours_is_not_repeated_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ironflow_worker.executor.Replay.run", None)
    delivery = bench.task()
    with pytest.raises(TypeError):
        await bench.executor.execute("q", delivery, a_slot())
    assert delivery.answers == ["nak 1"]
