"""Ironflow under measurement: an embedded nats-server, one engine, and workers, each a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import nats

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.protocol import Publication, StreamSpec
from ironflow.client import Client
from ironflow.names import run_id, start_event_id
from tests.bench import ironflow_app
from tests.bench.workloads import NAP_SECONDS
from tests.support.processes import Process, cluster, functions_are_known, workers_answer

CONCURRENCY = 600
"""As many runs at a time as workload A ever has in flight."""

BARE_APPENDS = 300


class Ironflow:
    """Implements :class:`tests.bench.system.System`.

    Args:
        sync_interval: "always", or what the server does by default, "2m".

    """

    name = "Ironflow"
    most_runs = 0
    notes: Sequence[str] = (f"one worker with --concurrency {CONCURRENCY}; otherwise defaults",)

    def __init__(self, sync_interval: str = "always") -> None:
        self.durability = f"nats-server with sync_interval: {sync_interval}" + (
            ", so every append is synced before it is acknowledged" if sync_interval == "always" else ""
        )
        self.folder = Path(tempfile.gettempdir())
        self._sync_interval = sync_interval
        self._stack = contextlib.AsyncExitStack()
        self._client: Client | None = None
        self._server: EmbeddedServer | None = None
        self._engine: Process | None = None
        self._workers: list[Process] = []

    async def start(self, workers: int) -> None:
        """Start the server, an engine, and workers."""
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._server = self._stack.enter_context(
            EmbeddedServer(self.folder / "nats", sync_interval=self._sync_interval)
        )
        processes = self._stack.enter_context(cluster(self._server.url, "bench", self.folder))
        self._engine = processes.engine()
        app, options = ironflow_app.__file__, ("--concurrency", str(CONCURRENCY))
        self._workers = [processes.worker(app, *options, queue=ironflow_app.QUEUE) for _ in range(workers)]
        self._client = await self._stack.enter_async_context(processes.client())
        await functions_are_known(self._client, "three", "slow")
        await workers_answer(self._client, workers)

    async def stop(self) -> None:
        """End everything."""
        await self._stack.aclose()

    def parts(self) -> Mapping[str, list[int]]:
        """Return the process ids."""
        assert self._server is not None
        assert self._engine is not None
        return {
            "server": [self._server.pid],
            "engine": [self._engine.pid],
            "worker": [worker.pid for worker in self._workers],
        }

    async def run(self, workflow: str, key: str, argument: Any = None) -> Any:
        """Run a function to its end."""
        assert self._client is not None
        run = await self._client.start(workflow, key if workflow == "wait" else argument, id=key)
        return await run.result("300s")

    async def run_all(self, keys: Sequence[str], in_flight: int) -> None:
        """Run ``three`` for each key, so many at a time."""
        left = iter(keys)

        async def one_after_another() -> None:
            for key in left:
                await self.run("three", key)

        await asyncio.gather(*(one_after_another() for _ in range(in_flight)))

    async def send(self, key: str) -> None:
        """Publish the event that a ``wait`` waits for."""
        assert self._client is not None
        await self._client.publish("bench.go", {"key": key})

    async def kill_worker(self) -> None:
        """Kill a worker."""
        self._workers[0].kill()

    def counters(self) -> Mapping[str, float]:
        """Count the messages that JetStream has stored."""
        assert self._server is not None
        with urllib.request.urlopen(f"{self._server.monitor_url}/jsz?streams=1") as answer:  # noqa: S310 - it is ours
            accounts = json.load(answer)["account_details"]
        streams = [stream for account in accounts for stream in account["stream_detail"]]
        return {"messages": sum(stream["state"]["last_seq"] for stream in streams)}

    async def recorded_late_ms(self, key: str) -> float | None:
        """Return by how much the end of a sleep is recorded after it was due, both by the server's clock."""
        assert self._client is not None
        steps = await self._client.run(run_id("nap", start_event_id("nap", key))).steps()
        (nap,) = (step for step in steps if step.kind == "sleep")
        assert nap.finished_at is not None
        begun, ended = map(datetime.fromisoformat, (nap.started_at, nap.finished_at))
        return ((ended - begun).total_seconds() - NAP_SECONDS) * 1000

    async def bare_writes_ms(self) -> Mapping[str, float]:
        """Return the median round trip of an append and nothing else, by turns by our adapter and by nats-py."""
        assert self._server is not None
        spec = StreamSpec(name="bare", subjects=("bare.>",), one_per_subject="keep_first")
        broker = await connect(ConnectionSettings(urls=(self._server.url,)))
        client = await nats.connect(self._server.url)
        jetstream = client.jetstream()
        writes: dict[str, Callable[[str, bytes], Awaitable[object]]] = {
            "": lambda subject, payload: broker.publish(Publication(subject=subject, payload=payload)),
            " by nats-py": jetstream.publish,
        }
        took: dict[str, list[float]] = {by: [] for by in writes}
        try:
            await broker.ensure_stream(spec)
            for _ in range(BARE_APPENDS):
                for by, write in writes.items():
                    begun = time.perf_counter()
                    await write(f"bare.{uuid.uuid4().hex}", bytes(200))
                    took[by].append((time.perf_counter() - begun) * 1000)
        finally:
            await broker.close()
            await client.close()
        return {by: statistics.median(each) for by, each in took.items()}


class UnsyncedIronflow(Ironflow):
    """Ironflow on a server as it comes, which syncs every two minutes: no peer's durability."""

    name = "Ironflow, unsynced"

    def __init__(self) -> None:
        super().__init__("2m")
