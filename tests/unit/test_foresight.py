"""Functions are asked for while an event is being stored, and never an answer that is too old for it is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest

from ironflow.broker.local import LocalBroker, LocalServer, Stage
from ironflow.broker.protocol import BrokerError, Delivery, Denied, Publication, Unavailable
from ironflow.broker.topology import engine_consumers, streams
from ironflow.codec import encode_record
from ironflow.matching import canonical_at, read_data
from ironflow.names import ENGINE_CONSUMER, Names
from ironflow.records import EventRecord, FunctionRecord, WaitEntry, WaitRecord
from ironflow_engine.foresight import Foresight
from ironflow_engine.function_store import FunctionStore
from ironflow_engine.wait_store import WaitStore

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")
FUNCTION = FunctionRecord(id="f", queue="q", triggers=("a",))


class Asked:
    """Counts what a server is asked, and fails it where told to."""

    def __init__(self) -> None:
        self.questions = 0
        self.fails = False

    def __call__(self, stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if verb != "stream_state" or stage != "before" or "functions" not in subject:
            return None
        self.questions += 1
        return Unavailable("not now") if self.fails else None


class Bed:
    """An engine's foresight, and a publisher."""

    def __init__(self, server: LocalServer, broker: LocalBroker) -> None:
        self.asked = server.interceptor = Asked()
        self._publisher = server.connect()
        self._broker = broker
        self.store = FunctionStore(broker, NAMES, lambda: "token")
        self.seconds = 0.0
        self.waits = WaitStore(broker, NAMES)
        self.foresight = Foresight(broker, NAMES, self.store, self.waits, lambda: self.seconds)

    async def publish(self, event_id: str, data: bytes = b"null") -> tuple[Delivery, EventRecord]:
        """Publish an event; return how it is delivered."""
        event = EventRecord(id=event_id, name="a", time="", data=msgspec.Raw(data))
        await self._publisher.publish(
            Publication(subject=NAMES.event("a"), payload=encode_record(event), message_id=event_id)
        )
        async with self._broker.pull(NAMES.events, ENGINE_CONSUMER) as puller:
            puller.request(1)
            (delivery,) = await puller.batch(1)
        return delivery, event

    async def register(self) -> None:
        """Have a function of the events, which the engine knows."""
        await self.store.put(FUNCTION)
        await self.store.current()

    async def settle(self) -> None:
        """Let happen what is under way."""
        await asyncio.sleep(1)


@pytest.fixture
async def bed() -> AsyncGenerator[Bed]:
    server = LocalServer()
    broker = server.connect()
    for stream in streams(NAMES):
        await broker.ensure_stream(stream)
    for consumer in engine_consumers(NAMES):
        await broker.ensure_consumer(consumer)
    made = Bed(server, broker)
    yield made
    server.interceptor = None
    await made.foresight.stop()
    await made.foresight.stop()
    await broker.close()


async def test_an_event_that_was_heard_needs_no_question_when_it_comes(bed: Bed) -> None:
    bed.foresight.begin()
    await bed.settle()
    await bed.register()
    delivery, event = await bed.publish("e1")
    await bed.settle()
    asked = bed.asked.questions
    matcher = await bed.foresight.functions_for(delivery, event)
    assert matcher.functions.keys() == {"f"}
    assert bed.asked.questions == asked


async def test_one_answer_is_for_one_event(bed: Bed) -> None:
    bed.foresight.begin()
    await bed.settle()
    await bed.register()
    delivery, event = await bed.publish("e1")
    await bed.settle()
    await bed.foresight.functions_for(delivery, event)
    await bed.store.put(FunctionRecord(id="g", queue="q"))
    asked = bed.asked.questions
    assert (await bed.foresight.functions_for(delivery, event)).functions.keys() == {"f", "g"}
    assert bed.asked.questions == asked + 1


async def test_an_event_that_comes_late_is_asked_for_anew(bed: Bed) -> None:
    bed.foresight.begin()
    await bed.settle()
    await bed.register()
    delivery, event = await bed.publish("e1")
    await bed.settle()
    bed.seconds += 1.0
    await bed.store.put(FunctionRecord(id="g", queue="q"))
    assert (await bed.foresight.functions_for(delivery, event)).functions.keys() == {"f", "g"}


async def test_an_event_that_comes_again_is_asked_for_anew(bed: Bed) -> None:
    bed.foresight.begin()
    await bed.settle()
    await bed.register()
    delivery, event = await bed.publish("e1")
    delivery.nak()
    async with bed._broker.pull(NAMES.events, ENGINE_CONSUMER) as puller:  # noqa: SLF001 - it is ours
        puller.request(1)
        (again,) = await puller.batch(1)
    await bed.settle()
    await bed.store.put(FunctionRecord(id="g", queue="q"))
    assert again.delivered == 2
    assert (await bed.foresight.functions_for(again, event)).functions.keys() == {"f", "g"}


async def test_a_question_that_failed_is_asked_once_more(bed: Bed) -> None:
    bed.foresight.begin()
    await bed.settle()
    await bed.register()
    await bed.store.put(FunctionRecord(id="g", queue="q"))
    bed.asked.fails = True
    delivery, event = await bed.publish("e1")
    await bed.settle()
    bed.asked.fails = False
    assert (await bed.foresight.functions_for(delivery, event)).functions.keys() == {"f", "g"}


async def test_what_is_no_event_is_left_to_whoever_takes_it_from_the_stream(bed: Bed) -> None:
    bed.foresight.begin()
    await bed.settle()
    asked = bed.asked.questions
    bed._publisher.notify(NAMES.event("a"), b"no event")  # noqa: SLF001 - it is ours
    await bed.settle()
    assert bed.asked.questions == asked


async def test_for_an_event_that_starts_nothing_as_far_as_is_known_nothing_is_asked_ahead(bed: Bed) -> None:
    bed.foresight.begin()
    await bed.settle()
    await bed.store.put(FUNCTION)  # another engine might have
    asked = bed.asked.questions
    delivery, event = await bed.publish("e1")
    await bed.settle()
    assert bed.asked.questions == asked
    assert (await bed.foresight.functions_for(delivery, event)).functions.keys() == {"f"}


async def test_where_an_event_that_starts_nothing_may_be_waited_for_is_worked_out_ahead(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[bytes] = []

    def look(data: msgspec.Raw) -> object:
        looked_at.append(bytes(data))
        return read_data(data)

    monkeypatch.setattr("ironflow_engine.wait_store.read_data", look)
    bed.foresight.begin()
    await bed.settle()
    value = canonical_at({"key": 1}, "key")
    wait = WaitRecord(name="s", kind="wait_for_event", token="", event="a", path="key", value=value)
    entry = WaitEntry(run="r", queue="q", step="s", wait=wait, sequence=1, time_ms=1)
    await bed.waits.put_all([entry])
    _, event = await bed.publish("e1", b'{"key": 1}')
    await bed.settle()
    assert looked_at == [b'{"key": 1}']
    assert bed.waits.remembered(event) == [entry]
    assert looked_at == [b'{"key": 1}']
    assert bed.waits.remembered(msgspec.structs.replace(event, data=msgspec.Raw(b'{"key": 2}'))) == []


async def test_while_it_pauses_nothing_is_asked_ahead(bed: Bed) -> None:
    bed.foresight.begin()
    await bed.settle()
    await bed.register()
    bed.foresight.pause()
    await bed.settle()
    bed.foresight.begin()  # too soon
    await bed.settle()
    asked = bed.asked.questions
    await bed.publish("e1")
    await bed.settle()
    assert bed.asked.questions == asked

    bed.seconds += 1.0
    bed.foresight.begin()
    await bed.settle()
    await bed.publish("e2")
    await bed.settle()
    assert bed.asked.questions == asked + 1


async def test_where_it_may_not_listen_functions_are_asked_for_as_events_come(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise Denied("not allowed")

    monkeypatch.setattr(LocalBroker, "listen", refuse)
    bed.foresight.begin()
    await bed.settle()
    delivery, event = await bed.publish("e1")
    assert (await bed.foresight.functions_for(delivery, event)).functions.keys() == set()
