"""NATS and Postgres as the images that people run, for the tests that have a container engine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IN_CONTAINERS = "IRONFLOW_TEST_IN_CONTAINERS"
"""The variable that has the fixtures take servers from images."""
NATS_IMAGE = "nats:2.15.1-alpine"
POSTGRES_IMAGE = "postgres:18-alpine"
READY_SECONDS = 60.0

_LOOK_SECONDS = 0.05
_PASSWORD = "canary-secret"  # noqa: S105 - of a server that lives for a test, on this machine only


class Machine(Protocol):
    """A container that was made; its files and its ports stay over stops."""

    def start(self) -> None:
        """Start what runs in it."""
        ...

    def stop(self) -> None:
        """End it orderly."""
        ...

    def kill(self) -> None:
        """End it as a crash would."""
        ...


def why_there_are_none() -> str | None:
    """Return why no containers can be had here; None where they can."""
    # In a process of its own: a client that does not reach its engine leaves a socket open.
    asked = subprocess.run(
        [sys.executable, "-c", "import docker; docker.from_env(timeout=5).ping()"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if asked.returncode == 0 else asked.stderr.strip().rpartition("\n")[2]


class ContainerServer:
    """A nats-server in a container, with as much of an EmbeddedServer as the conformance suite asks for.

    Args:
        machine: its container, which runs.
        url: what clients connect to.
        is_ready: tells whether it serves.

    """

    def __init__(self, machine: Machine, url: str, is_ready: Callable[[], bool]) -> None:
        self.url = url
        self.running = True
        self._machine = machine
        self._is_ready = is_ready
        _wait_until(is_ready)

    def kill(self) -> None:
        """End the server as a crash would."""
        if self.running:
            self._machine.kill()
        self.running = False

    def restart(self) -> None:
        """Start the server again, after :meth:`kill` or out of its running: same port, same data."""
        if self.running:
            self._machine.stop()
        self._machine.start()
        self.running = True
        _wait_until(self._is_ready)


class ContainerPostgres:
    """PostgreSQL in a container, with as much of a PostgresServer as tests ask for.

    Args:
        machine: its container, which runs.
        url: how to connect to it.
        is_ready: tells whether it lets clients in.

    """

    def __init__(self, machine: Machine, url: str, is_ready: Callable[[], bool]) -> None:
        self.url = url
        self._running = True
        self._machine = machine
        self._is_ready = is_ready
        _wait_until(is_ready)

    def start(self) -> None:
        """Start it unless it runs, and wait until it lets clients in."""
        if not self._running:
            self._machine.start()
        self._running = True
        _wait_until(self._is_ready)

    def stop(self) -> None:
        """End it as the end of the machine would."""
        if self._running:
            self._machine.kill()
        self._running = False


@contextlib.contextmanager
def nats_container(folder: Path, max_file_store_bytes: int | None = None) -> Generator[ContainerServer]:
    """Run the image of NATS, synced as in production."""
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - most runs do without it

    port, monitor = _free_port(), _free_port()
    store = {"store_dir": "/data", "sync_interval": "always"}
    limit = {} if max_file_store_bytes is None else {"max_file_store": max_file_store_bytes}
    (folder / "nats.conf").write_text(json.dumps({"port": 4222, "http_port": 8222, "jetstream": {**store, **limit}}))
    container = (
        DockerContainer(NATS_IMAGE)
        .with_bind_ports(4222, port)
        .with_bind_ports(8222, monitor)
        .with_volume_mapping(str(folder), "/etc/ironflow", "ro")
        .with_command("nats-server --config /etc/ironflow/nats.conf")
    )
    with container:
        yield ContainerServer(
            container.get_wrapped_container(), f"nats://127.0.0.1:{port}", lambda: _serves_jetstream(monitor)
        )


@contextlib.contextmanager
def postgres_container() -> Generator[ContainerPostgres]:
    """Run the image of PostgreSQL."""
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - most runs do without it

    port = _free_port()
    container = DockerContainer(POSTGRES_IMAGE).with_bind_ports(5432, port).with_env("POSTGRES_PASSWORD", _PASSWORD)
    url = f"postgresql://postgres:{_PASSWORD}@127.0.0.1:{port}/postgres"
    with container:
        yield ContainerPostgres(container.get_wrapped_container(), url, lambda: _lets_in(container))


def wanted() -> bool:
    """Tell whether the fixtures are to take servers from images."""
    return bool(os.environ.get(IN_CONTAINERS))


def _serves_jetstream(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _lets_in(container: DockerContainer) -> bool:
    # Over TCP: while the image makes its database, it listens on its socket only.
    return container.exec(["pg_isready", "-h", "127.0.0.1", "-U", "postgres", "-q"]).exit_code == 0


def _wait_until(is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not is_ready():
        assert time.monotonic() < deadline, f"not ready within {READY_SECONDS:g} s"
        time.sleep(_LOOK_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
