"""What an engine does with its batches when things go wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import pytest

from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.broker.protocol import BrokerError, Delivery, MessageTooLarge, Publication, StorageFull, Unavailable
from ironflow.broker.topology import ENGINE_ACK_WAIT_SECONDS, engine_consumers, streams
from ironflow.names import ENGINE_CONSUMER, Names
from ironflow.records import WaitEntry, WaitRecord
from ironflow_engine.child_keeper import ChildKeeper
from ironflow_engine.conductor import Conductor
from ironflow_engine.dispatcher import Dispatcher
from ironflow_engine.facts import Fact, RegisterWait, Woken
from ironflow_engine.intake import Intake
from ironflow_engine.metrics import Metrics
from ironflow_engine.run_store import RunStore
from ironflow_engine.wait_keeper import WaitKeeper
from ironflow_engine.wait_store import WaitStore

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")


async def nobody_is_cancelled(*_: object) -> None:
    raise AssertionError("nothing here has children")


class Recorder(Conductor):
    """Applies facts by counting them; the facts of some runs fail, by returning an error or by raising one."""

    def __init__(self, broker: LocalBroker) -> None:
        keeper = WaitKeeper(broker, NAMES, WaitStore(broker, NAMES), str)
        store = RunStore(broker, NAMES, str)
        children = ChildKeeper(broker, NAMES, store, nobody_is_cancelled, str)
        super().__init__(store, Dispatcher(broker, NAMES), keeper, children, Metrics())
        self.applied: Counter[str] = Counter()
        self.refused: dict[str, BrokerError] = {}
        self.fails: dict[str, Exception] = {}
        self.seconds = 0.0
        self.looks_back: set[str] = set()
        self.look_back_seconds = 0.0
        self.looked_back: Counter[str] = Counter()
        self.at_work: Counter[str] = Counter()
        self.most_batches = 0
        self.overlaps: list[str] = []
        self._batches = 0

    async def apply(
        self,
        facts: Sequence[Fact],
        rest: Callable[[], Awaitable[None]] | None = None,  # noqa: ARG002 - no waits here
        later: list[RegisterWait] | None = None,
    ) -> dict[str, BrokerError]:
        self._batches += 1
        self.most_batches = max(self.most_batches, self._batches)
        self.at_work.update({fact.run for fact in facts})
        self.overlaps += [run for run, count in self.at_work.items() if count > 1]
        if later is not None:
            later += [registration(fact.run) for fact in facts if fact.run in self.looks_back]
        try:
            return await self._take(facts)
        finally:
            self._batches -= 1
            self.at_work.subtract({fact.run for fact in facts})

    async def look_back(self, waits: Sequence[RegisterWait]) -> dict[str, BrokerError]:
        await asyncio.sleep(self.look_back_seconds)
        runs = [wait.entry.run for wait in waits]
        for run in runs:
            if run in self.fails:
                raise self.fails[run]
        self.looked_back.update(runs)
        return {run: self.refused[run] for run in runs if run in self.refused}

    async def _take(self, facts: Sequence[Fact]) -> dict[str, BrokerError]:
        await asyncio.sleep(self.seconds)
        for fact in facts:
            if fact.run in self.fails:
                raise self.fails[fact.run]
        self.applied.update(fact.run for fact in facts if fact.run not in self.refused)
        return {fact.run: self.refused[fact.run] for fact in facts if fact.run in self.refused}


def registration(run: str) -> RegisterWait:
    record = WaitRecord(name="paid", kind="wait_for_event", token="", event="order.paid")
    entry = WaitEntry(run=run, queue="q", step="paid", wait=record, sequence=1, time_ms=1)
    return RegisterWait(entry=entry, after=0, trigger="t", consumed=frozenset())


class Wakes(Intake):
    """Takes each message for a wake-up of the run that it names."""

    async def facts_of(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, list[Fact]]]:
        return [
            (delivery, [Woken(run=run, queue="q", sequence=1)] if (run := delivery.payload.decode()) else [])
            for delivery in batch
        ]


class Bench:
    """An intake, and what it takes from."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.broker = server.connect()
        self.conductor = Recorder(self.broker)
        self.stopped_seconds = 0.0
        self.intake = Wakes(
            self.broker, self.conductor, stream=NAMES.events, consumer=ENGINE_CONSUMER, seconds=self.seconds
        )

    def seconds(self) -> float:
        """Return how much time has gone by, also while this process was stopped, and could not renew a lease."""
        return asyncio.get_running_loop().time() + self.stopped_seconds

    def put(self, *runs: str) -> None:
        for run in runs:
            self.server.store(Publication(subject=NAMES.event("go"), payload=run.encode()))

    async def unsettled(self) -> tuple[int, int]:
        """Return how many messages are not acknowledged, and how many of them were handed out again."""
        state = await self.broker.consumer_state(NAMES.events, ENGINE_CONSUMER)
        return state.pending + state.ack_pending, state.redelivered


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    made = Bench(LocalServer())
    for stream in streams(NAMES):
        await made.broker.ensure_stream(stream)
    for consumer in engine_consumers(NAMES):
        await made.broker.ensure_consumer(consumer)
    running = asyncio.create_task(made.intake.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await made.broker.close()


async def test_what_is_applied_is_acknowledged_and_what_means_nothing_too(bench: Bench) -> None:
    bench.put("a", "", "b")
    await asyncio.sleep(0.1)
    assert bench.conductor.applied == {"a": 1, "b": 1}
    assert await bench.unsettled() == (0, 0)


async def test_what_is_not_applied_comes_again_alone(bench: Bench) -> None:
    bench.conductor.refused["b"] = StorageFull("full")
    bench.put("a", "b", "c")
    await asyncio.sleep(5)
    assert bench.conductor.applied == {"a": 1, "c": 1}
    assert (await bench.unsettled())[0] == 1
    bench.conductor.refused.clear()
    await asyncio.sleep(2)
    assert bench.conductor.applied == {"a": 1, "b": 1, "c": 1}
    assert await bench.unsettled() == (0, 0)


async def test_what_is_too_large_to_be_stored_comes_again_seldom(bench: Bench) -> None:
    bench.conductor.refused["b"] = MessageTooLarge("1,048,577 bytes")
    bench.put("a", "b", "c")
    await asyncio.sleep(5)
    assert bench.conductor.applied == {"a": 1, "c": 1}
    bench.conductor.refused.clear()
    await asyncio.sleep(50)
    assert "b" not in bench.conductor.applied
    await asyncio.sleep(10)
    assert bench.conductor.applied == {"a": 1, "b": 1, "c": 1}
    assert await bench.unsettled() == (0, 0)


async def test_a_batch_that_fails_as_a_whole_comes_again(bench: Bench) -> None:
    bench.conductor.fails["b"] = Unavailable("gone")
    bench.put("a", "b", "c")
    await asyncio.sleep(3)
    assert bench.conductor.applied == {}
    bench.conductor.fails.clear()
    await asyncio.sleep(2)
    assert bench.conductor.applied == {"a": 1, "b": 1, "c": 1}
    assert await bench.unsettled() == (0, 0)


async def test_a_mistake_about_one_message_holds_up_no_other(bench: Bench) -> None:
    bench.conductor.fails["b"] = ZeroDivisionError()
    bench.put("a", "b", "c")
    await asyncio.sleep(0.1)
    assert bench.conductor.applied == {"a": 1, "c": 1}
    bench.put("d")
    await asyncio.sleep(0.1)
    assert bench.conductor.applied["d"] == 1
    assert (await bench.unsettled())[0] == 1


async def test_a_batch_that_takes_long_is_kept_and_not_handed_out_again(bench: Bench) -> None:
    bench.conductor.seconds = 60.0
    bench.put("a", "b")
    await asyncio.sleep(130)
    assert bench.conductor.applied == {"a": 1, "b": 1}
    assert await bench.unsettled() == (0, 0)


@pytest.mark.parametrize("seconds", [1.0, 4.0])
async def test_a_batch_is_done_again_where_the_engine_was_stopped_meanwhile_for_longer_than_its_lease(
    bench: Bench, seconds: float
) -> None:
    bench.conductor.seconds = seconds
    bench.put("a", "b")
    await asyncio.sleep(0.5)
    bench.stopped_seconds += ENGINE_ACK_WAIT_SECONDS + 1
    await asyncio.sleep(seconds)
    assert bench.conductor.applied == {"a": 1, "b": 1}
    assert (await bench.unsettled())[0] == 2
    await asyncio.sleep(seconds)
    assert bench.conductor.applied == {"a": 2, "b": 2}
    assert (await bench.unsettled())[0] == 0


async def test_a_batch_is_done_once_where_the_engine_was_stopped_for_less_than_its_lease(bench: Bench) -> None:
    bench.conductor.seconds = 1.0
    bench.put("a", "b")
    await asyncio.sleep(0.5)
    bench.stopped_seconds += ENGINE_ACK_WAIT_SECONDS - 1
    await asyncio.sleep(10)
    assert bench.conductor.applied == {"a": 1, "b": 1}
    assert await bench.unsettled() == (0, 0)


async def the_next_takes(bench: Bench, run: str) -> None:
    """Check that what an engine has left is taken by another one at once."""
    second = Bench(bench.server)
    taking = asyncio.create_task(second.intake.run())
    await asyncio.sleep(0.1)
    assert second.conductor.applied == {run: 1}
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    await second.broker.close()


@pytest.mark.parametrize("seconds", [0.0, 3.0])
async def test_what_an_engine_leaves_behind_goes_to_the_next_at_once(bench: Bench, seconds: float) -> None:
    bench.conductor.seconds = 100.0
    bench.put("a")
    await asyncio.sleep(seconds + 0.01)
    (running,) = (task for task in asyncio.all_tasks() if "Intake.run" in repr(task.get_coro()))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await the_next_takes(bench, "a")


async def test_an_engine_that_is_interrupted_while_it_leaves_keeps_nothing(bench: Bench) -> None:
    bench.conductor.seconds = 100.0
    bench.put("a")
    await asyncio.sleep(0.01)
    (running,) = (task for task in asyncio.all_tasks() if "Intake.run" in repr(task.get_coro()))
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await the_next_takes(bench, "a")


async def test_while_a_batch_is_being_stored_the_next_one_is_applied_and_a_third_waits(bench: Bench) -> None:
    bench.conductor.seconds = 1.0
    for run in "abcd":
        bench.put(run)
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)  # a second and a bit after the first, its place and the next one's were taken again
    assert bench.conductor.applied == {"a": 1, "b": 1}
    await asyncio.sleep(1.0)
    assert bench.conductor.applied == dict.fromkeys("abcd", 1)
    assert bench.conductor.most_batches == 2
    assert await bench.unsettled() == (0, 0)


async def test_a_batch_about_a_run_that_is_at_work_waits_for_it(bench: Bench) -> None:
    bench.conductor.seconds = 1.0
    for run in "aab":
        bench.put(run)
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)
    assert bench.conductor.applied == {"a": 1}
    await asyncio.sleep(1.0)
    # What came behind it was read behind it, too.
    assert bench.conductor.applied == {"a": 2, "b": 1}
    assert bench.conductor.overlaps == []


class FailsTogether(Wakes):
    """Makes a mistake about several messages at a time."""

    async def facts_of(self, batch: Sequence[Delivery]) -> list[tuple[Delivery, list[Fact]]]:
        if len(batch) > 1:
            raise ZeroDivisionError
        return await super().facts_of(batch)


async def test_a_mistake_in_reading_applies_nothing_beside_what_is_at_work() -> None:
    made = Bench(LocalServer())
    for stream in streams(NAMES):
        await made.broker.ensure_stream(stream)
    for consumer in engine_consumers(NAMES):
        await made.broker.ensure_consumer(consumer)
    made.intake = FailsTogether(made.broker, made.conductor, stream=NAMES.events, consumer=ENGINE_CONSUMER)
    running = asyncio.create_task(made.intake.run())
    made.conductor.seconds = 1.0
    made.put("a")
    await asyncio.sleep(0.1)
    made.put("a", "b")
    await asyncio.sleep(5)
    assert made.conductor.applied == {"a": 2, "b": 1}
    assert made.conductor.overlaps == []
    assert made.conductor.most_batches == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await made.broker.close()


async def test_looking_back_for_a_run_holds_up_no_other_and_is_done_before_its_message_is_let_go(bench: Bench) -> None:
    bench.conductor.looks_back = {"old"}
    bench.conductor.look_back_seconds = 60.0
    bench.put("a", "old", "b")
    await asyncio.sleep(1)
    bench.put("c", "old", "d")
    await asyncio.sleep(1)
    assert bench.conductor.applied == {"a": 1, "old": 2, "b": 1, "c": 1, "d": 1}
    assert await bench.unsettled() == (2, 0)
    await asyncio.sleep(60)
    assert bench.conductor.looked_back == {"old": 2}
    assert await bench.unsettled() == (0, 0)


@pytest.mark.parametrize("how", ["refused", "fails"])
async def test_what_could_not_be_looked_back_for_comes_again(bench: Bench, how: str) -> None:
    bench.conductor.looks_back = {"old"}
    bench.put("a", "old")
    bench.conductor.look_back_seconds = 5.0
    await asyncio.sleep(1)
    if how == "refused":
        bench.conductor.refused["old"] = Unavailable("gone")
    else:
        bench.conductor.fails["old"] = ZeroDivisionError()
    await asyncio.sleep(4.5)
    assert (await bench.unsettled())[0] == 1
    bench.conductor.refused.clear()
    bench.conductor.fails.clear()
    await asyncio.sleep(20)
    assert bench.conductor.applied == {"a": 1, "old": 2}
    assert bench.conductor.looked_back["old"] >= 1
    assert await bench.unsettled() == (0, 0)


async def test_an_engine_that_leaves_while_it_looks_back_leaves_that_to_the_next(bench: Bench) -> None:
    bench.conductor.looks_back = {"old"}
    bench.conductor.look_back_seconds = 100.0
    bench.put("old")
    await asyncio.sleep(3)
    (running,) = (task for task in asyncio.all_tasks() if "Intake.run" in repr(task.get_coro()))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert bench.conductor.looked_back == {}
    await the_next_takes(bench, "old")
