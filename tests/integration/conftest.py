"""Fixtures of the integration tests."""

from __future__ import annotations

import gc
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from ironflow.function import forget_functions
from tests.support.containers import ContainerPostgres, postgres_container, wanted
from tests.support.inprocess import COMPLAINTS
from tests.support.postgres import PostgresServer, postgres_in

_databases = itertools.count(1)


@pytest.fixture(autouse=True)
def no_functions_left() -> Iterator[None]:
    """Forget the functions that a test file or a test has defined, so that the next may use their ids."""
    forget_functions()
    yield
    forget_functions()


@pytest.fixture(autouse=True)
def nothing_goes_unnoticed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail where a task was left behind, or an exception that nobody has seen."""
    COMPLAINTS.clear()  # of a test in real time, whose servers were killed
    if request.node.get_closest_marker("virtual_time") is None:
        yield
        return
    gc.freeze()  # what is there already need not be looked at
    yield
    gc.collect()
    gc.unfreeze()
    complaints = COMPLAINTS[:]
    COMPLAINTS.clear()  # the tests behind this one are not to blame
    assert complaints == []


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer | ContainerPostgres]:
    """A PostgreSQL server for all tests of this process; who stops it starts it again."""
    if wanted():
        with postgres_container() as server:
            yield server
        return
    # Another session of pytest makes the folders of all sessions its owner's only, and the server is not run as root.
    with tempfile.TemporaryDirectory(prefix="ironflow-postgres-") as folder, postgres_in(Path(folder)) as server:
        yield server


@pytest.fixture
async def archive_url(postgres: PostgresServer) -> str:
    """An empty database of its own."""
    name = f"archive_{next(_databases)}"
    connection = await asyncpg.connect(postgres.url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return f"{postgres.url.rpartition('/')[0]}/{name}"
