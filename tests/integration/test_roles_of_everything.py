"""What else a product with accounts has to do: each thing that a process does by itself is allowed to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import msgspec
import pytest

from ironflow.client import Client
from ironflow.names import Names, bucket_stream
from ironflow.permissions import engine
from tests.integration.test_archive import rows
from tests.support import eventually, fresh_namespace
from tests.support.apps.sagas import Plan
from tests.support.processes import APPS, functions_are_known
from tests.support.scrapes import SERVED, health_port, ready, scrape, value
from tests.support.secured import Secured


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    with Secured(Names(fresh_namespace()), tmp_path).running() as running:
        yield running
        assert "ermissions" not in running.logs()


@contextlib.asynccontextmanager
async def at_work(secured: Secured, *functions: str) -> AsyncGenerator[Client]:
    """Wait until functions are known, and connect one that publishes."""
    async with secured.client("operator") as operator:
        await functions_are_known(operator, *functions)
    async with secured.client("publisher") as client:
        yield client


async def test_children_branches_and_undos_work_under_the_accounts(secured: Secured) -> None:
    secured.engine()
    secured.worker("orders", "flows.py", str(APPS / "sagas.py"))
    async with at_work(secured, "parent", "doubles", "saga", "hurried") as client:
        parent = await client.start("parent", 0.1)
        doubles = await client.start("doubles", 50)
        saga = await client.start("saga", msgspec.to_builtins(Plan(failing_step=3)))
        hurried = await client.start("hurried")
        assert await parent.result("20s") == "awake"
        assert len(await doubles.result("20s")) == 50
        assert (await saga.wait("20s")).compensation == "completed"
        error = (await hurried.wait("20s")).error
        assert error is not None
        assert error.type == "RunTimeoutError"


async def test_an_engine_works_under_accounts_that_do_not_let_it_listen_to_events(tmp_path: Path) -> None:
    names = Names(fresh_namespace())
    of_today = engine(names)
    older = msgspec.structs.replace(of_today, hears=tuple(each for each in of_today.hears if each != names.every_event))
    with Secured(names, tmp_path, changed=[older]).running() as secured:
        secured.engine()
        secured.worker("orders", "flows.py")
        async with at_work(secured, "ten-steps") as client:
            for _ in range(3):
                assert await (await client.start("ten-steps")).result("20s") == 55
        assert "functions are asked for once events are stored" in secured.logs()


async def test_processes_are_ready_and_measured_under_the_accounts(secured: Secured) -> None:
    served = [secured.engine(*SERVED), secured.worker("orders", "flows.py", *SERVED)]
    ports = [await health_port(process) for process in served]
    for port in ports:
        await ready(port)
    async with at_work(secured, "ten-steps", "sleeper") as client:
        await client.start("sleeper", 3600.0)
        assert await (await client.start("ten-steps")).result("20s") == 55

    async def measured() -> None:
        metrics = await scrape(ports[0])
        assert value(metrics, "ironflow_engine_timers") == 1
        assert "ironflow_engine_queue_waiting" in metrics
        assert "ironflow_engine_intake_pending" in metrics

    await eventually(measured, within=10.0)
    found = await examine(secured, "operator")
    assert {each["level"] for each in found} <= {"ok", "unknown", "warning"}, found
    assert {each["check"]: each["level"] for each in found}["access"] == "ok"
    found = await examine(secured, "reader")
    assert {each["check"]: each["level"] for each in found}["access"] == "warning"


async def test_the_archive_is_filled_and_read_under_the_accounts(secured: Secured, archive_url: str) -> None:
    secured.engine("--archive-url", archive_url)
    await archived(secured, archive_url)


@pytest.mark.slow
async def test_what_is_kept_long_enough_is_deleted_under_the_accounts(secured: Secured, archive_url: str) -> None:
    secured.engine("--archive-url", archive_url, "--retention", "1s")
    run = await archived(secured, archive_url)
    async with secured.client("admin") as admin:

        async def deleted() -> None:
            state = await admin.broker.last(bucket_stream(secured.names.runs_bucket), secured.names.run_key(run))
            assert state is None or not state.payload

        await eventually(deleted, within=60.0)
    async with secured.client("reader") as reader:
        assert [each.id async for each in reader.runs()] == [run]


async def archived(secured: Secured, archive_url: str) -> str:
    """Have a run end, and return its id once all of it is in the archive."""
    secured.worker("orders", "archived.py")
    async with at_work(secured, "three-steps") as client:
        published = await client.publish_record("archived", {"number": 1, "fails": False})
        (run,), _ = await client.runs_of(published, wait_seconds=20.0)
        await client.run(run).result("20s")

    async def complete() -> None:
        counted = "SELECT (SELECT count(*) FROM steps), (SELECT count(*) FROM runs WHERE finished_at IS NOT NULL)"
        assert await rows(archive_url, counted, schema=f"ironflow_{secured.names.namespace}") == [(3, 1)]

    await eventually(complete, within=20.0)
    return run


async def examine(secured: Secured, role: str) -> list[dict[str, str]]:
    """Return what the doctor finds for a role."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "ironflow.cli.main", "doctor", "--json"],
        env={**os.environ, **secured.environment(role)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found
