"""Queues whose consumers somebody deletes by hand, by itself or with the stream of tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import NatsBroker
from ironflow.client import Client
from tests.support import eventually
from tests.support.processes import Cluster, Process, cluster, functions_are_known


@pytest.fixture
def processes(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with cluster(nats_server.url, namespace, tmp_path) as made:
        yield made


async def delete(client: Client, what: str) -> None:
    """Delete a stream, or a consumer of one."""
    assert isinstance(client.broker, NatsBroker)
    kind = "CONSUMER" if "." in what else "STREAM"
    await client.broker.api.call(f"{kind}.DELETE.{what}", None, msgspec.Struct)


async def test_a_queue_whose_consumer_was_deleted_goes_on_with_the_same_workers(processes: Cluster) -> None:
    engine = processes.engine()
    processes.worker("flows.py")
    async with processes.client() as client:
        await functions_are_known(client, "ten-steps")
        await delete(client, f"{processes.names.all_shards[0].tasks}.orders")
        run = await client.start("ten-steps")
        assert await run.result("30s") == 55
        await eventually(lambda: says_what_was_missing(engine), within=60.0)


async def test_a_queue_whose_stream_of_tasks_was_deleted_goes_on_when_an_engine_is_restarted(
    processes: Cluster,
) -> None:
    engine = processes.engine()
    processes.worker("flows.py")
    async with processes.client() as client:
        await functions_are_known(client, "ten-steps")
        await delete(client, processes.names.all_shards[0].tasks)
        engine.restart()
        run = await client.start("ten-steps")
        assert await run.result("30s") == 55


def says_what_was_missing(engine: Process) -> None:
    lines = engine.log.read_text().splitlines()
    assert [line for line in lines if "was missing and is made anew" in line and "consumer=orders" in line]
