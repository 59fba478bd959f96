"""What the in-process server has beyond the contract: faults on demand, and a clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ironflow.broker.local import Interceptor, LocalBroker, LocalServer, Stage, run_virtual
from ironflow.broker.protocol import (
    Ambiguous,
    BrokerError,
    ConsumerSpec,
    Delivery,
    Publication,
    Puller,
    Request,
    Schedule,
    StorageFull,
    Stored,
    StreamSpec,
    Unavailable,
)

LEASE_SECONDS = 10.0


def virtually(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test in virtual time."""

    def run() -> None:
        run_virtual(test())

    run.__name__ = test.__name__
    return run


async def a_queue(server: LocalServer) -> LocalBroker:
    """Make a work queue "Q" with a consumer "worker" and return the connection."""
    broker = server.connect()
    await broker.ensure_stream(StreamSpec(name="Q", subjects=("q.>",), retention="work_queue", schedules=True))
    await broker.ensure_consumer(
        ConsumerSpec(
            stream="Q",
            name="worker",
            filters=("q.task.>",),
            ack_wait_seconds=LEASE_SECONDS,
            max_ack_pending=100,
        )
    )
    return broker


@asynccontextmanager
async def a_delivery(server: LocalServer) -> AsyncGenerator[tuple[LocalBroker, Puller, Delivery]]:
    """Hand out a message, with one more delivery asked for."""
    broker = await a_queue(server)
    await broker.publish(Publication(subject="q.task.1", payload=b""))
    async with broker.pull("Q", "worker") as puller:
        puller.request(2)
        [delivery] = await puller.batch(1)
        yield broker, puller, delivery


def fail(stage: Stage, verb: str, error: BrokerError) -> Interceptor:
    """Return an interceptor that fails all calls of one verb."""
    return lambda at, called, _subject: error if (at, called) == (stage, verb) else None


async def messages(broker: LocalBroker) -> int:
    return (await broker.stream_state("Q")).messages


@virtually
async def test_the_server_time_is_the_epoch_plus_the_time_of_the_loop() -> None:
    server = LocalServer(epoch_ms=5_000)
    broker = await a_queue(server)
    assert await broker.server_time_ms("Q") == 5_000
    await asyncio.sleep(0.0125)
    assert await broker.server_time_ms("Q") == 5_012


@virtually
async def test_a_stored_time_is_rounded_down_and_a_timer_is_never_early() -> None:
    broker = await a_queue(LocalServer(epoch_ms=0))
    await asyncio.sleep(0.0101)
    await broker.publish(Publication(subject="q.task.1", payload=b""))
    stored = await broker.at("Q", 1)
    assert stored is not None
    assert stored.time_ms == 10
    schedule = Schedule(110, "q.task.2")
    await broker.publish(Publication(subject="q.timer", payload=b"", schedule=schedule))
    async with broker.pull("Q", "worker") as puller:
        puller.request(2)
        await puller.batch(1)
        [fired] = await puller.batch(1)
    assert fired.subject == "q.task.2"
    assert asyncio.get_running_loop().time() == 0.110


@virtually
async def test_timers_are_as_late_as_was_said() -> None:
    server = LocalServer(epoch_ms=0, schedule_lateness_ms=250)
    broker = await a_queue(server)
    await broker.publish(Publication(subject="q.timer", payload=b"", schedule=Schedule(1_000, "q.task.1")))
    async with broker.pull("Q", "worker") as puller:
        puller.request(1)
        [fired] = await puller.batch(1)
    assert fired.time_ms == 1_250


@virtually
async def test_a_call_that_fails_before_has_no_effect_and_one_that_fails_after_has() -> None:
    server = LocalServer()
    broker = await a_queue(server)
    server.interceptor = fail("before", "publish", StorageFull("on demand"))
    with pytest.raises(StorageFull):
        await broker.publish(Publication(subject="q.a", payload=b""))
    assert await messages(broker) == 0
    server.interceptor = fail("after", "publish", Ambiguous("on demand"))
    with pytest.raises(Ambiguous):
        await broker.publish(Publication(subject="q.a", payload=b""))
    assert await messages(broker) == 1


@virtually
async def test_publish_all_fails_message_by_message() -> None:
    server = LocalServer()
    broker = await a_queue(server)
    server.interceptor = lambda stage, _verb, subject: (
        Ambiguous("on demand") if (stage, subject) == ("after", "q.b") else None
    )
    answers = await broker.publish_all([Publication(subject=subject, payload=b"") for subject in ("q.a", "q.b", "q.c")])
    assert [type(answer) for answer in answers] == [Stored, Ambiguous, Stored]
    assert await messages(broker) == 3


@virtually
async def test_every_other_call_can_fail_too() -> None:
    server = LocalServer()
    broker = await a_queue(server)
    seen: list[str] = []

    def refuse(stage: Stage, verb: str, _subject: str) -> BrokerError | None:
        seen.append(verb)
        return Unavailable("on demand") if stage == "before" else None

    server.interceptor = refuse
    calls: dict[str, Awaitable[object]] = {
        "purge": broker.purge("Q", "q.>"),
        "last": broker.last("Q", "q.a"),
        "at": broker.at("Q", 1),
        "read": anext(aiter(broker.read("Q", "q.>"))),
        "stream_state": broker.stream_state("Q"),
        "consumer_state": broker.consumer_state("Q", "worker"),
        "server_time_ms": broker.server_time_ms("Q"),
        "ensure_stream": broker.ensure_stream(StreamSpec(name="R", subjects=("r.>",))),
        "ensure_consumer": broker.ensure_consumer(
            ConsumerSpec(stream="Q", name="c", filters=("q.c",), ack_wait_seconds=1, max_ack_pending=1)
        ),
        "request": broker.request("question", b"", 1.0),
        "survey": broker.survey("question", b"", 1.0),
    }
    for call in calls.values():
        with pytest.raises(Unavailable, match="on demand"):
            await call
    assert seen == list(calls)


@virtually
async def test_an_acknowledgement_can_be_lost() -> None:
    server = LocalServer()
    async with a_delivery(server) as (broker, puller, delivery):
        server.interceptor = fail("before", "ack", Unavailable("on demand"))
        delivery.ack()
        [again] = await puller.batch(1)
        assert again.delivered == 2
        assert asyncio.get_running_loop().time() == LEASE_SECONDS
        server.interceptor = None
        again.ack()
        assert await messages(broker) == 0


@virtually
async def test_a_renewal_can_be_lost() -> None:
    server = LocalServer()
    async with a_delivery(server) as (broker, puller, delivery):
        await asyncio.sleep(LEASE_SECONDS / 2)
        server.interceptor = fail("before", "renew", Unavailable("on demand"))
        broker.renew(delivery.lease)
        await puller.batch(1)
        assert asyncio.get_running_loop().time() == LEASE_SECONDS


@virtually
async def test_a_notification_can_be_lost() -> None:
    server = LocalServer()
    broker = server.connect()
    heard: list[bytes] = []

    async def listener(request: Request) -> None:
        heard.append(request.payload)

    await broker.listen("hint", listener)
    server.interceptor = fail("before", "notify", Unavailable("on demand"))
    broker.notify("hint", b"lost")
    await asyncio.sleep(1)
    server.interceptor = None
    broker.notify("hint", b"heard")
    await asyncio.sleep(1)
    assert heard == [b"heard"]


@virtually
async def test_a_dropped_connection_loses_what_it_has_just_sent() -> None:
    server = LocalServer()
    async with a_delivery(server) as (broker, _, delivery):
        delivery.ack()
        broker.drop()
        with pytest.raises(Unavailable):
            await broker.stream_state("Q")
    assert await messages(server.connect()) == 1


@virtually
async def test_a_restart_loses_the_answer_to_a_publish_but_not_the_message() -> None:
    server = LocalServer()
    broker = await a_queue(server)

    def restart_when_stored(stage: Stage, _verb: str, _subject: str) -> None:
        if stage == "after":
            server.restart()

    server.interceptor = restart_when_stored
    with pytest.raises(Ambiguous):
        await broker.publish(Publication(subject="q.a", payload=b""))
    server.interceptor = None
    assert await messages(broker) == 1


@pytest.mark.parametrize(("keep", "delivered"), [(False, 1), (True, 2)])
def test_a_restart_may_keep_how_often_a_message_was_delivered(*, keep: bool, delivered: int) -> None:
    async def main() -> None:
        server = LocalServer()
        async with a_delivery(server) as (_, puller, _delivery):
            server.restart(keep_delivery_counts=keep)
            [again] = await puller.batch(1)
            assert again.delivered == delivered
            assert asyncio.get_running_loop().time() == 0.0

    run_virtual(main())


@virtually
async def test_a_restart_cuts_a_delay_to_whole_seconds() -> None:
    server = LocalServer(epoch_ms=0)
    async with a_delivery(server) as (_, puller, delivery):
        delivery.nak(2.7)
        await asyncio.sleep(1)
        server.restart()
        [again] = await puller.batch(1)
        assert asyncio.get_running_loop().time() == 2.0
        assert again.subject == delivery.subject


@virtually
async def test_a_stopped_server_takes_no_connection() -> None:
    server = LocalServer()
    server.stop()
    with pytest.raises(Unavailable):
        server.connect()
    server.start()
    server.start()
    await server.connect().survey("anybody", b"", 0.1)


@virtually
async def test_servers_share_nothing() -> None:
    one, other = LocalServer(), LocalServer()
    assert one.info.id != other.info.id
    broker = await a_queue(one)
    await broker.publish(Publication(subject="q.a", payload=b""))
    assert await messages(broker) == 1
    assert await messages(await a_queue(other)) == 0


@virtually
async def test_a_subject_that_is_none_is_refused() -> None:
    broker = await a_queue(LocalServer())
    with pytest.raises(ValueError, match="not a subject"):
        await broker.publish(Publication(subject="q.a b", payload=b""))


@virtually
async def test_a_new_consumer_is_no_new_connection() -> None:
    server = LocalServer()
    broker = await a_queue(server)
    assert broker.connections == 1
    server.restart()
    assert broker.connections == 2
