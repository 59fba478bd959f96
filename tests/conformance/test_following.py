"""Reading a whole stream again and again, each time on from where the last reading ended."""

from __future__ import annotations

import pytest

from ironflow.broker.protocol import BrokerError, Follower, StoredMessage
from tests.conformance.bench import Arena, StreamUnderTest, subjects_of


async def read(stream: StreamUnderTest, follower: Follower, after: int = 0) -> list[StoredMessage]:
    newest = (await stream.broker.stream_state(stream.name)).last_sequence
    return [message async for page in follower.read(after, newest) for message in page]


def sequences(messages: list[StoredMessage]) -> list[int]:
    return [message.sequence for message in messages]


async def test_each_reading_yields_what_has_come_since_the_last_one(arena: Arena) -> None:
    log = await arena.log()
    follower = arena.broker.follow(log.name)
    assert await read(log, follower) == []
    await log.put_many(["a", "b"])
    found = await read(log, follower)
    assert found == await log.contents()
    assert await read(log, follower, 2) == []
    await log.put_many(["c", "a"])
    found = await read(log, follower, 2)
    assert subjects_of(found) == ["c", "a"]
    assert sequences(found) == [3, 4]


async def test_whoever_asks_from_elsewhere_is_served_from_there(arena: Arena) -> None:
    log = await arena.log()
    await log.put_many(["a", "b", "c", "d"])
    follower = arena.broker.follow(log.name)
    assert sequences(await read(log, follower, 2)) == [3, 4]
    assert sequences(await read(log, follower)) == [1, 2, 3, 4]
    assert sequences(await read(log, follower, 3)) == [4]
    assert await read(log, follower, 500) == []
    assert sequences(await read(log, follower, 1)) == [2, 3, 4]


async def test_what_was_replaced_or_purged_meanwhile_is_left_out(arena: Arena) -> None:
    bucket = await arena.bucket()
    await bucket.put_many(["a", "b", "c"])
    follower = arena.broker.follow(bucket.name)
    assert sequences(await read(bucket, follower)) == [1, 2, 3]
    await bucket.put_many(["a", "d", "a", "e"])
    await arena.broker.purge(bucket.name, bucket.subject("d"))
    assert sequences(await read(bucket, follower, 3)) == [6, 7]
    await arena.broker.purge(bucket.name, bucket.subject(">"))
    assert await read(bucket, follower, 7) == []
    assert await read(bucket, follower) == []
    await bucket.put("a")
    assert sequences(await read(bucket, follower, 7)) == [8]


async def test_thousands_of_messages_come_in_pages_in_order_and_none_twice(arena: Arena) -> None:
    journal = await arena.journal()
    await journal.put_many([f"q.r.step.{number}" for number in range(1_200)])
    follower = arena.broker.follow(journal.name)
    pages = [page async for page in follower.read(100, 1_200)]
    assert len(pages) > 1
    assert all(pages)
    assert [message.sequence for page in pages for message in page] == list(range(101, 1_201))


async def test_a_reading_that_was_broken_off_goes_on_from_anywhere(arena: Arena) -> None:
    journal = await arena.journal()
    await journal.put_many([f"q.r.step.{number}" for number in range(1_200)])
    follower = arena.broker.follow(journal.name)
    first = await anext(aiter(follower.read(0, 1_200)))
    assert sequences(await read(journal, follower, first[-1].sequence)) == list(range(first[-1].sequence + 1, 1_201))
    await anext(aiter(follower.read(0, 1_200)))
    # As whoever takes in a part of a page.
    assert sequences(await read(journal, follower, 50)) == list(range(51, 1_201))


async def test_pages_of_large_messages_are_complete(arena: Arena) -> None:
    journal = await arena.journal()
    payloads = [bytes([number]) * 800_000 for number in range(8)]
    for number, payload in enumerate(payloads):
        await journal.put(f"a.{number}", payload)
    assert [message.payload for message in await read(journal, arena.broker.follow(journal.name))] == payloads


async def test_empty_messages_come_too(arena: Arena) -> None:
    log = await arena.log()
    await log.put("a", message_id="of some id")
    await log.put("b")
    assert await read(log, arena.broker.follow(log.name)) == await log.contents()


async def test_two_followers_do_not_take_from_each_other(arena: Arena) -> None:
    log = await arena.log()
    one, other = arena.broker.follow(log.name), (await arena.server.connect()).follow(log.name)
    for first in range(1, 10, 3):
        await log.put_many(["a", "b", "c"])
        for follower in (one, other):
            assert sequences(await read(log, follower, first - 1)) == [first, first + 1, first + 2]


@pytest.mark.parametrize("orderly", [False, True])
async def test_a_restart_of_the_server_is_not_noticed(arena: Arena, *, orderly: bool) -> None:
    log = await arena.log()
    follower = arena.broker.follow(log.name)
    await log.put_many(["a", "b"])
    assert sequences(await read(log, follower)) == [1, 2]
    await arena.server.restart(orderly=orderly)
    assert await read(log, follower, 2) == []
    await log.put_many(["c"])
    assert sequences(await read(log, follower, 2)) == [3]


async def test_following_a_stream_that_does_not_exist_fails(arena: Arena) -> None:
    impatient = await arena.server.connect(patience_seconds=0.2)
    with pytest.raises(BrokerError):
        await anext(aiter(impatient.follow(arena.namespace).read(0, 1)))
