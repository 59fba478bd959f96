"""Fixtures of the tests of bad input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from ironflow.broker.embedded import EmbeddedServer
from tests.e2e.bad_input.tables import (
    Ledger,
    Place,
    engine_answers,
)
from tests.support import fresh_namespace
from tests.support.commands import Commands
from tests.support.processes import Cluster, Process, cluster


@pytest.fixture(scope="module")
def processes(nats_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(nats_server.url, fresh_namespace(), tmp_path_factory.mktemp("processes")) as made:
        made.engine()
        asyncio.run(engine_answers(made))
        yield made


@pytest.fixture
def place(processes: Cluster, tmp_path: Path) -> Place:
    environment = {
        "HOME": str(tmp_path),
        "NATS_URL": processes.url,
        "IRONFLOW_NAMESPACE": processes.names.namespace,
    }
    return Place(processes.url, processes.names.namespace, Commands(tmp_path, environment))


@pytest.fixture(scope="module")
def ledger(processes: Cluster) -> Iterator[Ledger]:
    with asyncio.Runner() as runner:
        made = Ledger(runner, processes.url, processes.names)
        yield made
        made.close()


@pytest.fixture
def nothing_stored(ledger: Ledger) -> Iterator[None]:
    """Check that a test has written nothing at all."""
    before = ledger.read()
    yield
    assert ledger.read() == before


@pytest.fixture
async def left_alone(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> AsyncGenerator[Process]:
    """An engine in a namespace of its own, ready and without any work."""
    with cluster(nats_server.url, namespace, tmp_path) as made:
        engine = made.engine()
        await engine_answers(made)
        yield engine
