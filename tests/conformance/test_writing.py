"""Storing messages, and what is refused."""

from __future__ import annotations

import asyncio

import pytest

from ironflow.broker.protocol import (
    MessageTooLarge,
    NoSuchStream,
    Publication,
    StorageFull,
    Stored,
    SubjectTaken,
    Unavailable,
    WrongRevision,
)
from tests.conformance.bench import Arena, now, receive, sequence_of, subjects_of
from tests.support import eventually

HEADROOM = 1_000
"""Bytes that are left for headers, which count against max_payload."""


async def test_messages_are_numbered_from_one_in_the_order_in_which_they_are_stored(arena: Arena) -> None:
    log = await arena.log()
    assert [await log.put("a"), await log.put("b"), await log.put("a")] == [1, 2, 3]
    assert subjects_of(await log.contents()) == ["a", "b", "a"]


async def test_payloads_come_back_byte_for_byte(arena: Arena) -> None:
    log = await arena.log()
    payloads = [b"", bytes(range(256)), b"\r\nPUB x 0\r\n\r\n", "Ω€𝄞".encode(), b" \x00 "]
    for payload in payloads:
        await log.put("a", payload)
    assert [message.payload for message in await log.contents()] == payloads


async def test_a_second_message_on_a_keep_first_subject_is_refused(arena: Arena) -> None:
    journal = await arena.journal()
    await journal.put("a", b"first")
    with pytest.raises(SubjectTaken):
        await journal.put("a", b"second")
    await journal.put("b", b"another subject")
    assert [message.payload for message in await journal.contents()] == [b"first", b"another subject"]


async def test_of_many_writers_of_a_keep_first_subject_exactly_one_wins(arena: Arena) -> None:
    journal = await arena.journal()
    connections = [await arena.server.connect() for _ in range(4)]
    answers = await asyncio.gather(
        *(connections[writer % 4].publish(journal.message("a", b"%d" % writer)) for writer in range(20)),
        return_exceptions=True,
    )
    winners = [writer for writer, answer in enumerate(answers) if isinstance(answer, Stored)]
    assert [type(answer) for answer in answers].count(SubjectTaken) == 19
    assert await journal.last("a") == b"%d" % winners[0]


async def test_a_work_queue_subject_is_taken_while_its_message_is_pending_and_free_once_acknowledged(
    arena: Arena,
) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    await queue.put("task")
    with pytest.raises(SubjectTaken):
        await queue.put("task")
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(1)
        [delivery] = await receive(puller, 1)
        with pytest.raises(SubjectTaken):
            await queue.put("task")
        delivery.ack()

    async def it_is_free() -> int:
        try:
            return await queue.put("task")
        except SubjectTaken as taken:
            raise AssertionError(taken) from None

    assert await eventually(it_is_free) == 2


async def test_a_keep_last_subject_holds_its_newest_message_only(arena: Arena) -> None:
    bucket = await arena.bucket()
    old = await bucket.put("key", b"old")
    await bucket.put("other", b"stays")
    new = await bucket.put("key", b"new")
    assert await bucket.last("key") == b"new"
    assert await arena.broker.at(bucket.name, old) is None
    assert [message.sequence for message in await bucket.contents()] == [2, new]


async def test_an_expected_revision_is_the_last_sequence_of_that_subject(arena: Arena) -> None:
    bucket = await arena.bucket()
    publish = arena.broker.publish
    first = await publish(bucket.message("key", b"1", expected_revision=0))
    await bucket.put("other")
    second = await publish(bucket.message("key", b"2", expected_revision=first.sequence))
    assert second.sequence == 3
    assert await bucket.last("key") == b"2"


@pytest.mark.parametrize("expected", [0, 1, 4])
async def test_a_wrong_expected_revision_is_refused_and_nothing_is_stored(arena: Arena, expected: int) -> None:
    log = await arena.log()
    await log.put_many(["key", "key", "other"])
    with pytest.raises(WrongRevision):
        await arena.broker.publish(log.message("key", b"late", expected_revision=expected))
    assert (await arena.broker.stream_state(log.name)).messages == 3


async def test_a_revision_is_refused_where_there_is_no_message(arena: Arena) -> None:
    bucket = await arena.bucket()
    with pytest.raises(WrongRevision):
        await arena.broker.publish(bucket.message("key", expected_revision=1))


async def test_a_purged_subject_has_revision_zero(arena: Arena) -> None:
    bucket = await arena.bucket()
    await bucket.put("key")
    await arena.broker.purge(bucket.name, bucket.subject("key"))
    stored = await arena.broker.publish(bucket.message("key", b"new", expected_revision=0))
    assert stored.sequence == 2


async def test_a_purge_leaves_what_is_newer_than_its_limit(arena: Arena) -> None:
    log = await arena.log()
    await log.put_many(["a", "b", "a", "a"])
    assert await arena.broker.purge(log.name, log.subject("a"), 3) == 2
    left = [message.sequence async for page in arena.broker.read(log.name, ">") for message in page]
    assert left == [2, 4]


async def test_of_many_writers_with_the_same_expected_revision_exactly_one_wins(arena: Arena) -> None:
    bucket = await arena.bucket()
    revision = await bucket.put("key")
    connections = [await arena.server.connect() for _ in range(4)]
    answers = await asyncio.gather(
        *(
            connections[writer % 4].publish(bucket.message("key", b"%d" % writer, expected_revision=revision))
            for writer in range(20)
        ),
        return_exceptions=True,
    )
    winners = [writer for writer, answer in enumerate(answers) if isinstance(answer, Stored)]
    assert [type(answer) for answer in answers].count(WrongRevision) == 19
    assert await bucket.last("key") == b"%d" % winners[0]


async def test_a_message_id_is_stored_once_whatever_its_subject(arena: Arena) -> None:
    log = await arena.log()
    first = await arena.broker.publish(log.message("a", b"1", message_id="m"))
    again = await arena.broker.publish(log.message("a", b"2", message_id="m"))
    elsewhere = await arena.broker.publish(log.message("b", b"3", message_id="m"))
    other = await arena.broker.publish(log.message("a", b"4", message_id="n"))
    assert first == Stored(1)
    assert again == elsewhere == Stored(1, duplicate=True)
    assert other == Stored(2)
    assert [message.payload for message in await log.contents()] == [b"1", b"4"]


async def test_message_ids_count_within_one_stream(arena: Arena) -> None:
    one, other = await arena.log(), await arena.log()
    await one.put("a", message_id="m")
    assert await arena.broker.publish(other.message("a", message_id="m")) == Stored(1)


async def test_message_ids_may_be_any_text(arena: Arena) -> None:
    log = await arena.log()
    hostile = ["a b", " a b", "a b ", "a\r\nNats-Rollup: all", "ü", "", "x" * 2_000]
    for message_id in hostile:
        assert not (await arena.broker.publish(log.message("a", message_id=message_id))).duplicate
    for message_id in hostile:
        assert (await arena.broker.publish(log.message("a", message_id=message_id))).duplicate


async def test_a_message_id_counts_no_longer_than_the_duplicate_window(arena: Arena) -> None:
    log = await arena.make(arena.spec(duplicate_window_seconds=1))
    stored_at = now()
    await log.put("a", message_id="m")
    assert (await arena.broker.publish(log.message("a", message_id="m"))).duplicate

    async def it_is_stored_again() -> None:
        assert not (await arena.broker.publish(log.message("a", message_id="m"))).duplicate

    await eventually(it_is_stored_again)
    assert now() - stored_at >= 0.99


async def test_a_refused_message_does_not_use_up_its_id(arena: Arena) -> None:
    journal = await arena.journal()
    await journal.put("a")
    with pytest.raises(SubjectTaken):
        await journal.put("a", message_id="m")
    assert await arena.broker.publish(journal.message("b", message_id="m")) == Stored(2)


async def test_a_revision_is_checked_before_a_message_id(arena: Arena) -> None:
    bucket = await arena.bucket()
    first = bucket.message("key", message_id="m", expected_revision=0)
    await arena.broker.publish(first)
    with pytest.raises(WrongRevision):
        await arena.broker.publish(first)


async def test_a_message_id_is_checked_before_the_subject_is(arena: Arena) -> None:
    journal = await arena.journal()
    await journal.put("a", message_id="m")
    assert await arena.broker.publish(journal.message("a", message_id="m")) == Stored(1, duplicate=True)


async def test_a_message_over_max_payload_is_refused_and_one_below_it_is_not(arena: Arena) -> None:
    log = await arena.log()
    limit = arena.broker.server.max_payload
    assert limit == 1024 * 1024
    with pytest.raises(MessageTooLarge):
        await log.put("a", bytes(limit + 1))
    await log.put("a", bytes(limit - HEADROOM))
    assert (await arena.broker.stream_state(log.name)).messages == 1


async def test_what_no_stream_takes_is_not_stored(arena: Arena) -> None:
    impatient = await arena.server.connect(patience_seconds=0.2)
    with pytest.raises(Unavailable):
        await impatient.publish(Publication(subject=arena.subject("nowhere"), payload=b""))


async def test_a_full_server_refuses_messages_and_works_on_with_those_it_has(small_arena: Arena) -> None:
    queue = await small_arena.queue()
    worker = await queue.consumer()
    stored = 0

    async def fill() -> None:
        nonlocal stored
        while stored < 1_000:
            await queue.put(f"{stored}", bytes(10_000))
            stored += 1

    with pytest.raises(StorageFull):
        await fill()
    assert (await queue.broker.stream_state(queue.name)).messages == stored
    assert stored > 10
    async with queue.broker.pull(queue.name, worker) as puller:
        puller.request(stored)
        for delivery in await receive(puller, stored):
            delivery.ack()

    async def there_is_room_again() -> None:
        try:
            await queue.put("after", bytes(10_000))
        except StorageFull as full:
            raise AssertionError(full) from None

    await eventually(there_is_room_again)


async def test_publish_all_answers_each_message_by_itself_and_in_order(arena: Arena) -> None:
    journal = await arena.journal()
    await journal.put("taken", message_id="known")
    too_large = bytes(arena.broker.server.max_payload + 1)
    answers = await arena.broker.publish_all(
        [
            journal.message("a", b"a"),
            journal.message("taken"),
            journal.message("b", expected_revision=7),
            journal.message("c", too_large),
            journal.message("d", message_id="known"),
            journal.message("e", b"e", expected_revision=0),
            journal.message("taken", expected_revision=0),
        ]
    )
    assert [type(answer) for answer in answers] == [
        Stored,
        SubjectTaken,
        WrongRevision,
        MessageTooLarge,
        Stored,
        Stored,
        WrongRevision,
    ]
    assert answers[4] == Stored(1, duplicate=True)
    assert subjects_of(await journal.contents()) == ["taken", "a", "e"]
    assert [message.sequence for message in await journal.contents()] == [
        1,
        sequence_of(answers[0]),
        sequence_of(answers[5]),
    ]


async def test_publish_all_of_nothing_answers_nothing(arena: Arena) -> None:
    assert await arena.broker.publish_all([]) == []


async def test_publish_all_stores_thousands_in_order(arena: Arena) -> None:
    journal = await arena.journal()
    names = [f"step.{number}" for number in range(2_500)]
    assert await journal.put_many(names) == list(range(1, 2_501))
    assert subjects_of(await journal.contents()) == names


async def test_publish_all_stores_all_but_those_that_are_refused(arena: Arena) -> None:
    journal = await arena.journal()
    taken = {f"{number}" for number in range(0, 300, 50)}
    await journal.put_many(sorted(taken))
    names = [f"{number}" for number in range(300)]
    answers = await arena.broker.publish_all([journal.message(name) for name in names])
    refused = {name for name, answer in zip(names, answers, strict=True) if isinstance(answer, SubjectTaken)}
    assert refused == taken
    assert (await arena.broker.stream_state(journal.name)).messages == 300


async def test_publish_all_stores_many_with_ids_on_one_subject_in_order(arena: Arena) -> None:
    log = await arena.log()
    messages = [log.message("same", f"{number}".encode(), message_id=f"id {number}") for number in range(300)]
    assert await arena.broker.publish_all(messages) == [Stored(number) for number in range(1, 301)]
    assert [message.payload for message in await log.contents()] == [message.payload for message in messages]
    assert await arena.broker.publish(messages[7]) == Stored(8, duplicate=True)


async def test_publish_all_stores_each_id_once(arena: Arena) -> None:
    log = await arena.log()
    known = await log.put("same", message_id="id 100")
    messages = [log.message("same", message_id=f"id {number}") for number in range(300)]
    answers = await arena.broker.publish_all([*messages, messages[200]])
    assert answers[100] == Stored(known, duplicate=True)
    assert answers[300] == Stored(sequence_of(answers[200]), duplicate=True)
    assert sorted(map(sequence_of, answers[:300])) == list(range(1, 301))
    assert (await arena.broker.stream_state(log.name)).messages == 300


async def test_publish_all_to_several_streams_answers_in_order(arena: Arena) -> None:
    journal, bucket = await arena.journal(), await arena.bucket()
    await bucket.put("key")
    publications = [
        (bucket if number % 2 else journal).message(f"{number}", expected_revision=0) for number in range(100)
    ]
    answers = await arena.broker.publish_all([*publications, bucket.message("key", expected_revision=0)])
    assert [sequence_of(answer) for answer in answers[0:100:2]] == list(range(1, 51))
    assert [sequence_of(answer) for answer in answers[1:100:2]] == list(range(2, 52))
    assert isinstance(answers[-1], WrongRevision)


async def test_purge_removes_what_a_filter_names_and_counts_it(arena: Arena) -> None:
    journal = await arena.journal()
    await journal.put_many(["q.run1.step.a", "q.run1.outcome.0", "q.run2.step.a", "q.run1.step.b"])
    assert await arena.broker.purge(journal.name, journal.subject("q.run1.>")) == 3
    assert subjects_of(await journal.contents()) == ["q.run2.step.a"]
    assert await arena.broker.purge(journal.name, journal.subject("q.run1.>")) == 0
    assert await arena.broker.purge(journal.name, journal.subject("*.run2.*.a")) == 1
    assert (await arena.broker.stream_state(journal.name)).messages == 0


async def test_one_message_is_deleted_and_its_subject_is_free_again(arena: Arena) -> None:
    journal = await arena.journal()
    await journal.put_many(["a", "b"])
    assert await arena.broker.delete(journal.name, 1) is True
    assert await arena.broker.delete(journal.name, 1) is False
    assert await arena.broker.delete(journal.name, 99) is False
    assert await journal.put("a") == 3
    assert await arena.broker.at(journal.name, 2) is not None


async def test_a_message_between_others_is_deleted_once(arena: Arena) -> None:
    journal = await arena.journal()
    await journal.put_many(["a", "b", "c"])
    assert await arena.broker.delete(journal.name, 2) is True
    # The server has another error for a gap than for what lies before its first message, or behind its last one.
    assert await arena.broker.delete(journal.name, 2) is False


async def test_a_purged_keep_first_subject_is_free_again(arena: Arena) -> None:
    journal = await arena.journal()
    await journal.put("a", b"old")
    await arena.broker.purge(journal.name, journal.subject("a"))
    assert await journal.put("a", b"new") == 2


async def test_purging_a_stream_that_does_not_exist_says_so(arena: Arena) -> None:
    with pytest.raises(NoSuchStream):
        await arena.broker.purge(arena.namespace, "anything")
