"""Deliveries: who gets which message when, and when it comes again."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from ironflow.broker.protocol import ConsumerState, Puller
from tests.conformance.bench import Arena, now, receive, receive_nothing, subjects_of
from tests.support import eventually

LEASE_SECONDS = 0.3
HARDLY_SECONDS = 0.01
"""How much before its time a lease may seem to end, by another clock than the server's."""


async def test_messages_are_delivered_in_the_order_of_storing(arena: Arena) -> None:
    log = await arena.log()
    worker = await log.consumer()
    names = [f"{number % 7}.{number}" for number in range(100)]
    await log.put_many(names)
    async with arena.broker.pull(log.name, worker) as puller:
        puller.request(100)
        deliveries = await receive(puller, 100)
    assert subjects_of(deliveries) == names
    assert [delivery.sequence for delivery in deliveries] == list(range(1, 101))


async def test_a_delivery_says_what_was_stored_and_when(arena: Arena) -> None:
    log = await arena.log()
    worker = await log.consumer()
    payload = bytes(range(256))
    await log.put("a.b", payload)
    async with arena.broker.pull(log.name, worker) as puller:
        puller.request(1)
        [delivery] = await receive(puller, 1)
    stored = await arena.broker.at(log.name, 1)
    assert stored is not None
    assert delivery.subject == stored.subject
    assert delivery.payload == payload
    assert (delivery.sequence, delivery.time_ms, delivery.delivered) == (1, stored.time_ms, 1)


async def test_a_puller_waits_for_what_is_stored_later(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(1)
        await receive_nothing(puller)
        await queue.put("task")
        assert subjects_of(await receive(puller, 1)) == ["task"]


async def test_no_more_is_delivered_than_was_asked_for(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    await queue.put_many([f"{number}" for number in range(10)])
    async with arena.broker.pull(queue.name, worker) as puller:
        await receive_nothing(puller)
        puller.request(2)
        puller.request(1)
        assert subjects_of(await receive(puller, 3)) == ["0", "1", "2"]
        await receive_nothing(puller)
        puller.request(4)
        assert subjects_of(await receive(puller, 4)) == ["3", "4", "5", "6"]
        await receive_nothing(puller)
        assert (await arena.broker.consumer_state(queue.name, worker)).pending == 3


async def test_acknowledging_asks_for_nothing(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    await queue.put_many(["a", "b"])
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(1)
        (await receive(puller, 1))[0].ack()
        await receive_nothing(puller)


async def test_a_batch_is_never_larger_than_its_limit(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    await queue.put_many([f"{number}" for number in range(20)])
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(20)
        sizes: list[int] = []
        while sum(sizes) < 20:
            sizes.append(len(await puller.batch(3)))
    assert max(sizes) <= 3
    assert min(sizes) >= 1


async def test_several_pullers_share_the_messages(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    other = await arena.server.connect()
    async with (
        arena.broker.pull(queue.name, worker) as first,
        arena.broker.pull(queue.name, worker) as second,
        other.pull(queue.name, worker) as third,
    ):
        pullers = (first, second, third)
        for puller in pullers:
            puller.request(10)

        async def all_wait() -> None:
            assert (await arena.broker.consumer_state(queue.name, worker)).waiting_pulls == 3

        await eventually(all_wait)
        await queue.put_many([f"{number}" for number in range(15)])
        got = [subjects_of(await receive(puller, 5)) for puller in pullers]
    assert sorted(name for names in got for name in names) == sorted(f"{number}" for number in range(15))


async def test_thousands_of_messages_reach_exactly_one_puller_each(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    got: Counter[str] = Counter()
    everything = asyncio.Event()

    async def work(puller: Puller) -> None:
        puller.request(50)
        while True:
            deliveries = await puller.batch(50)
            puller.request(len(deliveries))
            for delivery in deliveries:
                got[delivery.subject] += 1
                delivery.ack()
            if got.total() >= 1_000:
                everything.set()

    other = await arena.server.connect()
    async with (
        arena.broker.pull(queue.name, worker) as first,
        other.pull(queue.name, worker) as second,
        asyncio.TaskGroup() as tasks,
    ):
        workers = [tasks.create_task(work(first)), tasks.create_task(work(second))]
        await queue.put_many([f"{number}" for number in range(1_000)])
        async with asyncio.timeout(20):
            await everything.wait()
        for task in workers:
            task.cancel()
    assert set(got.values()) == {1}

    async def the_queue_is_empty() -> None:
        assert (await arena.broker.stream_state(queue.name)).messages == 0

    await eventually(the_queue_is_empty)


async def test_an_acknowledged_message_leaves_a_work_queue_and_stays_in_a_log(arena: Arena) -> None:
    queue, log = await arena.queue(), await arena.log()
    for stream in (queue, log):
        worker = await stream.consumer(ack_wait_seconds=LEASE_SECONDS)
        await stream.put("a")
        async with arena.broker.pull(stream.name, worker) as puller:
            puller.request(2)
            (await receive(puller, 1))[0].ack()
            await receive_nothing(puller, 1.5 * LEASE_SECONDS)
    assert (await arena.broker.stream_state(queue.name)).messages == 0
    assert (await arena.broker.stream_state(log.name)).messages == 1


async def test_deleting_what_is_in_hand_leaves_the_rest_to_those_who_have_it(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer(ack_wait_seconds=LEASE_SECONDS)
    await queue.put_many(["lost", "returned", "deleted", "done"])
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(4)
        _lost, returned, deleted, done = await receive(puller, 4)
        assert await arena.broker.delete(queue.name, deleted.sequence)
        done.ack()
        returned.nak()
        puller.request(2)
        for subject in ("returned", "lost"):  # the one at once, the other when its lease has ended
            [delivery] = await receive(puller, 1)
            assert subjects_of([delivery]) == [subject]
            delivery.ack()

    async def the_queue_is_empty() -> None:
        assert (await arena.broker.stream_state(queue.name)).messages == 0

    await eventually(the_queue_is_empty)


async def test_a_message_that_is_not_acknowledged_comes_again_after_the_lease(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer(ack_wait_seconds=LEASE_SECONDS)
    await queue.put("a", b"body")
    # Never later than the delivery, whenever that reaches us.
    asked_at = [0.0]
    async with arena.broker.pull(queue.name, worker) as puller:
        for count in (1, 2, 3):
            asked_at.append(now())
            puller.request(1)
            [delivery] = await receive(puller, 1)
            assert (delivery.delivered, delivery.payload, delivery.sequence) == (count, b"body", 1)
            if count > 1:
                assert now() - asked_at[count - 1] >= LEASE_SECONDS - HARDLY_SECONDS


async def test_a_message_handed_back_comes_again_at_once(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    await queue.put_many(["a", "b"])
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(1)
        [delivery] = await receive(puller, 1)
        assert delivery.delivered == 1
        delivery.nak()
        puller.request(2)
        again = await receive(puller, 2)
    assert {(delivery.subject, delivery.delivered) for delivery in again} == {
        (queue.subject("a"), 2),
        (queue.subject("b"), 1),
    }


async def test_a_message_handed_back_with_a_delay_comes_after_it_and_before_its_lease_ends(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    await queue.put("a")
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(2)
        [delivery] = await receive(puller, 1)
        handed_back_at = now()
        delivery.nak(0.4)
        [again] = await receive(puller, 1)
        assert now() - handed_back_at >= 0.4 - HARDLY_SECONDS
        assert again.delivered == 2


async def test_a_message_may_be_handed_back_for_longer_than_a_lease(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer(ack_wait_seconds=0.2)
    await queue.put("a")
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(2)
        [delivery] = await receive(puller, 1)
        handed_back_at = now()
        delivery.nak(0.6)
        await receive(puller, 1)
        assert now() - handed_back_at >= 0.6 - HARDLY_SECONDS


async def test_a_renewed_lease_lasts_on_whoever_renews_it(arena: Arena) -> None:
    lease_seconds = 0.6
    queue = await arena.queue()
    worker = await queue.consumer(ack_wait_seconds=lease_seconds)
    await queue.put("a")
    other = await arena.server.connect()
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(2)
        [delivery] = await receive(puller, 1)
        for _ in range(5):
            other.renew(delivery.lease)
            await receive_nothing(puller, lease_seconds / 4)
        renewed_at = now()
        other.renew(delivery.lease)
        [again] = await receive(puller, 1)
        assert now() - renewed_at >= lease_seconds - HARDLY_SECONDS
        assert again.delivered == 2


async def test_an_acknowledgement_after_the_lease_counts(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer(ack_wait_seconds=0.3)
    await queue.put("a")
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(2)
        [late] = await receive(puller, 1)
        await receive(puller, 1)
        late.ack()

        async def it_is_done_with() -> None:
            assert (await arena.broker.stream_state(queue.name)).messages == 0

        await eventually(it_is_done_with)
        puller.request(1)
        await receive_nothing(puller, 0.45)


async def test_acknowledging_twice_is_harmless(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    await queue.put_many(["a", "b"])
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(2)
        first, second = await receive(puller, 2)
        first.ack()
        first.ack()
        first.nak()
        puller.request(1)
        await receive_nothing(puller)
        second.nak()
        assert subjects_of(await receive(puller, 1)) == ["b"]


async def test_max_ack_pending_bounds_what_is_out(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer(max_ack_pending=2)
    await queue.put_many(["a", "b", "c", "d"])
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(4)
        first, second = await receive(puller, 2)
        await receive_nothing(puller)
        first.ack()
        assert subjects_of(await receive(puller, 1)) == ["c"]
        # What waits out its delay is still out.
        second.nak(0.4)
        await receive_nothing(puller)
        assert subjects_of(await receive(puller, 1)) == ["b"]


async def test_a_consumer_gets_what_one_of_its_filters_names(arena: Arena) -> None:
    journal = await arena.journal()
    engine = await journal.consumer("engine", "*.*.wait.>", "*.*.outcome.>")
    await journal.put_many(["q.r.input", "q.r.step.a", "q.r.wait.b", "q.r.step.c", "q.r.outcome.0"])
    async with arena.broker.pull(journal.name, engine) as puller:
        puller.request(5)
        assert subjects_of(await receive(puller, 2)) == ["q.r.wait.b", "q.r.outcome.0"]
        await receive_nothing(puller)


async def test_consumers_of_a_log_do_not_share(arena: Arena) -> None:
    log = await arena.log()
    await log.put_many(["a", "b"])
    for name in ("one", "other"):
        await log.consumer(name)
        async with arena.broker.pull(log.name, name) as puller:
            puller.request(2)
            for delivery in await receive(puller, 2):
                assert delivery.delivered == 1
                delivery.ack()


async def test_consumers_of_a_work_queue_get_each_their_own(arena: Arena) -> None:
    queue = await arena.queue()
    for name in ("orders", "mail"):
        await queue.consumer(name, f"{name}.>")
    await queue.put_many(["orders.1", "mail.1", "orders.2"])
    for name, expected in (("orders", ["orders.1", "orders.2"]), ("mail", ["mail.1"])):
        async with arena.broker.pull(queue.name, name) as puller:
            puller.request(3)
            assert subjects_of(await receive(puller, len(expected))) == expected
            await receive_nothing(puller, 0.1)


async def test_what_was_stored_before_a_consumer_is_delivered_too(arena: Arena) -> None:
    log = await arena.log()
    await log.put_many(["a", "b", "c"])
    await arena.broker.purge(log.name, log.subject("a"))
    worker = await log.consumer()
    async with arena.broker.pull(log.name, worker) as puller:
        puller.request(3)
        assert subjects_of(await receive(puller, 2)) == ["b", "c"]


async def test_what_was_purged_or_replaced_before_its_delivery_is_not_delivered(arena: Arena) -> None:
    bucket = await arena.bucket()
    worker = await bucket.consumer()
    await bucket.put_many(["a", "b", "c", "a"])
    await arena.broker.purge(bucket.name, bucket.subject("b"))
    async with arena.broker.pull(bucket.name, worker) as puller:
        puller.request(4)
        assert [delivery.sequence for delivery in await receive(puller, 2)] == [3, 4]
        await receive_nothing(puller)
    assert (await arena.broker.consumer_state(bucket.name, worker)).pending == 0


async def test_a_purge_of_what_is_acknowledged_leaves_alone_what_is_in_hand(arena: Arena) -> None:
    log = await arena.log()
    worker = await log.consumer(ack_wait_seconds=1.0)
    await log.put_many(list("abcdefgh"))
    async with arena.broker.pull(log.name, worker) as puller:
        puller.request(6)
        for delivery in await receive(puller, 6):
            if delivery.sequence not in (4, 6):
                delivery.ack()

        async def they_are_acknowledged() -> None:
            state = await arena.broker.consumer_state(log.name, worker)
            assert (state.ack_floor, state.ack_pending) == (3, 2)

        await eventually(they_are_acknowledged)
        assert await arena.broker.purge(log.name, ">", 3) == 3
        assert await arena.broker.purge(log.name, arena.subject("of-no-stream")) == 0
        puller.request(4)
        assert sorted(subjects_of(await receive(puller, 4))) == ["d", "f", "g", "h"]


async def test_leaving_a_puller_gives_back_what_was_not_handed_out(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    await queue.put_many(["a", "b", "c"])
    async with arena.broker.pull(queue.name, worker) as leaving:
        leaving.request(3)
        [kept] = await leaving.batch(1)
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(3)
        assert sorted(subjects_of(await receive(puller, 2))) == ["b", "c"]
        await receive_nothing(puller)
        kept.ack()


async def test_a_puller_that_was_left_holds_up_nothing(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    async with arena.broker.pull(queue.name, worker) as leaving:
        leaving.request(5)
        await receive_nothing(leaving, 0.05)
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(5)
        await queue.put_many(["a", "b", "c"])
        assert subjects_of(await receive(puller, 3, within=2.0)) == ["a", "b", "c"]


async def test_withdrawing_asks_for_nothing_more(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    async with arena.broker.pull(queue.name, worker) as puller:
        puller.request(5)
        await receive_nothing(puller, 0.05)
        puller.withdraw()

        async def nobody_waits() -> None:
            assert (await arena.broker.consumer_state(queue.name, worker)).waiting_pulls == 0

        await queue.put("a")
        await receive_nothing(puller)
        await eventually(nobody_waits)
        puller.request(1)
        assert subjects_of(await receive(puller, 1)) == ["a"]


async def test_what_a_lost_connection_held_comes_again_after_the_lease(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer(ack_wait_seconds=LEASE_SECONDS)
    await queue.put("a")
    dying = await arena.server.connect()
    async with arena.broker.pull(queue.name, worker) as puller:
        async with dying.pull(queue.name, worker) as held:
            held.request(1)
            [lost] = await receive(held, 1)
            await dying.close()
        delivered_at = now()
        lost.ack()
        puller.request(1)
        [again] = await receive(puller, 1)
    assert again.delivered == 2
    assert now() - delivered_at <= 2.0


async def test_what_was_acknowledged_before_a_connection_closed_is_done_with(arena: Arena) -> None:
    queue = await arena.queue()
    worker = await queue.consumer(ack_wait_seconds=LEASE_SECONDS)
    await queue.put_many([f"{number}" for number in range(100)])
    leaving = await arena.server.connect()
    async with leaving.pull(queue.name, worker) as puller:
        puller.request(100)
        for delivery in await receive(puller, 100):
            delivery.ack()
    await leaving.close()

    async def the_queue_is_empty() -> None:
        assert (await arena.broker.stream_state(queue.name)).messages == 0

    await eventually(the_queue_is_empty)


async def test_a_consumer_state_counts_what_is_where(arena: Arena) -> None:
    log = await arena.log()
    worker = await log.consumer()
    await log.put_many(["a", "b", "c"])

    async def becomes(pending: int, ack_pending: int, redelivered: int, ack_floor: int, pulls: int) -> None:
        async def it_is() -> None:
            state = await arena.broker.consumer_state(log.name, worker)
            assert state == ConsumerState(pending, ack_pending, redelivered, ack_floor, pulls)

        await eventually(it_is)

    await becomes(3, 0, 0, 0, 0)
    async with arena.broker.pull(log.name, worker) as puller:
        puller.request(4)
        first, second, third = await receive(puller, 3)
        await becomes(0, 3, 0, 0, 1)
        second.ack()
        # The floor waits for the first.
        await becomes(0, 2, 0, 0, 1)
        first.ack()
        await becomes(0, 1, 0, 2, 1)
        third.nak()
        [again] = await receive(puller, 1)
        await becomes(0, 1, 1, 2, 0)
        again.ack()
        await becomes(0, 0, 0, 3, 0)
        await log.put_many(["d", "e"])
        await becomes(2, 0, 0, 3, 0)


async def test_a_pull_that_began_before_its_consumer_existed_is_served(arena: Arena) -> None:
    queue = await arena.queue()
    await queue.put("a")
    async with arena.broker.pull(queue.name, "worker") as puller:
        puller.request(1)
        await receive_nothing(puller, 0.1)
        await queue.consumer("worker")
        assert subjects_of(await receive(puller, 1)) == ["a"]


@pytest.mark.parametrize("count", [1, 300])
async def test_requests_may_come_one_by_one_or_all_at_once(arena: Arena, count: int) -> None:
    queue = await arena.queue()
    worker = await queue.consumer()
    await queue.put_many([f"{number}" for number in range(300)])
    async with arena.broker.pull(queue.name, worker) as puller:
        for _ in range(300 // count):
            puller.request(count)
        deliveries = await receive(puller, 300)
        assert subjects_of(deliveries) == [f"{number}" for number in range(300)]
        for delivery in deliveries:
            delivery.ack()
