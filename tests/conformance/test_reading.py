"""Reading what is stored."""

from __future__ import annotations

import asyncio

import pytest

from ironflow.broker.protocol import BrokerError, NoSuchStream, StoredMessage
from tests.conformance.bench import Arena, StreamUnderTest, now, subjects_of
from tests.support import eventually


async def pages(
    stream: StreamUnderTest, rest: str, after: int = 0, *, one_each: bool = False
) -> list[list[StoredMessage]]:
    subject_filter = stream.subject(rest)
    return [page async for page in stream.broker.read(stream.name, subject_filter, after, one_each=one_each)]


async def test_last_is_the_newest_message_of_exactly_that_subject(arena: Arena) -> None:
    log = await arena.log()
    await log.put("a", b"old")
    await log.put("a", b"new")
    await log.put("a.b", b"longer")
    await log.put("b", b"other")
    found = await arena.broker.last(log.name, log.subject("a"))
    assert found is not None
    assert (found.subject, found.payload, found.sequence) == (log.subject("a"), b"new", 2)


async def test_last_of_a_subject_without_messages_is_nothing(arena: Arena) -> None:
    log = await arena.log()
    await log.put("a.b")
    assert await arena.broker.last(log.name, log.subject("a")) is None
    await arena.broker.purge(log.name, log.subject("a.b"))
    assert await arena.broker.last(log.name, log.subject("a.b")) is None


async def test_last_sees_what_another_connection_has_just_stored(arena: Arena) -> None:
    bucket = await arena.bucket()
    other = await arena.server.connect()
    for number in range(50):
        await other.publish(bucket.message("key", b"%d" % number))
        assert await bucket.last("key") == b"%d" % number


async def test_a_message_is_found_at_its_sequence_for_as_long_as_it_is_stored(arena: Arena) -> None:
    log = await arena.log()
    await log.put_many(["a", "b"])
    found = await arena.broker.at(log.name, 2)
    assert found is not None
    assert (found.subject, found.payload, found.sequence) == (log.subject("b"), b"b", 2)
    assert await arena.broker.at(log.name, 3) is None
    await arena.broker.purge(log.name, log.subject("b"))
    assert await arena.broker.at(log.name, 2) is None


async def test_reading_keeps_the_order_of_storing_over_all_subjects(arena: Arena) -> None:
    journal = await arena.journal()
    names = ["q.r.step.b", "q.r.input", "q.r.step.a", "q.r.outcome.0", "q.r.wait.a"]
    await journal.put_many(names)
    messages = await journal.contents("q.r.>")
    assert subjects_of(messages) == names
    assert [message.sequence for message in messages] == [1, 2, 3, 4, 5]
    assert [message.payload for message in messages] == [name.encode() for name in names]


@pytest.mark.parametrize(
    ("subject_filter", "found"),
    [
        (">", ["a", "a.b", "a.c", "a.b.c", "b.b", "aa.b"]),
        ("a", ["a"]),
        ("a.>", ["a.b", "a.c", "a.b.c"]),
        ("a.*", ["a.b", "a.c"]),
        ("*.b", ["a.b", "b.b", "aa.b"]),
        ("*", ["a"]),
        ("*.>", ["a.b", "a.c", "a.b.c", "b.b", "aa.b"]),
        ("a.*.*", ["a.b.c"]),
        ("a.*.>", ["a.b.c"]),
        ("c.>", []),
    ],
)
async def test_a_filter_selects_by_tokens(arena: Arena, subject_filter: str, found: list[str]) -> None:
    log = await arena.log()
    await log.put_many(["a", "a.b", "a.c", "a.b.c", "b.b", "aa.b"])
    assert subjects_of(await log.contents(subject_filter)) == found


async def test_reading_returns_only_what_comes_after_a_sequence(arena: Arena) -> None:
    log = await arena.log()
    await log.put_many(["a.1", "b.1", "a.2", "b.2", "a.3"])
    assert subjects_of(await log.contents("a.>", after=1)) == ["a.2", "a.3"]
    assert subjects_of(await log.contents("a.>", after=2)) == ["a.2", "a.3"]
    assert subjects_of(await log.contents("a.>", after=4)) == ["a.3"]
    assert subjects_of(await log.contents("a.2", after=2)) == ["a.2"]
    assert await log.contents("a.>", after=5) == []
    assert await log.contents("a.>", after=500) == []


@pytest.mark.parametrize("one_each", [False, True])
async def test_thousands_of_messages_come_in_pages_in_order_and_none_twice(arena: Arena, *, one_each: bool) -> None:
    journal = await arena.journal()
    # Other runs' records stand between, and there are more subjects than a server answers for at once.
    names = [f"q.{run}.step.{number}" for number in range(700) for run in ("r1", "r2")]
    await journal.put_many(names)
    found = await pages(journal, "q.r1.>", one_each=one_each)
    assert len(found) > 1
    assert all(found)
    sequences = [message.sequence for page in found for message in page]
    assert sequences == list(range(1, 1_401, 2))
    for after in (300, 1_000):
        found = await pages(journal, "q.>", after, one_each=one_each)
        assert [message.sequence for page in found for message in page] == list(range(after + 1, 1_401))


@pytest.mark.parametrize("one_each", [False, True])
async def test_pages_of_large_messages_are_complete(arena: Arena, *, one_each: bool) -> None:
    journal = await arena.journal()
    payloads = [bytes([number]) * 800_000 for number in range(8)]
    for number, payload in enumerate(payloads):
        await journal.put(f"a.{number}", payload)
    found = await pages(journal, "a.>", one_each=one_each)
    assert [message.payload for page in found for message in page] == payloads


@pytest.mark.parametrize("one_each", [False, True])
async def test_reading_what_is_not_there_yields_no_page(arena: Arena, *, one_each: bool) -> None:
    log = await arena.log()
    assert await pages(log, ">", one_each=one_each) == []
    await log.put("a")
    assert await pages(log, "b", one_each=one_each) == []
    assert await pages(log, "a", after=1, one_each=one_each) == []


async def test_reading_leaves_out_what_was_purged_replaced_or_acknowledged(arena: Arena) -> None:
    bucket = await arena.bucket()
    await bucket.put_many(["a", "b", "c", "a"])
    await arena.broker.purge(bucket.name, bucket.subject("b"))
    assert [message.sequence for message in await bucket.contents()] == [3, 4]


async def test_messages_older_than_max_age_are_gone(arena: Arena) -> None:
    log = await arena.make(arena.spec(max_age_seconds=1, duplicate_window_seconds=1))
    stored_at = now()
    await log.put("a")

    async def it_is_gone() -> None:
        assert await log.last("a") is None

    await eventually(it_is_gone)
    assert now() - stored_at >= 0.99
    assert await log.contents() == []
    assert (await arena.broker.stream_state(log.name)).messages == 0
    assert await log.put("a") == 2


async def test_an_empty_stream_has_an_empty_state(arena: Arena) -> None:
    log = await arena.log()
    state = await arena.broker.stream_state(log.name)
    assert (state.messages, state.first_sequence, state.last_sequence, state.size_bytes) == (0, 0, 0, 0)


async def test_a_stream_state_counts_what_is_stored(arena: Arena) -> None:
    log = await arena.log()
    await log.put_many(["a", "b", "c", "d"])
    await log.put("large", bytes(5_000))
    await arena.broker.purge(log.name, log.subject("a"))
    await arena.broker.purge(log.name, log.subject("c"))
    state = await arena.broker.stream_state(log.name)
    assert (state.messages, state.first_sequence, state.last_sequence) == (3, 2, 5)
    assert 5_000 < state.size_bytes < 6_000


async def test_a_stream_state_counts_consumers(arena: Arena) -> None:
    log = await arena.log()
    assert (await arena.broker.stream_state(log.name)).consumers == 0
    await log.consumer()
    assert (await arena.broker.stream_state(log.name)).consumers == 1


async def test_an_emptied_stream_goes_on_where_it_was(arena: Arena) -> None:
    log = await arena.log()
    await log.put_many(["a", "b", "c"])
    await arena.broker.purge(log.name, log.subject(">"))
    state = await arena.broker.stream_state(log.name)
    assert (state.messages, state.first_sequence, state.last_sequence, state.size_bytes) == (0, 4, 3, 0)
    assert await log.put("d") == 4


async def test_stored_times_are_the_servers(arena: Arena) -> None:
    log = await arena.log()
    await asyncio.sleep(0.0015)
    before = await arena.broker.server_time_ms(log.name)
    await log.put("a")
    [read] = await log.contents()
    last = await arena.broker.last(log.name, log.subject("a"))
    at = await arena.broker.at(log.name, 1)
    after = await arena.broker.server_time_ms(log.name)
    # All are rounded down, so they keep their order.
    assert before <= read.time_ms <= after
    assert last == at == read


async def test_the_time_is_told_beside_a_consumer_too(arena: Arena) -> None:
    log = await arena.log()
    consumer = await log.consumer()
    before = await arena.broker.server_time_ms(log.name)
    beside = await arena.broker.server_time_ms(log.name, consumer)
    assert before <= beside <= await arena.broker.server_time_ms(log.name)
    with pytest.raises(NoSuchStream):
        await arena.broker.server_time_ms(log.name, "nobody")
    with pytest.raises(NoSuchStream):
        await arena.broker.server_time_ms("NOWHERE")


async def test_what_does_not_exist_says_so(arena: Arena) -> None:
    log = await arena.log()
    nowhere = arena.namespace
    for question in (
        arena.broker.stream_state(nowhere),
        arena.broker.consumer_state(nowhere, "worker"),
        arena.broker.consumer_state(log.name, "worker"),
        arena.broker.last(nowhere, "a"),
        arena.broker.at(nowhere, 1),
    ):
        with pytest.raises(NoSuchStream):
            await question


async def test_reading_a_stream_that_does_not_exist_fails(arena: Arena) -> None:
    impatient = await arena.server.connect(patience_seconds=0.2)
    with pytest.raises(BrokerError):
        await anext(aiter(impatient.read(arena.namespace, ">")))
