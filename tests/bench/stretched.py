"""Ironflow under measurement on servers that are given: any number of engines and workers, any data, any replicas."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.nats.settings import split_urls
from ironflow.broker.protocol import Publication, StreamSpec
from ironflow.client import Client
from ironflow.names import Names
from tests.bench import ironflow_app
from tests.bench.ironflow_system import BARE_APPENDS, CONCURRENCY, Ironflow
from tests.support.nats_cluster import NatsCluster
from tests.support.processes import Cluster, Process, cluster, functions_are_known, workers_answer

NAMESPACE = "bench"
START_SECONDS = 600.0
"""An engine that reads a million runs answers late."""


class Servers(Protocol):
    """What is known of one server, or of a cluster's first."""

    @property
    def url(self) -> str:
        """What clients connect to."""
        ...

    @property
    def monitor_url(self) -> str:
        """Where it tells about itself."""
        ...


class Stretched(Ironflow):
    """Implements :class:`tests.bench.system.System` on servers of somebody else.

    Args:
        server: where to connect, and what to ask.
        pids: the processes of all servers.
        folder: for logs and for the file of lists; on the disk of the servers' data.
        engines: how many there are.
        replicas: on how many servers each stream is kept.
        shards: into how many the namespace is divided.
        engine_options: more of them.

    """

    name = "Ironflow"

    def __init__(
        self,
        server: Servers,
        pids: Sequence[int],
        folder: Path,
        *,
        engines: int = 1,
        replicas: int = 1,
        shards: int = 1,
        engine_options: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.folder = folder
        self.names = Names(NAMESPACE, shards)
        self._at, self._pids, self._replicas = server, list(pids), replicas
        self._engines = engines
        self._engine_options = ("--replicas", str(replicas), *engine_options)
        self._processes: Cluster | None = None
        self._running: list[Process] = []

    @property
    def client(self) -> Client:
        """The client, once started."""
        assert self._client is not None
        return self._client

    async def start(self, workers: int) -> None:
        """Start engines and workers; the servers run."""
        self.folder.mkdir(exist_ok=True)
        self._processes = self._stack.enter_context(
            cluster(self._at.url, NAMESPACE, self.folder, shards=self.names.shards)
        )
        self._running = [self._processes.engine(*self._engine_options) for _ in range(self._engines)]
        app, options = ironflow_app.__file__, ("--concurrency", str(CONCURRENCY), "--log-level", "error")
        self._workers = [self._processes.worker(app, *options, queue=ironflow_app.QUEUE) for _ in range(workers)]
        self._client = await self._stack.enter_async_context(self._processes.client())
        await self.is_ready()

    async def is_ready(self) -> None:
        """Wait until engines and workers answer."""
        await functions_are_known(self.client, "three", "slow", within=START_SECONDS)
        await workers_answer(self.client, len(self._workers), within=START_SECONDS)

    def restart_worker(self) -> None:
        """Start the first worker again, after it was killed."""
        self._workers[0].start()

    async def stop(self) -> None:
        """End engines and workers."""
        await self._stack.aclose()
        self._stack = contextlib.AsyncExitStack()

    @property
    def engine(self) -> Process:
        """The first engine."""
        return self._running[0]

    def parts(self) -> Mapping[str, list[int]]:
        """Return the process ids."""
        return {
            "server": self._pids,
            "engine": [engine.pid for engine in self._running],
            "worker": [worker.pid for worker in self._workers],
        }

    def counters(self) -> Mapping[str, float]:
        """Count the messages that JetStream has stored; of replicas once."""
        with urllib.request.urlopen(f"{self._at.monitor_url}/jsz?streams=1") as answer:  # noqa: S310 - it is ours
            accounts: list[dict[str, Any]] = json.load(answer)["account_details"]
        streams = [stream for account in accounts for stream in account["stream_detail"]]
        return {"messages": sum(stream["state"]["last_seq"] for stream in streams)}

    async def bare_writes_ms(self) -> Mapping[str, float]:
        """Return the median round trip of an append and nothing else, one after another."""
        spec = StreamSpec(name="bare", subjects=("bare.>",), one_per_subject="keep_first", replicas=self._replicas)
        broker = await connect(ConnectionSettings(urls=split_urls(self._at.url)))
        try:
            await broker.ensure_stream(spec)
            took: list[float] = []
            for _ in range(BARE_APPENDS):
                begun = time.perf_counter()
                await broker.publish(Publication(subject=f"bare.{uuid.uuid4().hex}", payload=bytes(200)))
                took.append((time.perf_counter() - begun) * 1000)
            return {"": statistics.median(took)}
        finally:
            await broker.close()


class ClusterServers:
    """Three servers as one.

    Args:
        servers: they.

    """

    def __init__(self, servers: NatsCluster) -> None:
        self._servers = servers

    @property
    def url(self) -> str:
        """All of them."""
        return self._servers.url

    @property
    def monitor_url(self) -> str:
        """Of the first."""
        return self._servers.nodes[0].monitor_url

    @property
    def pids(self) -> list[int]:
        """All processes."""
        return [node.pid for node in self._servers.nodes]
