"""The pull loop over NATS where the conformance suite does not reach."""

# ruff: noqa: SLF001 - the pulls that it sends are the subject

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial

import msgspec
import pytest

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, NatsBroker, connect
from ironflow.broker.nats import puller as puller_module
from ironflow.broker.nats.delivery import NatsDelivery
from ironflow.broker.nats.puller import NatsPuller
from ironflow.broker.protocol import ConsumerSpec, Publication, Stored, StreamSpec
from tests.support import eventually, fresh_namespace


def it_has_pulled_in_vain(puller: NatsPuller) -> None:
    assert puller._pause > puller_module.FIRST_PAUSE_SECONDS  # which is longer with each attempt


def consumer_of(stream: str) -> ConsumerSpec:
    return ConsumerSpec(
        stream=stream, name="worker", filters=(f"{stream}.>",), ack_wait_seconds=30.0, max_ack_pending=1000
    )


def it_has_so_many(puller: NatsPuller, count: int) -> None:
    assert len(puller._buffer) == count


LARGE = 500_000


async def publish_large(broker: NatsBroker, stream: str, count: int) -> None:
    for first in range(0, count, 20):
        several = [Publication(subject=f"{stream}.{first + each}", payload=b"x" * LARGE) for each in range(20)]
        assert all(isinstance(stored, Stored) for stored in await broker.publish_all(several))


class TestPuller:
    @pytest.fixture
    async def names(self, nats_server: EmbeddedServer) -> AsyncGenerator[tuple[NatsBroker, str]]:
        broker, stream = await connect(ConnectionSettings(urls=(nats_server.url,))), fresh_namespace()
        await broker.ensure_stream(StreamSpec(name=stream, subjects=(f"{stream}.>",), retention="work_queue"))
        await broker.ensure_consumer(consumer_of(stream))
        yield broker, stream
        await broker.close()

    async def test_pulls_that_the_server_lost_are_made_again(
        self, names: tuple[NatsBroker, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker, stream = names
        monkeypatch.setattr(puller_module, "SILENCE_SECONDS", 0.2)
        async with broker.pull(stream, "worker") as puller:
            assert isinstance(puller, NatsPuller)
            puller.request(3)
            await asyncio.sleep(0)
            # As after the death of the consumer's leader: the pulls are gone, and the connection is not.
            broker._wire.detach(puller._subscription)
            await broker.publish(Publication(subject=f"{stream}.1", payload=b""))
            async with asyncio.timeout(2.0):
                (delivery,) = await puller.batch(1)
            delivery.ack()

    async def test_a_message_whose_headers_look_like_the_servers_word_is_a_message(
        self, names: tuple[NatsBroker, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        receive = NatsPuller._receive

        def disguise(
            self: NatsPuller, generation: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes
        ) -> None:
            receive(
                self, generation, subject, reply, payload, b"NATS/1.0 408 Request Timeout\r\n\r\n" if reply else headers
            )

        monkeypatch.setattr(NatsPuller, "_receive", disguise)
        broker, stream = names
        async with broker.pull(stream, "worker") as puller:
            puller.request(1)
            await broker.publish(Publication(subject=f"{stream}.1", payload=b""))
            async with asyncio.timeout(5.0):
                (delivery,) = await puller.batch(1)
            assert delivery.subject == f"{stream}.1"
            delivery.ack()

    async def test_it_outlives_its_consumer(self, names: tuple[NatsBroker, str]) -> None:
        broker, stream = names
        async with broker.pull(stream, "worker") as puller:
            puller.request(3)
            await broker.publish(Publication(subject=f"{stream}.1", payload=b""))
            (await puller.batch(1))[0].ack()
            await broker.api.call(f"CONSUMER.DELETE.{stream}.worker", None, msgspec.Struct)
            assert isinstance(puller, NatsPuller)
            await eventually(partial(it_has_pulled_in_vain, puller))
            await broker.ensure_consumer(consumer_of(stream))
            await broker.publish_all([Publication(subject=f"{stream}.{n}", payload=b"") for n in range(2, 9)])
            async with asyncio.timeout(3.0):
                received = [*await puller.batch(9)]
                while len(received) < 2:
                    received += await puller.batch(9)
            assert len(received) == 2
            assert (await broker.consumer_state(stream, "worker")).ack_pending == 2

    async def test_a_busy_puller_sends_few_pulls(self, names: tuple[NatsBroker, str]) -> None:
        broker, stream = names
        await broker.publish_all([Publication(subject=f"{stream}.{n}", payload=b"") for n in range(1000)])
        async with broker.pull(stream, "worker") as puller:
            assert isinstance(puller, NatsPuller)
            puller.request(100)
            received = 0
            while received < 1000:
                for delivery in await puller.batch(10):
                    delivery.ack()
                    received += 1
                    puller.request(1)
            assert next(puller._numbers) < 60

    async def test_acknowledgement_subjects_are_read_in_both_forms(self, names: tuple[NatsBroker, str]) -> None:
        wire = names[0]._wire
        counts = b"worker.3.17.5.1795292662005712943.9"
        for lease in (b"$JS.ACK.S." + counts, b"$JS.ACK.hub.AbC9.S." + counts + b".r4nd0m", b"$JS.ACK._.x.S." + counts):
            delivery = NatsDelivery(wire, b"s.1", lease, b"")
            assert (delivery.delivered, delivery.sequence, delivery.time_ms) == (3, 17, 1795292662005)
            assert delivery.lease == lease.decode()

    async def test_a_backlog_of_large_messages_does_not_have_the_server_end_the_connection(
        self, names: tuple[NatsBroker, str]
    ) -> None:
        broker, stream = names
        await publish_large(broker, stream, 400)
        lost: list[None] = []
        broker._wire.on_down.append(lambda: lost.append(None))
        async with broker.pull(stream, "worker") as puller:
            puller.request(400)
            received = 0
            async with asyncio.timeout(60.0):
                while received < 400:
                    received += len(await puller.batch(400))
        assert not lost

    async def test_few_large_messages_wait_for_whoever_is_slow(self, names: tuple[NatsBroker, str]) -> None:
        broker, stream = names
        await publish_large(broker, stream, 60)
        async with broker.pull(stream, "worker") as puller:
            assert isinstance(puller, NatsPuller)
            puller.request(60)
            # So many were asked for before anything was known of them.
            await eventually(partial(it_has_so_many, puller, 32))
            received = 0
            while received < 60:
                received += (got := len(await puller.batch(60)))
                assert got * LARGE <= puller_module.MOST_BYTES / 2
                await broker._wire.barrier(2.0)  # what was pulled may have come by then
                if received > 32:
                    assert len(puller._buffer) * LARGE <= puller_module.MOST_BYTES
