"""Servers for tests: real ones, set up as wanted, and things that only listen like one; and names of their own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import subprocess
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from pathlib import Path

from ironflow.broker.embedded import EmbeddedServer, find_server

_PROCESS = secrets.token_hex(3)
_numbers = itertools.count(1)


def fresh_namespace() -> str:
    """Return a namespace that no other test uses, nor one in another process or an earlier session."""
    return f"t{_PROCESS}-{next(_numbers)}"


@contextlib.contextmanager
def nats_server_in(folder: Path) -> Generator[EmbeddedServer]:
    """Run a nats-server on a free loopback port with its data in *folder*, synced as in production."""
    with EmbeddedServer(folder) as server:
        yield server


@contextlib.contextmanager
def configured_server(
    folder: Path, more: str = "", environment: Mapping[str, str] | None = None, **configuration: object
) -> Generator[str]:
    """Run a nats-server with a configuration of its own, and *more* text behind it; its URL."""
    file = folder / "server.conf"
    settings = {"host": "127.0.0.1", "port": -1, "ports_file_dir": str(folder)} | configuration
    lines = [f"{key}: {json.dumps(value)}" for key, value in settings.items()]
    file.write_text("\n".join([*lines, more]), encoding="utf-8")
    process = subprocess.Popen(
        [find_server(), "-c", file, "-l", folder / "server.log"], env={**os.environ, **(environment or {})}
    )
    try:
        yield _url_of(process, folder)
    finally:
        process.kill()
        process.wait()


def _url_of(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Wait until a server listens; return where."""
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError, ValueError, StopIteration):
            return str(json.loads(next(folder.glob("*.ports")).read_text())["nats"][0])
        assert process.poll() is None, (folder / "server.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextlib.asynccontextmanager
async def stub_server(
    *greeting: bytes, answers_ping: bool = False, port: int = 0, heard: list[bytes] | None = None
) -> AsyncGenerator[str]:
    """Run something that listens like a server and sends a greeting; its URL. What it is told goes to *heard*."""
    writers: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.writelines(greeting)
        while line := await reader.readline():
            if heard is not None:
                heard.append(line)
            if answers_ping and line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
            # The only answer to what asks for the state of JetStream.
            if answers_ping and line.startswith(b"PUB $JS.API.INFO "):
                writer.write(b"-ERR 'Permissions Violation for Publish to \"$JS.API.INFO\"'\r\n")

    server = await asyncio.start_server(talk, "127.0.0.1", port)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()


def info_line(version: str, **more: object) -> bytes:
    """Return the first line of a server."""
    return f"INFO {json.dumps({'server_id': 'N1', 'version': version, 'max_payload': 1024} | more)}\r\n".encode()
