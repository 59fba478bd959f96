"""A worker as a process: how it ends."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from ironflow.broker.embedded import EmbeddedServer
from tests.support import eventually
from tests.support.processes import cluster, functions_are_known


async def test_a_worker_leaves_at_its_deadline_although_a_plain_body_hangs(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(nats_server.url, namespace, tmp_path) as processes:
        processes.engine()
        worker = processes.worker("stuck.py", "--drain-timeout", "1s")
        async with processes.client() as client:
            await functions_are_known(client, "stuck")
            await client.start("stuck")

            def hangs() -> None:
                assert (tmp_path / "gate").exists()

            await eventually(hangs, within=20.0)
            began = time.monotonic()
            assert await asyncio.to_thread(worker.terminate) == 0
            assert 1.0 <= time.monotonic() - began < 10.0
