"""Backups of a server, in the ways that docs/operations.md gives operators."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats
from nats.aio.client import Client

from ironflow.broker.embedded import EmbeddedServer

STORE = "jetstream"
_SECONDS = 10.0


class Snapshot(msgspec.Struct, frozen=True):
    """A stream with its consumers, as `nats stream backup` keeps it."""

    name: str
    config: dict[str, Any]
    state: dict[str, Any]
    chunks: list[bytes]


def copy_store(server: EmbeddedServer, to: Path) -> None:
    """Copy the files of a server that does not run."""
    assert not server.running
    shutil.copytree(server.folder / STORE, to / STORE)


def copy_at_an_instant(server: EmbeddedServer, to: Path) -> None:
    """Copy the files of a server while it stands still, as the snapshot of a volume does; it knows nothing of it."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        shutil.copytree(server.folder / STORE, to / STORE)
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def take_snapshots(url: str) -> list[Snapshot]:
    """Have a server send all of its streams, one after the other."""
    async with _connected(url) as connection:
        names = (await _ask(connection, "$JS.API.STREAM.NAMES", {}))["streams"]
        return [await _snapshot(connection, name) for name in names]


async def restore(url: str, snapshots: list[Snapshot]) -> None:
    """Have a server make streams of what another one has sent."""
    async with _connected(url) as connection:
        for snapshot in snapshots:
            wanted = {"config": snapshot.config, "state": snapshot.state}
            answer = await _ask(connection, f"$JS.API.STREAM.RESTORE.{snapshot.name}", wanted)
            for chunk in snapshot.chunks:
                await connection.request(answer["deliver_subject"], chunk, timeout=_SECONDS)
            await _ask(connection, answer["deliver_subject"], None)


async def _snapshot(connection: Client, name: str) -> Snapshot:
    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox)
    answer = await _ask(connection, f"$JS.API.STREAM.SNAPSHOT.{name}", {"deliver_subject": inbox})
    chunks: list[bytes] = []
    while (message := await subscription.next_msg(_SECONDS)).data:
        chunks.append(message.data)
        if message.reply:  # the server waits now and then until what it has sent has arrived
            await message.respond(b"")
    await subscription.unsubscribe()
    return Snapshot(name, answer["config"], answer["state"], chunks)


async def _ask(connection: Client, subject: str, what: dict[str, Any] | None) -> dict[str, Any]:
    """Ask JetStream for something; fail where it refuses."""
    payload = b"" if what is None else json.dumps(what).encode()
    answer: dict[str, Any] = json.loads((await connection.request(subject, payload, timeout=_SECONDS)).data)
    assert "error" not in answer, (subject, answer["error"])
    return answer


@asynccontextmanager
async def _connected(url: str) -> AsyncGenerator[Client]:
    connection = await nats.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
