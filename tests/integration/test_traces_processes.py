"""A trace over separate processes, of which one is killed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from ironflow.broker.embedded import EmbeddedServer
from tests.support import eventually
from tests.support.processes import cluster, functions_are_known
from tests.support.traced import paths, read


async def test_a_trace_has_each_executed_step_once_although_its_worker_was_killed(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(nats_server.url, namespace, tmp_path, traced=True) as processes:
        processes.engine("--lease", "1")
        first = processes.worker("flows.py")
        async with processes.client() as client:
            await functions_are_known(client, "gated")
            published = await processes.command("publish", "gated", "--json")
            assert published.returncode == 0, published.stderr

            def seventh_began() -> None:
                assert [line.split()[1] for line in processes.witnessed()].count("7") == 1

            await eventually(seventh_began, within=20.0)
            first.kill()
            processes.worker("flows.py")
            (tmp_path / "gate").touch()
            (run,) = [run async for run in client.runs()]
            assert await run.result("30s") == 55
        assert processes.witnessed()[f"{run.id} 7"] == 2

        def exported() -> list[str]:
            found = paths(processes.traces)
            assert len(found) >= 12
            return found

        found = await eventually(exported)
    steps = [f"publish gated > run gated > step step-{number}" for number in range(1, 11)]
    # The span of the body that was killed died with its process.
    assert Counter(found) == Counter(["publish gated", "publish gated > run gated", *steps])
    assert len({span["context"]["trace_id"] for span in read(processes.traces)}) == 1
    assert json.loads(published.stdout)
