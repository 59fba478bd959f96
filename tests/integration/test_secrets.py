"""What must not be told to whoever reads logs and metrics: data, credentials, the texts of errors."""

from __future__ import annotations

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


async def test_a_secret_in_data_url_header_or_error_is_in_no_log_line_and_no_metric(
    namespace: str, tmp_path: Path
) -> None:
    jetstream = {"store_dir": str(tmp_path / "nats")}
    login = {"user": "engine", "password": CANARY}
    with configured_server(tmp_path, jetstream=jetstream, authorization=login) as address:
        url = address.replace("nats://", f"nats://engine:{CANARY}@")
        with cluster(url, namespace, tmp_path) as processes:
            engine = processes.engine(*OPTIONS, "--monitor-url", f"http://engine:{CANARY}@127.0.0.1:9")
            worker = processes.worker("secretive.py", *OPTIONS)
            ports = [await health_port(process) for process in (engine, worker)]
            async with processes.client() as client:
                await live(client)
            scrapes = [await get(port, f"{path}?token={CANARY}") for port in ports for path in ("/metrics", "/readyz")]
            for process in (worker, engine):
                assert process.terminate() == 0
            logs = processes.logs()
        assert CANARY not in logs
        assert CANARY not in str(scrapes)
        told = {entry["event"] for entry in entries(processes)}
        assert {"run failed", "step failed, will be tried again", "Task exception was never retrieved"} <= told


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
