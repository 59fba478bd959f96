"""Real NATS servers for tests, and names that no other test uses."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ironflow.broker.embedded import EmbeddedServer

_PROCESS = secrets.token_hex(3)
_numbers = itertools.count(1)


def fresh_namespace() -> str:
    """Return a namespace that no other test uses, nor one in another process or an earlier session."""
    return f"t{_PROCESS}-{next(_numbers)}"


@contextmanager
def nats_server_in(folder: Path) -> Generator[EmbeddedServer]:
    """Run a nats-server on a free loopback port with its data in *folder*, synced as in production."""
    with EmbeddedServer(folder) as server:
        yield server
