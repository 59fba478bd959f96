"""A divided namespace on a real server, with engines and workers as processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.protocol import NoSuchStream
from ironflow.client import Client
from ironflow.names import Names
from tests.support import eventually, fresh_namespace
from tests.support.processes import Cluster, cluster, functions_are_known, workers_answer
from tests.support.secured import Secured

SHARDS = 3
EACH = 4
USAGE = 2


@pytest.fixture
def processes(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with cluster(nats_server.url, namespace, tmp_path, shards=SHARDS) as made:
        yield made


async def timers_of(client: Client, names: Names, run: str) -> list[str]:
    pages = client.broker.read(names.shard_of(run).timers, names.timers_of_run(run))
    return [message.subject async for page in pages for message in page]


async def is_empty(client: Client, stream: str) -> None:
    assert (await client.broker.stream_state(stream)).messages == 0


async def test_a_divided_namespace_runs_what_a_whole_one_does(processes: Cluster) -> None:
    processes.engine("--retention", "1h")
    processes.worker("flows.py")
    names = processes.names
    async with processes.client() as client:
        await functions_are_known(client, "parent")
        await workers_answer(client, 1)
        functions = {"parent": 0.3, "ten-steps": None, "flaky": None, "doubles": 150, "late-waiter": {"n": 1}}
        runs = [
            (function, await client.start(function, {"n": number} if function == "late-waiter" else data))
            for number in range(EACH)
            for function, data in functions.items()
        ]
        resting = [await client.start("sleeper", 3600.0) for _ in range(EACH)]
        expected = {"parent": "awake", "ten-steps": 55, "flaky": 3, "late-waiter": True}
        expected |= {"doubles": [2 * item for item in range(150)]}
        assert [await run.result("30s") for _, run in runs] == [expected[function] for function, _ in runs]
        assert {names.shard_of(run.id) for _, run in runs} == set(names.all_shards)
        assert all([await run.cancel() for run in resting])
        assert {(await run.wait("10s")).status for run in resting} == {"cancelled"}
        listed = [run.id async for run in client.runs()]
        assert {run.id for _, run in runs} | {run.id for run in resting} <= set(listed)
        stored = [(await client.broker.stream_state(shard.journal)).messages for shard in names.all_shards]
        assert min(stored) > EACH
        assert [run.id for run in resting if await timers_of(client, names, run.id)] == []
        for shard in names.all_shards:
            await eventually(partial(is_empty, client, shard.tasks), within=5.0)
    findings = json.loads((await processes.command("doctor", "--json")).stdout)
    by_check = {finding["check"]: finding for finding in findings}
    assert {finding["check"] for finding in findings if finding["level"] == "error"} == set()
    assert by_check["streams"]["text"] == f"{1 + 3 * SHARDS + 4} streams and buckets exist, with the right settings"
    assert by_check["consumers"]["text"] == f"{1 + 2 * SHARDS + SHARDS} consumers exist, with the right settings"
    queues = json.loads((await processes.command("queues", "list", "--json")).stdout)
    assert [(queue["name"], queue["waiting"], queue["running"]) for queue in queues] == [("orders", 0, 0)]


@pytest.mark.parametrize("told", [1, 2])
async def test_processes_that_are_told_another_number_end_and_say_what_stands(processes: Cluster, told: int) -> None:
    processes.engine()
    processes.worker("flows.py")
    async with processes.client() as client:
        await functions_are_known(client, "ten-steps")
        await workers_answer(client, 1)
        wrong = [processes.engine("--shards", str(told)), processes.worker("flows.py", "--shards", str(told))]
        for process in wrong:
            assert await asyncio.to_thread(process.wait) == USAGE
            said = process.log.read_text().splitlines()[-1]
            assert f"this process was told --shards {told}, and" in said
            assert f"says that the namespace has {SHARDS}" in said
            assert f"start all engines and workers with --shards {SHARDS} (IRONFLOW_SHARDS={SHARDS})" in said
        for shard in set(Names(processes.names.namespace, told).all_shards) - set(processes.names.all_shards):
            with pytest.raises(NoSuchStream):
                await client.broker.stream_state(shard.journal)
        assert await (await client.start("ten-steps")).result("20s") == 55


@pytest.mark.parametrize("told", [1, 2])
async def test_a_worker_with_the_rights_of_its_role_learns_that_it_was_told_another_number(
    tmp_path: Path, told: int
) -> None:
    with Secured(Names(fresh_namespace(), SHARDS), tmp_path).running() as secured:
        secured.engine()
        wrong = secured.worker("orders", "flows.py", "--shards", str(told))
        assert await asyncio.to_thread(wrong.wait) == USAGE
        assert f"an engine says that the namespace has {SHARDS}" in wrong.log.read_text()
