"""Streams on three servers: what one lags behind is not missed, and what is wrong with a server is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ironflow.broker.nats import ConnectionSettings, NatsBroker, connect
from ironflow.broker.protocol import Publication
from ironflow.broker.topology import engine_consumers, streams
from ironflow.doctor import Examination
from ironflow.names import Names
from tests.support.eventually import eventually
from tests.support.replicated import ReplicatedServers

NAMES = Names("t")
WRITES = 300


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[ReplicatedServers]:
    async with ReplicatedServers(tmp_path) as made:
        yield made


@pytest.fixture
async def brokers(servers: ReplicatedServers) -> AsyncIterator[list[NatsBroker]]:
    """A connection to each server, with all streams on all of them."""
    async with AsyncExitStack() as stack:
        made: list[NatsBroker] = []
        for url in servers.urls:
            broker = await connect(ConnectionSettings(urls=(url,)))
            stack.push_async_callback(broker.close)
            made.append(broker)
        for spec in streams(NAMES, replicas=3):
            await made[0].ensure_stream(spec)
        for consumer in engine_consumers(NAMES):
            await made[0].ensure_consumer(consumer)
        yield made


async def test_what_is_acknowledged_is_read_at_once_from_whichever_server(brokers: list[NatsBroker]) -> None:
    missed: list[int] = []
    for number in range(WRITES):
        writer, reader = brokers[number % 3], brokers[(number + 1) % 3]
        stored = await writer.publish(Publication(subject=f"t.journal.q.r{number}.step.a", payload=b"{}"))
        pages = [page async for page in reader.read(NAMES.all_shards[0].journal, f"t.journal.q.r{number}.>")]
        missed += [] if [each.sequence for page in pages for each in page] == [stored.sequence] else [number]
    assert missed == []


@pytest.mark.slow
async def test_the_doctor_names_a_server_that_is_lost_and_is_content_when_it_is_back(
    servers: ReplicatedServers, brokers: list[NatsBroker]
) -> None:
    async def found(level: str, text: str) -> None:
        findings = await Examination(brokers[0], NAMES).findings()
        assert [each.level for each in findings if each.check == "replicas" and text in each.text] == [level]

    await eventually(lambda: found("ok", "8 streams are on 3 servers each"), within=10)
    await asyncio.to_thread(servers.servers[2].kill)
    await eventually(lambda: found("warning", "server-2 is not heard of"), within=20)
    await asyncio.to_thread(servers.servers[2].restart)
    await eventually(lambda: found("ok", "8 streams are on 3 servers each"), within=20)
