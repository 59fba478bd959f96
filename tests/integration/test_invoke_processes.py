"""Child runs across engines, workers and queues as processes, against the real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ironflow.broker.embedded import EmbeddedServer
from tests.support import eventually
from tests.support.processes import Cluster, cluster, functions_are_known


@pytest.fixture
def processes(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with cluster(nats_server.url, namespace, tmp_path) as made:
        yield made


async def test_children_on_another_queue_are_started_waited_for_and_ended(processes: Cluster) -> None:
    for _ in range(2):
        processes.engine("--lease", "1")
    processes.worker("children.py")
    payments = processes.worker("children.py", queue="payments")
    async with processes.client() as client:
        await functions_are_known(client, "buy", "parent", "pay", "wait-long")
        run = await client.start("buy", [1, 2, 3, 4, 5])
        payments.kill()
        processes.worker("children.py", queue="payments")
        assert await run.result("60s") == [1, 2, 3, 4, 5, "InvokeError", "InvokeTimeoutError"]
        assert sorted([(await each.state()).status async for each in client.runs(function="pay")]) == [
            *["completed"] * 5,
            "failed",
        ]

        doomed = await client.start("parent")

        async def it_has_a_child() -> None:
            assert "waiting" in [(await each.state()).status async for each in client.runs(function="wait-long")]

        await eventually(it_has_a_child, within=20.0)
        assert await doomed.cancel()

        async def its_child_is_cancelled() -> None:
            states = [(await each.state()).status async for each in client.runs(function="wait-long")]
            assert states == ["cancelled", "cancelled"]

        await eventually(its_child_is_cancelled, within=20.0)
