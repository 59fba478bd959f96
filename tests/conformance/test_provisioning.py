"""Making streams and consumers, and bringing them to what they shall be."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from ironflow.broker import topology
from ironflow.broker.protocol import (
    BrokerError,
    ConsumerSpec,
    NoSuchStream,
    Publication,
    SubjectTaken,
    Unavailable,
    WrongShards,
)
from ironflow.names import Names
from tests.conformance.bench import Arena, StreamUnderTest, now, receive, receive_nothing, subjects_of
from tests.support import eventually


async def test_making_a_stream_again_keeps_its_messages(arena: Arena) -> None:
    journal = await arena.journal()
    await journal.put("a")
    await arena.broker.ensure_stream(journal.spec)
    assert await journal.put("b") == 2
    with pytest.raises(SubjectTaken):
        await journal.put("a")


async def test_several_may_make_the_same_stream_at_once(arena: Arena) -> None:
    spec = arena.spec(one_per_subject="keep_first")
    connections = [await arena.server.connect() for _ in range(5)]
    await asyncio.gather(*(connection.ensure_stream(spec) for connection in connections))
    assert (await arena.broker.stream_state(spec.name)).messages == 0


async def test_a_stream_is_brought_to_its_new_settings_and_keeps_its_messages(arena: Arena) -> None:
    log = await arena.log()
    await log.put("a")
    changed = msgspec.structs.replace(
        log.spec, subjects=(f"{log.name}.>", f"{log.name}-more.>"), one_per_subject="keep_first"
    )
    await arena.broker.ensure_stream(changed)
    assert [message.sequence for message in await log.contents()] == [1]
    with pytest.raises(SubjectTaken):
        await log.put("a")
    more = msgspec.structs.replace(log.message("b"), subject=f"{log.name}-more.b")
    assert (await arena.broker.publish(more)).sequence == 2


async def test_a_stream_cannot_become_a_work_queue(arena: Arena) -> None:
    log = await arena.log()
    with pytest.raises(BrokerError):
        await arena.broker.ensure_stream(msgspec.structs.replace(log.spec, retention="work_queue"))
    await log.put("a")


async def test_two_streams_cannot_take_the_same_subject(arena: Arena) -> None:
    log = await arena.log()
    spec = arena.spec()
    with pytest.raises(BrokerError):
        await arena.broker.ensure_stream(msgspec.structs.replace(spec, subjects=(f"{log.name}.a.*",)))
    with pytest.raises(NoSuchStream):
        await arena.broker.stream_state(spec.name)


async def test_message_ids_are_remembered_for_no_longer_than_messages_live(arena: Arena) -> None:
    log = await arena.make(arena.spec(max_age_seconds=1, duplicate_window_seconds=120))
    await log.put("a", message_id="m")

    async def it_is_stored_again() -> None:
        assert not (await arena.broker.publish(log.message("a", message_id="m"))).duplicate

    await eventually(it_is_stored_again)


async def test_a_stream_whose_age_was_lifted_forgets_nothing_until_somebody_says_so(arena: Arena) -> None:
    ages = arena.spec(max_age_seconds=1, duplicate_window_seconds=1, age_stays_lifted=True)
    log = await arena.make(ages)
    await arena.broker.ensure_stream(msgspec.structs.replace(ages, max_age_seconds=0))
    await log.put("a")
    await arena.broker.ensure_stream(ages)
    beside = await arena.make(arena.spec(max_age_seconds=1, duplicate_window_seconds=1, age_stays_lifted=True))
    await beside.put("a")

    async def forgotten(by: StreamUnderTest) -> None:
        assert await by.last("a") is None

    await eventually(lambda: forgotten(beside))
    assert await log.last("a") is not None
    await arena.broker.ensure_stream(msgspec.structs.replace(ages, age_stays_lifted=False))
    await eventually(lambda: forgotten(log))
    await arena.broker.ensure_stream(ages)
    await log.put("b")
    await eventually(lambda: forgotten(log))


async def test_making_a_consumer_again_keeps_its_position(arena: Arena) -> None:
    log = await arena.log()
    worker = await log.consumer()
    await log.put_many(["a", "b", "c"])
    async with arena.broker.pull(log.name, worker) as puller:
        puller.request(1)
        (await receive(puller, 1))[0].ack()
        await log.consumer()
        puller.request(2)
        assert subjects_of(await receive(puller, 2)) == ["b", "c"]


async def test_a_consumer_is_brought_to_its_new_settings_and_keeps_its_position(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer(max_ack_pending=1)
    await queue.put_many(["a", "b", "c"])
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(3)
        [first] = await receive(puller, 1)
        await receive_nothing(puller)
        await queue.consumer(max_ack_pending=10, ack_wait_seconds=0.5)
        assert subjects_of(await receive(puller, 2)) == ["b", "c"]
        first.ack()
        puller.request(2)
        again = await receive(puller, 2, within=3.0)
        assert sorted((subjects_of([delivery])[0], delivery.delivered) for delivery in again) == [
            ("b", 2),
            ("c", 2),
        ]


async def test_a_consumer_with_more_filters_gets_what_is_stored_from_then_on(arena: Arena) -> None:
    log = await arena.log()
    worker = await log.consumer("worker", "a.>")
    await log.put_many(["a.1", "b.1"])
    async with arena.broker.pull(log.name, worker) as puller:
        puller.request(4)
        assert subjects_of(await receive(puller, 1)) == ["a.1"]
        await receive_nothing(puller, 0.1)
        await log.consumer("worker", "a.>", "b.>")
        await log.put_many(["b.2", "a.2"])
        assert subjects_of(await receive(puller, 2)) == ["b.2", "a.2"]


async def test_a_consumer_needs_its_stream(arena: Arena) -> None:
    with pytest.raises(NoSuchStream):
        await arena.broker.ensure_consumer(
            ConsumerSpec(stream=arena.namespace, name="c", filters=(">",), ack_wait_seconds=1, max_ack_pending=1)
        )


async def test_consumers_of_a_work_queue_cannot_overlap(arena: Arena) -> None:
    queue = await arena.queue()
    await queue.consumer("orders", "orders.>")
    with pytest.raises(BrokerError):
        await queue.consumer("urgent", "orders.urgent.*")
    await queue.consumer("mail", "mail.>")


async def test_the_whole_topology_can_be_made_again_and_again(arena: Arena) -> None:
    names = Names(arena.namespace)
    for _ in range(2):
        for stream in topology.streams(names):
            await arena.broker.ensure_stream(stream)
        for consumer in (*topology.engine_consumers(names), topology.queue_consumers(names, "orders")[0]):
            await arena.broker.ensure_consumer(consumer)
    for stream in topology.streams(names):
        assert (await arena.broker.stream_state(stream.name)).messages == 0


async def test_a_divided_namespace_can_be_made_again_and_again_and_with_no_other_number(arena: Arena) -> None:
    names = Names(arena.namespace, 3)
    for _ in range(2):
        for stream in topology.streams(names):
            await arena.broker.ensure_stream(stream)
        for consumer in (*topology.engine_consumers(names), *topology.queue_consumers(names, "orders")):
            await arena.broker.ensure_consumer(consumer)
    for shard in names.all_shards:
        assert (await arena.broker.consumer_state(shard.tasks, "orders")).shards == 3
    kept = Publication(subject=names.journal_outcome("orders", "r", 0), payload=b"{}")
    await arena.broker.publish(kept)
    for told in (1, 2, 4):
        for stream in topology.streams(Names(arena.namespace, told)):
            if stream.name in {each.name for each in topology.streams(names)}:
                with pytest.raises(WrongShards) as refusal:
                    await arena.broker.ensure_stream(stream)
                assert refusal.value.standing == 3
    with pytest.raises(SubjectTaken):
        await arena.broker.publish(kept)


async def test_a_closed_connection_stores_and_reads_nothing_and_says_so_at_once(arena: Arena) -> None:
    log = await arena.log()
    closed = await arena.server.connect()
    await closed.close()
    await closed.close()
    asked_at = now()
    with pytest.raises(Unavailable):
        await closed.publish(log.message("a"))
    assert isinstance((await closed.publish_all([log.message("a")]))[0], Unavailable)
    with pytest.raises(Unavailable):
        await closed.last(log.name, log.subject("a"))
    assert now() - asked_at < 1.0
    assert await log.contents() == []
