"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ironflow.broker.embedded import EmbeddedServer
from tests.support import fresh_namespace, nats_server_in


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One real nats-server for the session; tests keep apart by their namespaces and stream names.

    A test that kills it has to restart it before it ends.
    """
    with nats_server_in(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return fresh_namespace()
