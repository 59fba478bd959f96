"""An engine process with an archive: what it says, and what it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ironflow.broker.embedded import EmbeddedServer
from tests.integration.test_archive import rows
from tests.support.eventually import eventually
from tests.support.processes import Cluster, cluster, functions_are_known
from tests.support.scrapes import SERVED, health_port, scrape, value

CANARY = "canary-secret"


@pytest.fixture
def processes(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with cluster(nats_server.url, namespace, tmp_path) as made:
        yield made


async def test_an_engine_archives_what_it_is_told_to_by_its_environment(
    processes: Cluster, archive_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRONFLOW_ARCHIVE_URL", archive_url)
    processes.engine("--retention", "7d")
    processes.worker("archived.py")
    async with processes.client() as client:
        await functions_are_known(client, "three-steps")
        for number in range(10):
            await client.publish("archived", {"number": number, "fails": number == 7})

    async def archived() -> None:
        schema = f"ironflow_{processes.names.namespace}"
        found = await rows(archive_url, "SELECT status, count(*) FROM runs GROUP BY 1 ORDER BY 1", schema=schema)
        assert found == [("completed", 9), ("failed", 1)]

    await eventually(archived, within=20.0)
    listed = await processes.command("runs", "list", "--status", "failed", "--since", "1h", "--json")
    assert [run["error"]["message"] for run in json.loads(listed.stdout)] == ["number 7 fails"]

    async def caught_up() -> None:
        # The runs' rows are not the last that it copies.
        assert await finding(processes, "archive") == ("ok", "it answers, and is 0 messages behind")

    await eventually(caught_up, within=20.0)
    assert await finding(processes, "retention") == ("ok", "NATS keeps runs for 7d after their end")
    assert CANARY not in processes.logs()


async def test_an_engine_that_cannot_reach_its_archive_works_and_does_not_say_the_password(processes: Cluster) -> None:
    engine = processes.engine("--archive-url", f"postgresql://ironflow:{CANARY}@127.0.0.1:1/ironflow", *SERVED)
    processes.worker("archived.py")
    async with processes.client() as client:
        await functions_are_known(client, "three-steps")
    done = await processes.command("publish", "archived", "--data", '{"fails": false}', "--wait", "--json")
    assert json.loads(done.stdout)["runs"][0]["status"] == "completed"

    async def warned() -> None:
        assert "not archived, will be tried again" in engine.log.read_text()

    await eventually(warned, within=20.0)
    metrics = await scrape(await health_port(engine))
    assert value(metrics, "ironflow_engine_archive_unreachable") == 1
    level, text = await finding(processes, "archive")
    assert level == "error"
    assert CANARY not in processes.logs() + text


async def finding(processes: Cluster, check: str) -> tuple[str, str]:
    """Return what the doctor says to one thing."""
    done = await processes.command("doctor", "--json")
    (found,) = (each for each in json.loads(done.stdout) if each["check"] == check)
    return found["level"], found["text"]


async def test_what_is_no_url_of_postgres_is_refused_and_not_repeated(processes: Cluster) -> None:
    engine = processes.engine("--archive-url", f"mysql://ironflow:{CANARY}@127.0.0.1/ironflow")

    async def refused() -> None:
        assert "write postgresql://user:password@host:5432/database" in engine.log.read_text()

    await eventually(refused, within=20.0)
    assert CANARY not in processes.logs()
