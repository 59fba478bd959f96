"""Schedules: messages that wait on a subject until their time."""

from __future__ import annotations

import asyncio

import pytest

from ironflow.broker.protocol import BrokerError, Schedule
from tests.conformance.bench import Arena, StreamUnderTest, now, receive, receive_nothing, subjects_of
from tests.support import eventually

LATE_MS = 1_000
"""A healthy server is up to 250 ms late; the rest is for a busy machine."""
DUE_MS = 150


async def set_timer(
    timers: StreamUnderTest, name: str, delay_ms: int, payload: bytes = b"", target: str | None = None
) -> int:
    """Set a timer for the server's time now plus a delay, and return when it is due."""
    at_ms = await timers.broker.server_time_ms(timers.name) + delay_ms
    schedule = Schedule(at_ms, timers.subject(f"fired.{target or name}"))
    await timers.broker.publish(timers.message(f"timers.{name}", payload, schedule=schedule))
    return at_ms


async def test_a_timer_fires_at_its_target_with_its_payload_and_not_early(arena: Arena) -> None:
    timers = await arena.timers()
    engine = await timers.consumer("engine", "fired.>")
    payload = bytes(range(256))
    async with arena.broker.pull(timers.name, engine) as puller:
        puller.request(2)
        at_ms = await set_timer(timers, "run.sleep", 200, payload)
        [fired] = await receive(puller, 1)
        assert await arena.broker.server_time_ms(timers.name) >= at_ms
        assert subjects_of([fired]) == ["fired.run.sleep"]
        assert fired.payload == payload
        assert at_ms <= fired.time_ms <= at_ms + LATE_MS
        fired.ack()
        await receive_nothing(puller)


async def test_many_timers_fire_once_each_and_none_early(arena: Arena) -> None:
    timers = await arena.timers()
    engine = await timers.consumer("engine", "fired.>")
    start = await arena.broker.server_time_ms(timers.name)
    due = {f"{number}": start + 100 + 7 * (number * 37 % 60) for number in range(60)}
    answers = await arena.broker.publish_all(
        [
            timers.message(f"timers.{name}", schedule=Schedule(at_ms, timers.subject(f"fired.{name}")))
            for name, at_ms in due.items()
        ]
    )
    assert not any(isinstance(answer, BrokerError) for answer in answers)
    async with arena.broker.pull(timers.name, engine) as puller:
        puller.request(len(due) + 1)
        fired = {delivery.subject.rpartition(".")[2]: delivery.time_ms for delivery in await receive(puller, 60)}
        await receive_nothing(puller)
    assert fired.keys() == due.keys()
    assert [name for name, at_ms in due.items() if not at_ms <= fired[name] <= at_ms + LATE_MS] == []


async def test_a_timer_stands_on_its_subject_until_it_fires_and_then_is_gone(arena: Arena) -> None:
    timers = await arena.timers()
    await set_timer(timers, "t", 300, b"body")
    assert await timers.last("timers.t") == b"body"
    assert subjects_of(await timers.contents()) == ["timers.t"]

    async def it_has_fired() -> None:
        assert subjects_of(await timers.contents()) == ["fired.t"]

    await eventually(it_has_fired)
    assert await timers.last("timers.t") is None
    assert (await arena.broker.stream_state(timers.name)).messages == 1


async def test_an_overdue_timer_fires_at_once(arena: Arena) -> None:
    timers = await arena.timers()
    engine = await timers.consumer("engine", "fired.>")
    async with arena.broker.pull(timers.name, engine) as puller:
        puller.request(1)
        await set_timer(timers, "t", -60_000)
        [fired] = await receive(puller, 1)
    assert fired.time_ms <= await arena.broker.server_time_ms(timers.name) + 1


@pytest.mark.parametrize("at_ms", [0, -1, -(2**53)])
async def test_a_timer_of_before_1970_is_overdue_like_any_other(arena: Arena, at_ms: int) -> None:
    timers = await arena.timers()
    engine = await timers.consumer("engine", "fired.>")
    async with arena.broker.pull(timers.name, engine) as puller:
        puller.request(1)
        await timers.broker.publish(timers.message("timers.t", schedule=Schedule(at_ms, timers.subject("fired.t"))))
        [fired] = await receive(puller, 1)
        assert subjects_of([fired]) == ["fired.t"]


@pytest.mark.parametrize(("first_ms", "second_ms"), [(200, 600), (3_000, 300)])
async def test_a_timer_is_replaced_by_a_later_one_on_its_subject(arena: Arena, first_ms: int, second_ms: int) -> None:
    timers = await arena.timers()
    engine = await timers.consumer("engine", "fired.>")
    await set_timer(timers, "t", first_ms, b"first")
    at_ms = await set_timer(timers, "t", second_ms, b"second", target="elsewhere")
    assert [message.payload for message in await timers.contents()] == [b"second"]
    async with arena.broker.pull(timers.name, engine) as puller:
        puller.request(2)
        [fired] = await receive(puller, 1)
        assert (fired.payload, subjects_of([fired])) == (b"second", ["fired.elsewhere"])
        assert fired.time_ms >= at_ms
        fired.ack()
        await receive_nothing(puller)


async def test_a_purged_timer_does_not_fire(arena: Arena) -> None:
    timers = await arena.timers()
    engine = await timers.consumer("engine", "fired.>")
    await set_timer(timers, "r1.a", 250)
    await set_timer(timers, "r1.b", 250)
    await set_timer(timers, "r2.a", 250)
    assert await arena.broker.purge(timers.name, timers.subject("timers.r1.>")) == 2
    async with arena.broker.pull(timers.name, engine) as puller:
        puller.request(3)
        [fired] = await receive(puller, 1)
        assert subjects_of([fired]) == ["fired.r2.a"]
        fired.ack()
        await receive_nothing(puller, 0.5)
    assert (await arena.broker.stream_state(timers.name)).messages == 0


async def test_a_timer_can_be_set_again_after_it_fired(arena: Arena) -> None:
    timers = await arena.timers()
    engine = await timers.consumer("engine", "fired.>")
    async with arena.broker.pull(timers.name, engine) as puller:
        for number in range(2):
            await set_timer(timers, "t", 50, b"%d" % number)
            puller.request(1)
            [fired] = await receive(puller, 1)
            assert fired.payload == b"%d" % number
            fired.ack()


async def test_two_timers_may_fire_at_one_target(arena: Arena) -> None:
    timers = await arena.timers()
    engine = await timers.consumer("engine", "fired.>")
    await asyncio.gather(
        set_timer(timers, "a", 100, b"a", target="same"), set_timer(timers, "b", 100, b"b", target="same")
    )
    async with arena.broker.pull(timers.name, engine) as puller:
        puller.request(2)
        assert sorted(delivery.payload for delivery in await receive(puller, 2)) == [b"a", b"b"]


async def test_a_far_timer_is_held(arena: Arena) -> None:
    timers = await arena.timers()
    # Beyond the year 2262, where the nanoseconds of a signed 64-bit number end.
    for delay_ms in (366 * 24 * 3_600_000, 300 * 366 * 24 * 3_600_000):
        await set_timer(timers, f"{delay_ms}", delay_ms)
    engine = await timers.consumer("engine", "fired.>")
    async with arena.broker.pull(timers.name, engine) as puller:
        puller.request(1)
        await receive_nothing(puller, 0.5)
    assert (await arena.broker.stream_state(timers.name)).messages == 2


async def test_a_timer_that_was_due_while_the_server_was_down_fires_when_it_is_back(arena: Arena) -> None:
    timers = await arena.timers()
    engine = await timers.consumer("engine", "fired.>")
    async with arena.broker.pull(timers.name, engine) as puller:
        puller.request(2)
        at_ms = await set_timer(timers, "t", DUE_MS)
        later_ms = await set_timer(timers, "later", 900)
        set_at = now()
        await arena.server.stop()
        # It was set before that, so it is due by then on the server's clock too.
        await asyncio.sleep(max(0.0, set_at + DUE_MS / 1000 - now()))
        await arena.server.start()
        fired = await receive(puller, 2)
    assert subjects_of(fired) == ["fired.t", "fired.later"]
    assert fired[0].time_ms >= at_ms
    assert fired[1].time_ms >= later_ms


async def test_a_stream_without_schedules_refuses_a_timer(arena: Arena) -> None:
    queue = await arena.queue()
    with pytest.raises(BrokerError):
        await set_timer(queue, "t", 1_000)
    assert (await arena.broker.stream_state(queue.name)).messages == 0


async def test_a_timer_fires_into_its_own_stream_only(arena: Arena) -> None:
    timers, queue = await arena.timers(), await arena.queue()
    at_ms = await arena.broker.server_time_ms(timers.name) + 1_000
    for target in (queue.subject("t"), timers.subject("fired.*"), timers.subject("timers.t")):
        with pytest.raises(BrokerError):
            await arena.broker.publish(timers.message("timers.t", schedule=Schedule(at_ms, target)))
    assert (await arena.broker.stream_state(timers.name)).messages == 0


async def test_a_timer_takes_the_place_of_all_that_stands_on_its_subject(arena: Arena) -> None:
    timers = await arena.timers()
    await timers.put_many(["timers.t", "timers.t", "timers.other"])
    await set_timer(timers, "t", 60_000, b"timer")
    assert [message.payload for message in await timers.contents("timers.t")] == [b"timer"]
    assert (await arena.broker.stream_state(timers.name)).messages == 2


async def test_a_plain_message_on_its_subject_ends_a_timer(arena: Arena) -> None:
    timers = await arena.timers()
    engine = await timers.consumer("engine", "fired.>")
    await set_timer(timers, "t", 200, b"timer")
    await timers.put("timers.t", b"plain")
    async with arena.broker.pull(timers.name, engine) as puller:
        puller.request(1)
        await receive_nothing(puller, 0.5)
    assert [message.payload for message in await timers.contents()] == [b"timer", b"plain"]
