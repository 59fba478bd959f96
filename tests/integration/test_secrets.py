"""What must not be told to whoever reads logs and metrics: data, credentials, the texts of errors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from ironflow.broker.embedded import EmbeddedServer
from ironflow.client import Client
from ironflow.errors import RunFailedError
from tests.support import eventually
from tests.support.processes import Cluster, cluster, functions_are_known
from tests.support.scrapes import SERVED, get, health_port
from tests.support.servers import configured_server
from tests.support.traced import read

CANARY = "c4n4ry-5ecret"
OPTIONS = (*SERVED, "--log-level", "debug")


async def live(client: Client) -> None:
    """Have runs fail in all ways with the secret in the text of their errors."""
    await functions_are_known(client, "careless", "handler-fails", "typed")
    for function in ("careless", "handler-fails", "typed"):
        run = await client.start(function, CANARY)
        try:
            await run.result(timeout=30)
        except RunFailedError:
            assert function != "careless"
    await client.publish("careless", CANARY, metadata={"authorization": CANARY}, source=CANARY)


def entries(processes: Cluster) -> list[dict[str, Any]]:
    lines = [line for process in processes.processes for line in process.log.read_text().splitlines()]
    return [json.loads(line) for line in lines]


async def command(processes: Cluster) -> list[str]:
    """Run commands with the secret in what they are given, and return what they say beside the data asked for."""
    refused = processes.url.replace(CANARY, f"{CANARY}-2")
    unreachable = f"nats://engine:{CANARY}@127.0.0.1:1"
    done = await asyncio.gather(
        processes.command("publish", "careless", "--data", json.dumps(CANARY), "--metadata", f"key={CANARY}"),
        processes.command("runs", "list", "--json"),
        processes.command("doctor", "--monitor-url", f"http://engine:{CANARY}@127.0.0.1:9"),
        processes.command("runs", "list", "--nats-url", refused),
        processes.command("runs", "list", "--nats-url", unreachable),
    )
    assert [each.returncode for each in done] == [0, 0, 1, 3, 3], done  # no Postgres is there
    return [each.stdout + each.stderr for each in (done[0], *done[2:])] + [done[1].stderr]


async def test_a_secret_in_data_url_header_or_error_is_in_no_log_line_metric_or_trace(
    namespace: str, tmp_path: Path
) -> None:
    jetstream = {"store_dir": str(tmp_path / "nats"), "sync_interval": "always"}
    login = {"user": "engine", "password": CANARY}
    with configured_server(tmp_path, jetstream=jetstream, authorization=login) as address:
        url = address.replace("nats://", f"nats://engine:{CANARY}@")
        with cluster(url, namespace, tmp_path, traced=True) as processes:
            archive = ("--archive-url", f"postgresql://engine:{CANARY}@127.0.0.1:1/none")
            engine = processes.engine(*OPTIONS, *archive, "--monitor-url", f"http://engine:{CANARY}@127.0.0.1:9")
            worker = processes.worker("secretive.py", *OPTIONS)
            ports = [await health_port(process) for process in (engine, worker)]
            async with processes.client() as client:
                await live(client)
            told = await command(processes)
            scrapes = [await get(port, f"{path}?token={CANARY}") for port in ports for path in ("/metrics", "/readyz")]
            scrapes += [await get(port, "/metrics", headers={"Authorization": CANARY}) for port in ports]
            for process in (worker, engine):
                assert process.terminate() == 0
            logs, traces = processes.logs(), processes.traces.read_text()
        assert [text for text in (logs, str(scrapes), str(told), traces) if CANARY in text] == []
        logged = {entry["event"] for entry in entries(processes)}
        assert {"run failed", "step failed, will be tried again", "Task exception was never retrieved"} <= logged
        assert "not archived, will be tried again" in logged
        assert {"publish careless", "run careless", "step charge"} <= {span["name"] for span in read(processes.traces)}


async def test_log_lines_say_which_run_and_step_they_are_about_and_once_only(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(nats_server.url, namespace, tmp_path) as processes:
        processes.engine(*SERVED)
        processes.worker("secretive.py", *SERVED, "--log-errors", "full")
        async with processes.client() as client:
            await functions_are_known(client, "careless")
            run = await client.start("careless", "card-1")
            await run.result(timeout=30)

        def logged() -> list[dict[str, Any]]:
            found = [entry for entry in entries(processes) if entry.get("run") == run.id]
            assert [entry["event"] for entry in found].count("harmless") == 1
            return found

        mine = {entry["event"]: entry for entry in await eventually(logged)}
    assert all(entry["function"] == "careless" for entry in mine.values())
    assert (mine["harmless"]["step"], mine["harmless"]["attempt"]) == ("log", 1)
    again = mine["step failed, will be tried again"]
    assert (again["step"], again["attempt"], again["error"]) == ("charge", 1, "ValueError")
    assert again["error_text"] == "no such card: card-1"
    assert [entry["event"] for entry in entries(processes)].count("charged in vain") == 1
