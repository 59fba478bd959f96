"""Which events an engine with an archive deletes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.broker.protocol import Publication, Unavailable
from ironflow.broker.topology import EVENTS_KEPT_SECONDS, engine_consumers, streams
from ironflow.names import ENGINE_CONSUMER, Names
from ironflow_engine.event_retention import EventRetention
from tests.support.archives import Lagging

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")
HOUR = 60 * 60


@pytest.fixture
async def broker() -> AsyncIterator[LocalBroker]:
    made = LocalServer().connect()
    for stream in streams(NAMES, archived=True):
        await made.ensure_stream(stream)
    for consumer in engine_consumers(NAMES):
        await made.ensure_consumer(consumer)
    yield made
    await made.close()


async def publish(broker: LocalBroker, count: int) -> None:
    for _ in range(count):
        await broker.publish(Publication(subject=NAMES.event("e"), payload=b"{}"))


async def acknowledge(broker: LocalBroker, up_to: int) -> None:
    """Take all events as an engine does, and be done with the first ones."""
    async with broker.pull(NAMES.events, ENGINE_CONSUMER) as puller:
        puller.request(up_to)
        taken = 0
        while taken < up_to:
            for delivery in await puller.batch(up_to):
                delivery.ack()
                taken += 1


async def left(broker: LocalBroker) -> list[int]:
    return [message.sequence async for page in broker.read(NAMES.events, ">") for message in page]


@pytest.mark.parametrize(
    ("copied", "acknowledged", "old", "stay"),
    [
        (10, 10, 10, []),
        (6, 10, 10, [7, 8, 9, 10]),
        (10, 7, 10, [8, 9, 10]),
        (10, 10, 9, [10]),
        (1, 10, 10, list(range(2, 11))),
        (0, 10, 10, list(range(1, 11))),
        (10, 0, 10, list(range(1, 11))),
        (10, 10, 0, list(range(1, 11))),
    ],
)
async def test_only_what_is_old_and_archived_and_acknowledged_goes(
    broker: LocalBroker, copied: int, acknowledged: int, old: int, stay: list[int]
) -> None:
    await publish(broker, old)
    await asyncio.sleep(EVENTS_KEPT_SECONDS - HOUR)
    await publish(broker, 10 - old)
    await asyncio.sleep(2 * HOUR)
    await acknowledge(broker, acknowledged)
    archive = Lagging()
    archive.position = copied
    assert await EventRetention(broker, NAMES, archive).sweep() == 10 - len(stay)
    assert await left(broker) == stay


@pytest.mark.parametrize("missing", [range(2, 3), range(5, 7), range(2, 10), range(6, 11)])
async def test_what_somebody_has_deleted_by_hand_does_not_keep_the_rest(broker: LocalBroker, missing: range) -> None:
    await publish(broker, 10)
    await acknowledge(broker, 10)
    for sequence in missing:
        await broker.delete(NAMES.events, sequence)
    await asyncio.sleep(EVENTS_KEPT_SECONDS + HOUR)
    archive = Lagging()
    archive.position = 10
    retention = EventRetention(broker, NAMES, archive)
    while await retention.sweep():
        pass
    assert await left(broker) == []


async def test_a_stream_that_was_made_anew_is_not_taken_for_the_one_that_was_archived(broker: LocalBroker) -> None:
    await publish(broker, 10)
    await acknowledge(broker, 10)
    await asyncio.sleep(EVENTS_KEPT_SECONDS + HOUR)
    archive = Lagging()
    archive.position = 11
    assert await EventRetention(broker, NAMES, archive).sweep() == 0


async def test_the_archive_is_asked_only_where_something_is_old(broker: LocalBroker) -> None:
    class Down(Lagging):
        async def copied(self, stream: str) -> int:
            raise Unavailable(stream)

    retention = EventRetention(broker, NAMES, Down())
    assert await retention.sweep() == 0
    await publish(broker, 10)
    assert await retention.sweep() == 0
    await asyncio.sleep(EVENTS_KEPT_SECONDS + HOUR)
    with pytest.raises(Unavailable):
        await retention.sweep()
    assert len(await left(broker)) == 10
