"""What a connection asks a real server for, over and over, while nobody can answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, NatsBroker, connect
from ironflow.broker.protocol import Ambiguous, Publication, Stored, StreamSpec, Unavailable
from tests.chaos.proxy import Proxy
from tests.support import eventually

CALLS = 200
PATIENCE_SECONDS = 1.5
MOST_A_SECOND = 21


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncGenerator[Proxy]:
    with EmbeddedServer(tmp_path) as server:
        async with Proxy(int(server.url.rpartition(":")[2])) as proxy:
            yield proxy


@pytest.fixture
async def broker(proxy: Proxy) -> AsyncGenerator[NatsBroker]:
    broker = await connect(
        ConnectionSettings(urls=(f"nats://127.0.0.1:{proxy.port}",)), patience_seconds=PATIENCE_SECONDS
    )
    yield broker
    await broker.close()


def message(number: int) -> Publication:
    return Publication(subject=f"test.stream.{number}", payload=b"")


async def read_nothing(broker: NatsBroker) -> None:
    async for _ in broker.read("NOWHERE", ">"):
        pass


async def test_messages_that_no_stream_takes_are_sent_again_by_few(proxy: Proxy, broker: NatsBroker) -> None:
    singly = [broker.publish(message(number)) for number in range(CALLS)]
    together = broker.publish_all([message(number) for number in range(CALLS)])
    *failures, answers = await asyncio.gather(*singly, together, return_exceptions=True)
    assert isinstance(answers, list)
    assert {type(each) for each in (*failures, *answers)} == {Unavailable}
    # Each was sent once before anybody could know, those that go together at the most.
    assert CALLS <= len(proxy.in_vain) <= 2 * CALLS + MOST_A_SECOND * (PATIENCE_SECONDS + 1)
    known = len(proxy.in_vain)
    await asyncio.gather(*(broker.publish(message(number)) for number in range(CALLS)), return_exceptions=True)
    assert 0 < len(proxy.in_vain) - known <= MOST_A_SECOND * (PATIENCE_SECONDS + 1)


async def test_reads_of_what_is_not_there_are_asked_again_by_few(proxy: Proxy, broker: NatsBroker) -> None:
    failures = await asyncio.gather(*(read_nothing(broker) for _ in range(CALLS)), return_exceptions=True)
    assert {type(failure) for failure in failures} == {Unavailable}
    assert 0 < len(proxy.in_vain) <= CALLS + MOST_A_SECOND * (PATIENCE_SECONDS + 1)


async def test_all_that_waited_is_stored_once_there_is_a_stream(proxy: Proxy, broker: NatsBroker) -> None:
    async def all_were_sent_in_vain() -> None:
        assert len(proxy.in_vain) >= CALLS

    waiting = [asyncio.create_task(broker.publish(message(number))) for number in range(CALLS)]
    together = asyncio.create_task(broker.publish_all([message(CALLS + number) for number in range(CALLS)]))
    await eventually(all_were_sent_in_vain)
    await broker.ensure_stream(StreamSpec(name="TEST", subjects=("test.stream.>",)))
    stored = [*await asyncio.gather(*waiting), *await together]
    assert {each.sequence for each in stored if isinstance(each, Stored)} == set(range(1, 2 * CALLS + 1))


async def test_calls_that_wait_their_turn_fail_at_once_when_the_connection_is_closed(proxy: Proxy) -> None:
    async def all_wait() -> None:
        assert len(proxy.in_vain) >= CALLS

    broker = await connect(ConnectionSettings(urls=(f"nats://127.0.0.1:{proxy.port}",)), patience_seconds=60.0)
    waiting = [asyncio.create_task(broker.publish(message(number))) for number in range(CALLS)]
    reading = [asyncio.create_task(read_nothing(broker)) for _ in range(CALLS)]
    together = asyncio.create_task(broker.publish_all([message(number) for number in range(CALLS)]))
    await eventually(all_wait)
    await broker.close()
    async with asyncio.timeout(5):
        answers = await together
        failures = await asyncio.gather(*waiting, *reading, return_exceptions=True)
    # Of what was on its way just then nobody knows what came of it.
    assert {type(each) for each in (*failures, *answers)} <= {Unavailable, Ambiguous}
    assert all("closed" in str(each) for each in (*failures, *answers))
