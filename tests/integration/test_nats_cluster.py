"""The three servers that the tests of replicas run on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.protocol import Publication, StreamSpec
from tests.support.eventually import eventually
from tests.support.nats_cluster import nats_cluster

pytestmark = [pytest.mark.slow]
SPEC = StreamSpec(name="kept", subjects=("kept.>",), one_per_subject="keep_first", replicas=3)


async def test_what_was_stored_is_there_when_the_leader_was_killed(tmp_path: Path) -> None:
    with nats_cluster(tmp_path) as servers:
        broker = await connect(ConnectionSettings(urls=servers.urls))
        try:
            await broker.ensure_stream(SPEC)
            stored = await broker.publish(Publication(subject="kept.a", payload=b"1"))
            killed = await asyncio.to_thread(servers.leader_of, "kept")
            killed.kill()
            leader = await asyncio.to_thread(servers.leader_of, "kept")
            assert leader.name != killed.name

            async def is_there() -> None:
                message = await broker.last("kept", "kept.a")
                assert message is not None
                assert message.sequence == stored.sequence

            await eventually(is_there, within=20)
            await asyncio.to_thread(killed.restart)
        finally:
            await broker.close()
