"""Backups as docs/operations.md describes them: another server goes on with what was asleep, waited or was at work."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ironflow.broker.embedded import EmbeddedServer
from ironflow.client import Client
from ironflow.handles import RunHandle
from tests.support import eventually
from tests.support.backups import copy_at_an_instant, copy_store, restore, take_snapshots
from tests.support.processes import Cluster, Process, cluster, functions_are_known

NAMESPACE = "kept"
NAP_SECONDS = 3.0
EXPECTED = {"sleeper": "awake", "patient": "go on", "parent": "awake", "flaky": 3, "gated": 55, "ten-steps": 55}
BODIES = {"sleeper": 2, "patient": 2, "parent": 1, "flaky": 3, "gated": 10, "ten-steps": 10}

Runs = dict[str, RunHandle[Any]]


async def begin(processes: Cluster, client: Client) -> Runs:
    """Start a run of each kind, and return once each is where its backup is to find it."""
    await functions_are_known(client, *EXPECTED)
    data = {"sleeper": NAP_SECONDS, "parent": NAP_SECONDS, "patient": "order-1"}
    runs = {function: await client.start(function, data.get(function)) for function in EXPECTED}

    async def where_they_should_be() -> None:
        statuses = {function: (await run.state()).status for function, run in runs.items()}
        assert statuses["ten-steps"] == "completed"
        assert [statuses[function] for function in ("sleeper", "patient", "parent")] == ["waiting"] * 3
        assert processes.witnessed()[f"{runs['gated'].id} 7"] == 1

    await eventually(where_they_should_be, within=20.0)
    return runs


async def finish(processes: Cluster, ids: dict[str, str]) -> None:
    """Have new processes bring all runs to their ends."""
    (processes.folder / "gate").touch()
    processes.engine("--lease", "1")
    processes.worker("flows.py")
    async with processes.client() as client:
        await functions_are_known(client, *EXPECTED)
        await client.publish("word", {"of": "order-1", "says": "go on"})
        outputs = {function: await client.run(run).result("60s") for function, run in ids.items()}
        assert outputs == EXPECTED
        assert (await client.run(ids["ten-steps"]).state()).status == "completed"
    done = await processes.command("doctor")
    assert done.returncode == 0, done.stdout


async def stop(*processes: Process) -> None:
    """Have processes leave in good order."""
    for process in processes:
        assert await asyncio.to_thread(process.terminate) == 0


def bodies_of(processes: Cluster, ids: dict[str, str]) -> dict[str, int]:
    """Return how many bodies each run has begun."""
    seen = processes.witnessed()
    return {
        function: sum(count for line, count in seen.items() if line.startswith(f"{run} ") and " is in " not in line)
        for function, run in ids.items()
    }


async def test_another_server_goes_on_with_the_files_of_one_that_was_stopped(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "nats")
    with server, cluster(server.url, NAMESPACE, tmp_path) as processes:
        engine, worker = processes.engine(), processes.worker("flows.py", "--drain-timeout", "500ms")
        async with processes.client() as client:
            runs = await begin(processes, client)
        ids = {function: run.id for function, run in runs.items()}
        await stop(worker, engine)
    copy_store(server, tmp_path / "restored")
    with EmbeddedServer(tmp_path / "restored") as other, cluster(other.url, NAMESPACE, tmp_path) as processes:
        await finish(processes, ids)
        # Only the body that was at work when its worker went runs again.
        assert bodies_of(processes, ids) == {**BODIES, "gated": 11}


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 3])
async def test_another_server_goes_on_with_snapshots_that_were_taken_while_nothing_was_at_work(
    tmp_path: Path, shards: int
) -> None:
    with (
        EmbeddedServer(tmp_path / "nats") as server,
        cluster(server.url, NAMESPACE, tmp_path, shards=shards) as processes,
    ):
        engine, worker = processes.engine(), processes.worker("flows.py", "--drain-timeout", "500ms")
        async with processes.client() as client:
            runs = await begin(processes, client)
        ids = {function: run.id for function, run in runs.items()}
        await stop(worker, engine)
        snapshots = await take_snapshots(server.url)
    with (
        EmbeddedServer(tmp_path / "restored") as other,
        cluster(other.url, NAMESPACE, tmp_path, shards=shards) as processes,
    ):
        await restore(other.url, snapshots)
        await finish(processes, ids)
        assert bodies_of(processes, ids) == {**BODIES, "gated": 11}


@pytest.mark.slow
async def test_another_server_goes_on_with_an_image_of_the_volume_that_was_taken_under_load(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "nats") as server, cluster(server.url, NAMESPACE, tmp_path) as processes:
        processes.engine("--lease", "1")
        processes.worker("flows.py")
        async with processes.client() as client:
            runs = await begin(processes, client)
            many = [await client.start("ten-steps") for _ in range(50)]
            copy_at_an_instant(server, tmp_path / "restored")
        ids = {function: run.id for function, run in runs.items()}
    with EmbeddedServer(tmp_path / "restored") as other, cluster(other.url, NAMESPACE, tmp_path) as processes:
        await finish(processes, ids)
        async with processes.client() as client:
            assert [await client.run(run.id).result("60s") for run in many] == [55] * 50
