"""The processes of the harness: a server, engines and workers, each engine and worker behind its own proxy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.protocol import Broker
from ironflow.client import Client
from ironflow.names import Names
from tests.chaos.faulty_broker import NO_FAULTS, FaultSwitch
from tests.chaos.proxy import MODES, Proxy, ProxyMode
from tests.chaos.workflow import FUNCTION, QUEUE
from tests.support.ports import free_port
from tests.support.processes import functions_are_known, workers_answer
from tests.support.replicated import ReplicatedServers

LOOK_SECONDS = 0.1
START_SECONDS = 60.0
"""Seven processes start at once, on machines that may have better things to do."""


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster is made of.

    Attributes:
        slots: how many passes each worker executes at a time.
        lease: seconds that a worker keeps a task without renewing it.
        servers: how many nats-servers, 1 or 3; each stream is kept on all of them.
        stored_bytes: how much the server may store; default what the disk has room for.
        seed: makes what goes wrong inside of processes.
        shards: into how many the namespace is divided.
        crash: like "5:after": each process ends at that durable write of its first life.

    """

    engines: int = 2
    workers: int = 4
    slots: int = 8
    lease: float = 1.0
    servers: int = 1
    stored_bytes: int | None = None
    seed: int = 0
    shards: int = 1
    crash: str = ""


class Child:
    """An engine or a worker, which is started again whenever it ends, as a service manager does.

    Args:
        name: names its log.
        arguments: what tests.chaos.child is started with.
        environment: added to this process's.
        proxies: where it finds NATS, one for each server.
        folder: for its log.
        crash: the durable write of its first life at which it ends; "" for none.
        health_port: where it answers probes and scrapes.

    Attributes:
        name: names its log.
        proxies: where it finds NATS.
        held: it is meant to be down.
        exits: the exit codes with which it ended by itself.

    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: dict[str, str],
        proxies: list[Proxy],
        folder: Path,
        crash: str,
        health_port: int,
    ) -> None:
        self.name = name
        self._health_port = health_port
        self.proxies = proxies
        self.held = False
        self.exits: list[int] = []
        self._crash = crash
        self._arguments = arguments
        self._environment = environment
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that runs now, or ran last."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it."""
        self.held = False
        crash = {"CHAOS_CRASH": self._crash} if self._crash else {}
        self._crash = ""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.child", *self._arguments, "--health-port", str(self._health_port)],
                env={**os.environ, **self._environment, **crash},
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End it as a crash would; it stays down until it is started."""
        self.held = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def ask(self, page: str) -> tuple[int, str]:
        """Return the status and the text of a page that it serves; 0 where it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health_port}/{page}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, ""
        except OSError:
            return 0, ""

    def treat(self, mode: ProxyMode) -> None:
        """Have all bytes between it and NATS treated so from now on."""
        for proxy in self.proxies:
            proxy.set(mode)

    def look(self) -> None:
        """Start it again where it ended by itself."""
        if self._process is not None and not self.held and (code := self._process.poll()) is not None:
            self.exits.append(code)
            self.start()


class ChaosCluster:
    """A server, engines and workers.

    Args:
        settings: how many of them.
        folder: for data, logs and the witness.

    Attributes:
        broker: a connection of the harness, to the server itself.

    """

    def __init__(self, settings: ClusterSettings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.names = Names("chaos", settings.shards)
        self.replicated = ReplicatedServers(folder / "nats") if settings.servers > 1 else None
        self.servers: list[EmbeddedServer] = (
            [EmbeddedServer(folder / "nats", max_file_store_bytes=settings.stored_bytes)]
            if self.replicated is None
            else [*self.replicated.servers]
        )
        self.switch = FaultSwitch(folder / "faults.json")
        self.engines: list[Child] = []
        self.workers: list[Child] = []
        self.broker: Broker
        self.client: Client

    @property
    def children(self) -> list[Child]:
        """Engines and workers."""
        return self.engines + self.workers

    async def start_servers(self, stack: contextlib.AsyncExitStack) -> None:
        """Start all servers and connect to them."""
        await stack.enter_async_context(self.replicated or self.servers[0])
        self.broker = await connect(ConnectionSettings(urls=tuple(server.url for server in self.servers)))
        stack.push_async_callback(self.broker.close)
        self.client = Client(self.broker, self.names)

    async def start_children(self, stack: contextlib.AsyncExitStack) -> None:
        """Start all engines and workers and wait until they are at work."""
        for number in range(self.settings.engines):
            settings = ("--lease", str(self.settings.lease), "--replicas", str(self.settings.servers))
            child = await self._child(stack, f"engine-{number}", "engine", *settings)
            self.engines.append(child)
        for number in range(self.settings.workers):
            options = ("--queue", QUEUE, "--concurrency", str(self.settings.slots))
            child = await self._child(stack, f"worker-{number}", "worker", *options, "tests.chaos.app")
            self.workers.append(child)
        await functions_are_known(self.client, FUNCTION, within=START_SECONDS)
        await workers_answer(self.client, self.settings.workers, within=START_SECONDS)

    async def _child(self, stack: contextlib.AsyncExitStack, name: str, kind: str, *options: str) -> Child:
        ports = [int(server.url.rpartition(":")[2]) for server in self.servers]
        proxies = [await stack.enter_async_context(Proxy(port)) for port in ports]
        environment = {
            "NATS_URL": ",".join(f"nats://127.0.0.1:{proxy.port}" for proxy in proxies),
            "IRONFLOW_NAMESPACE": self.names.namespace,
            "IRONFLOW_SHARDS": str(self.names.shards),
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_SEED": str(self.settings.seed),
        }
        child = Child(name, [kind, *options], environment, proxies, self.folder, self.settings.crash, free_port())
        stack.callback(child.kill)
        child.start()
        return child

    async def watch(self) -> None:
        """Start again, for ever, what has ended by itself."""
        while True:
            for child in self.children:
                child.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def heal(self) -> None:
        """Make everything work again."""
        self.switch.set(NO_FAULTS)
        down = [server for server in self.servers if not server.running]
        await asyncio.gather(*(asyncio.to_thread(server.restart) for server in down))
        for child in self.children:
            child.treat(MODES["pass"])
            child.signal(signal.SIGCONT)
            if child.held:
                child.start()

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over all workers."""
        answers = await asyncio.gather(*(asyncio.to_thread(worker.ask, "metrics") for worker in self.workers))
        lines = [line for _, page in answers for line in page.splitlines() if line.startswith(f"{name} ")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextlib.asynccontextmanager
async def chaos_cluster(settings: ClusterSettings, folder: Path) -> AsyncGenerator[ChaosCluster]:
    """Have a cluster that ends with the block."""
    cluster = ChaosCluster(settings, folder)
    async with contextlib.AsyncExitStack() as stack:
        await cluster.start_servers(stack)
        cluster.switch.set(NO_FAULTS)
        await cluster.start_children(stack)
        watching = asyncio.create_task(cluster.watch())
        try:
            yield cluster
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
