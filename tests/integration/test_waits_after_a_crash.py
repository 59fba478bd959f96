"""Waits that are over stay so when nats-server is killed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.topology import streams
from ironflow.names import Names
from ironflow.records import WaitEntry, WaitRecord
from ironflow_engine.wait_store import WaitStore

NAMES = Names("t")
RUNS = 5


async def test_a_wait_that_was_registered_twice_does_not_come_back(tmp_path: Path) -> None:
    record = WaitRecord(name="s", kind="wait_for_event", token="", event="go", path="a", value="1")
    entries = [
        WaitEntry(run=f"r{n}", queue="q", step="s", wait=record, sequence=n, time_ms=n) for n in range(1, RUNS + 1)
    ]
    async with EmbeddedServer(tmp_path) as server:
        broker = await connect(ConnectionSettings(urls=(server.url,)))
        for spec in streams(NAMES):
            await broker.ensure_stream(spec)
        waits = WaitStore(broker, NAMES)
        for _ in range(2):
            assert await waits.put_all(entries) == [None] * RUNS
        assert await waits.forget({(entry.run, entry.step): record for entry in entries[1:]}) == {}
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        assert await waits.count() == 1
        await broker.close()
