"""What outlives a crash of the server: SIGKILL for the real one."""

from __future__ import annotations

import asyncio

import pytest

from ironflow.broker.protocol import Ambiguous, Request, Schedule, Stored, Unavailable
from tests.conformance.bench import (
    PATIENCE_SECONDS,
    QUIET_SECONDS,
    Arena,
    StreamUnderTest,
    receive,
    receive_nothing,
    subjects_of,
)
from tests.support import eventually, holds_for


async def is_back(log: StreamUnderTest) -> None:
    """Wait until the connection has the new server."""
    await log.broker.stream_state(log.name)


async def test_the_server_id_changes_with_every_restart(arena: Arena) -> None:
    log = await arena.log()
    before = arena.broker.server.id
    await arena.server.restart()
    await is_back(log)
    assert before != arena.broker.server.id
    assert before
    assert arena.broker.server.id


async def test_connections_to_one_server_see_one_id(arena: Arena) -> None:
    other = await arena.server.connect()
    assert other.server == arena.broker.server


async def test_what_was_stored_is_there_after_a_restart(arena: Arena) -> None:
    journal, bucket = await arena.journal(), await arena.bucket()
    await journal.put_many(["a", "b"])
    revision = await bucket.put("key", b"1")
    before = await journal.contents()
    await arena.server.restart()
    assert await journal.contents() == before
    assert await bucket.last("key") == b"1"
    assert await arena.broker.publish(bucket.message("key", b"2", expected_revision=revision)) == Stored(2)
    assert await journal.put("c") == 3


async def test_a_stream_says_after_a_restart_that_it_is_the_one_that_it_was(arena: Arena) -> None:
    log, other = await arena.log(), await arena.journal()
    before = [(await arena.broker.stream_state(stream.name)).created for stream in (log, other)]
    assert len(set(before)) == 2
    await arena.server.restart()
    assert [(await arena.broker.stream_state(stream.name)).created for stream in (log, other)] == before


async def test_a_message_id_is_known_after_a_restart_while_its_message_is_stored(arena: Arena) -> None:
    log, queue = await arena.log(), await arena.queue()
    worker = await queue.consumer()
    await log.put("a", message_id="m")
    await queue.put("pending.a", message_id="kept")
    await queue.put("done.a", message_id="forgotten")
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(2)
        kept, done = await receive(puller, 2)
        done.ack()

        async def it_is_gone() -> None:
            assert (await arena.broker.stream_state(queue.name)).messages == 1

        await eventually(it_is_gone)
        again = await arena.broker.publish(queue.message("done.b", message_id="forgotten"))
        assert again == Stored(2, duplicate=True)
        await arena.server.restart()
        assert await arena.broker.publish(log.message("b", message_id="m")) == Stored(1, duplicate=True)
        again = await arena.broker.publish(queue.message("pending.b", message_id="kept"))
        assert again == Stored(1, duplicate=True)
        # A work queue reads the ids back from its messages, and this one's is no more.
        again = await arena.broker.publish(queue.message("done.b", message_id="forgotten"))
        assert again == Stored(3)
        kept.ack()


async def test_a_consumer_goes_on_where_it_was(arena: Arena) -> None:
    log = await arena.log()
    worker = await log.consumer()
    await log.put_many(["a", "b", "c"])
    async with arena.broker.pull(log.name, worker) as puller:
        puller.request(2)
        for delivery in await receive(puller, 2):
            delivery.ack()

        async def both_are_done_with() -> None:
            assert (await arena.broker.consumer_state(log.name, worker)).ack_floor == 2

        await eventually(both_are_done_with)
    # In a crash the acknowledgements might get lost.
    await arena.server.restart(orderly=True)
    async with arena.broker.pull(log.name, worker) as puller:
        puller.request(1)
        assert subjects_of(await receive(puller, 1)) == ["c"]


async def test_what_was_out_when_the_server_crashed_comes_again(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer(ack_wait_seconds=0.5)
    await queue.put_many(["a", "b", "c"])
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(3)
        await receive(puller, 3)
        await arena.server.restart()
        puller.request(3)
        again = await receive(puller, 3)
        assert sorted(subjects_of(again)) == ["a", "b", "c"]
        # How often it was delivered may be forgotten.
        assert {delivery.delivered for delivery in again} <= {1, 2}
        for delivery in again:
            delivery.ack()

        async def the_queue_is_empty() -> None:
            assert (await arena.broker.stream_state(queue.name)).messages == 0

        await eventually(the_queue_is_empty)


async def test_a_puller_gets_what_is_stored_after_a_restart_without_asking_again(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(2)
        await receive_nothing(puller, 0.1)
        await arena.server.restart()
        await queue.put_many(["a", "b", "c"])
        assert subjects_of(await receive(puller, 2)) == ["a", "b"]
        await receive_nothing(puller)


async def test_a_message_handed_back_with_a_delay_comes_again_after_a_crash(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer(ack_wait_seconds=2.0)
    await queue.put("a")
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(1)
        (await receive(puller, 1))[0].nak(0.5)
        await arena.broker.server_time_ms(queue.name)
        await arena.server.restart()
        puller.request(1)
        assert subjects_of(await receive(puller, 1)) == ["a"]


async def test_a_timer_outlives_a_restart(arena: Arena) -> None:
    timers = await arena.timers()
    engine = await timers.consumer("engine", "fired.>")
    at_ms = await arena.broker.server_time_ms(timers.name) + 700
    await arena.broker.publish(timers.message("timers.t", schedule=Schedule(at_ms, timers.subject("fired.t"))))
    await arena.server.restart()
    async with arena.broker.pull(timers.name, engine) as puller:
        puller.request(1)
        [fired] = await receive(puller, 1)
        assert fired.time_ms >= at_ms


async def test_listeners_hear_on_after_a_restart(arena: Arena) -> None:
    log = await arena.log()
    caller = await arena.server.connect()

    async def answer(request: Request) -> None:
        request.respond(b"here: " + request.payload)

    await arena.broker.listen(arena.subject("question"), answer)
    await arena.server.restart()
    await is_back(log)

    async def it_is_answered() -> None:
        try:
            assert await caller.request(arena.subject("question"), b"?", 1.0) == b"here: ?"
        except Unavailable as nobody:
            raise AssertionError(nobody) from None

    await eventually(it_is_answered)


async def test_a_renewal_says_whether_there_was_a_connection_to_send_it_on(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer(ack_wait_seconds=30)
    await queue.put("a")
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(1)
        [delivery] = await receive(puller, 1)
        assert arena.broker.renew(delivery.lease)
        await arena.server.stop()

        def none_is_sent() -> None:
            assert not arena.broker.renew(delivery.lease)

        await eventually(none_is_sent)
        await arena.server.start()
        await is_back(queue)
        assert arena.broker.renew(delivery.lease)


async def test_a_publish_while_the_server_is_down_waits_for_it(arena: Arena) -> None:
    journal = await arena.journal()
    await arena.server.stop()
    publishing = asyncio.create_task(journal.put("a"))
    reading = asyncio.create_task(arena.broker.stream_state(journal.name))

    def it_waits() -> None:
        assert not publishing.done()

    await holds_for(it_waits, QUIET_SECONDS)
    await arena.server.start()
    assert await publishing == 1
    assert (await reading).messages in {0, 1}


async def test_calls_fail_when_the_server_stays_away_for_longer_than_their_patience(arena: Arena) -> None:
    journal = await arena.journal()
    impatient = await arena.server.connect(patience_seconds=0.3)
    before = impatient.connections
    await arena.server.stop()
    with pytest.raises((Unavailable, Ambiguous)):
        await impatient.publish(journal.message("a"))
    [answer] = await impatient.publish_all([journal.message("b")])
    assert isinstance(answer, (Unavailable, Ambiguous))
    with pytest.raises(Unavailable):
        await impatient.last(journal.name, journal.subject("a"))
    with pytest.raises(Unavailable):
        await impatient.request(arena.subject("question"), b"", 0.2)
    await arena.server.start()
    assert await journal.contents() == []

    def it_is_connected_again() -> None:
        assert impatient.connections > before

    # It gives up a call sooner than it may take to connect.
    await eventually(it_is_connected_again, PATIENCE_SECONDS)
    assert (await impatient.publish(journal.message("a"))).sequence == 1
