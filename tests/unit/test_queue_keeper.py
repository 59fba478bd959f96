"""How engines look after the consumers of queues, and what that costs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from typing import cast

import msgspec
import pytest

from ironflow.broker.local import LocalBroker, LocalServer, Stage
from ironflow.broker.protocol import Broker, BrokerError, ConsumerState, NoSuchStream
from ironflow.broker.topology import queue_consumers, streams
from ironflow.names import Names
from ironflow.records import FunctionRecord
from ironflow_engine import queue_keeper
from ironflow_engine.function_store import FunctionStore
from ironflow_engine.queue_keeper import QueueKeeper

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")
TASKS = NAMES.all_shards[0].tasks
QUEUES = [f"q{number}" for number in range(100)]
SWEEPS_OF_A_MINUTE = queue_keeper.MOST_UNCHANGED + 1


class Nats:
    """A server with the consumers of a hundred queues, which counts what a keeper asks of it."""

    def __init__(self, server: LocalServer, broker: LocalBroker) -> None:
        self.server, self.broker = server, broker
        self.asked: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.keeper = QueueKeeper(
            cast("Broker", self), NAMES, FunctionStore(server.connect(), NAMES, lambda: "token"), 10.0
        )

    def __getattr__(self, name: str) -> object:
        self.asked[name] += 1
        return getattr(self.broker, name)

    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState:
        self.asked["consumer_state"] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.broker.consumer_state(stream, consumer)
        finally:
            self.at_once -= 1

    def delete(self, queue: str) -> None:
        """Delete a consumer, as somebody may by hand."""
        del self.server.stream(TASKS).consumers[queue]

    async def is_there(self, queue: str) -> bool:
        try:
            await self.broker.consumer_state(TASKS, queue)
        except NoSuchStream:
            return False
        return True


@pytest.fixture
async def nats() -> AsyncGenerator[Nats]:
    server = LocalServer()
    broker = server.connect()
    for stream in streams(NAMES):
        await broker.ensure_stream(stream)
    made = Nats(server, broker)
    store = FunctionStore(server.connect(), NAMES, lambda: "token")
    for queue in QUEUES:
        await store.put(FunctionRecord(id=f"of-{queue}", queue=queue))
        await broker.ensure_consumer(queue_consumers(NAMES, queue)[0])
    yield made
    await broker.close()


async def test_queues_are_not_all_asked_for_at_once(nats: Nats) -> None:
    await nats.keeper.restore()
    assert nats.asked["consumer_state"] == len(QUEUES)
    assert nats.most_at_once <= queue_keeper.AT_ONCE


async def test_while_nothing_changes_the_number_of_consumers_is_asked_for_and_each_of_them_once_a_minute(
    nats: Nats,
) -> None:
    for _ in range(SWEEPS_OF_A_MINUTE):
        await nats.keeper.restore()
    assert (nats.asked["consumer_state"], nats.asked["stream_state"]) == (len(QUEUES), SWEEPS_OF_A_MINUTE)
    await nats.keeper.restore()
    assert nats.asked["consumer_state"] == 2 * len(QUEUES)


async def test_a_consumer_that_was_deleted_is_there_again_with_the_next_look(nats: Nats) -> None:
    for queue in QUEUES[:3]:
        await nats.keeper.restore()
        nats.delete(queue)
        await nats.keeper.restore()
        assert await nats.is_there(queue)


async def test_a_consumer_in_whose_place_somebody_made_another_is_there_again_within_a_minute(nats: Nats) -> None:
    await nats.keeper.restore()
    nats.delete("q1")
    await nats.broker.ensure_consumer(queue_consumers(NAMES, "strange")[0])
    for _ in range(SWEEPS_OF_A_MINUTE):
        await nats.keeper.restore()
    assert await nats.is_there("q1")


async def test_a_consumer_that_could_not_be_looked_for_is_looked_for_with_the_next_look(nats: Nats) -> None:
    await nats.keeper.restore()
    nats.delete("q1")
    nats.server.stop()
    looking = asyncio.create_task(nats.keeper.restore())
    await asyncio.sleep(60)
    await looking
    nats.server.start()
    await nats.keeper.restore()
    assert await nats.is_there("q1")


async def test_a_queue_that_is_new_gets_its_consumer(nats: Nats) -> None:
    await nats.keeper.restore()
    await FunctionStore(nats.broker, NAMES, lambda: "token").put(FunctionRecord(id="new", queue="new"))
    await nats.keeper.restore()
    assert await nats.is_there("new")


def limit_of(nats: Nats, queue: str) -> int:
    return nats.server.stream(TASKS).consumer(queue).spec.max_ack_pending


async def test_an_engine_that_starts_brings_the_consumers_of_queues_to_their_settings_once(nats: Nats) -> None:
    changed = msgspec.structs.replace(queue_consumers(NAMES, "q1")[0], max_ack_pending=1)
    await nats.broker.ensure_consumer(changed)
    await nats.keeper.restore()
    assert limit_of(nats, "q1") == limit_of(nats, "q2") > 1
    # What is changed from then on stays until the next start: it may be on purpose.
    await nats.broker.ensure_consumer(changed)
    for _ in range(SWEEPS_OF_A_MINUTE + 1):
        await nats.keeper.restore()
    assert limit_of(nats, "q1") == 1


async def test_a_consumer_that_cannot_be_changed_is_left_as_it_is_and_keeps_no_other_from_being_made(
    nats: Nats,
) -> None:
    tried: list[str] = []

    def refuse(stage: Stage, verb: str, _subject: str) -> BrokerError | None:
        if stage != "before" or verb != "ensure_consumer" or len(tried) == len(QUEUES) - 1:
            return None
        tried.append(verb)
        return BrokerError("deliver policy can not be updated")

    nats.delete("q99")
    nats.server.interceptor = refuse
    for _ in range(3):
        await nats.keeper.restore()
    nats.server.interceptor = None
    assert await nats.is_there("q99")
