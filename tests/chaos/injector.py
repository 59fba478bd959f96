"""Makes a timeline's faults happen."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator
from http import HTTPStatus

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.protocol import BrokerError, Publication, StorageFull, StreamSpec
from ironflow.names import bucket_stream
from tests.chaos.cluster import ChaosCluster, Child
from tests.chaos.faulty_broker import NO_FAULTS, ambiguous
from tests.chaos.history import Submitted
from tests.chaos.poison import poison
from tests.chaos.proxy import MODES
from tests.chaos.timeline import Fault, Injected, Timeline
from tests.support.disks import fill_disk

FILLER = "CHAOS_FILLER"
FILLER_BYTES = 256 * 1024
FILLER_TRIES = 5
LOOK_SECONDS = 0.1
UNREADY_SECONDS = 10.0


class Injector:
    """Does to a cluster what a timeline says.

    Args:
        cluster: the victim.

    Attributes:
        injected: what was done, when.
        submitted: what was published on the way.
        unready_seconds: how long each process took to say that it cannot store anything.

    """

    def __init__(self, cluster: ChaosCluster) -> None:
        self.injected: list[Injected] = []
        self.submitted: list[Submitted] = []
        self.unready_seconds: list[float] = []
        self._cluster = cluster
        # What is down already cannot be killed, so faults of one victim take turns.
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self, timeline: Timeline) -> None:
        """Make everything happen in its time; return when all is over."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in timeline:
                group.create_task(self._at(began + fault.at, fault))

    async def _at(self, moment: float, fault: Fault) -> None:
        await asyncio.sleep(moment - time.monotonic())
        child = self._victim(fault)
        async with self._turns[fault.kind.partition("_")[2] + str(fault.victim)]:
            pids = (child.pid,) if child is not None else ()
            wall_ms = time.time() * 1000
            async with self._effect(fault, child):
                if fault.kind == "storage_full":
                    wall_ms = time.time() * 1000  # it took a while until it was
                await asyncio.sleep(fault.seconds)
            self.injected.append(Injected(fault, wall_ms, time.time() * 1000, pids))

    def _victim(self, fault: Fault) -> Child | None:
        if fault.kind.endswith("engine"):
            return self._cluster.engines[fault.victim % len(self._cluster.engines)]
        if fault.kind.endswith("worker"):
            return self._cluster.workers[fault.victim % len(self._cluster.workers)]
        return None

    @contextlib.asynccontextmanager
    async def _effect(self, fault: Fault, child: Child | None) -> AsyncGenerator[None]:
        """Have something wrong inside of the block."""
        if child is not None:
            with _child_effect(fault, child):
                yield
            return
        match fault.kind:
            case "kill_server":
                async with _down(self._cluster.servers[0]):
                    yield
            case "kill_leader":
                async with _down(await self._leader(fault.victim)):
                    yield
            case "ambiguous":
                self._cluster.switch.set(ambiguous(fault.share))
                yield
                self._cluster.switch.set(NO_FAULTS)
            case "storage_full":
                await self._fill()
                watching = asyncio.create_task(self._until_unready())
                yield
                self.unready_seconds += await watching
                await self._cluster.broker.purge(FILLER, f"{FILLER}.>")
            case "disk_full":
                filler = self._cluster.servers[0].folder / "filler"
                fill_disk(filler)
                yield
                filler.unlink()
                # It takes nothing more until it is restarted, which is why its own limit should be reached before.
                async with _down(self._cluster.servers[0]):
                    pass
            case "poison":
                self.submitted += await poison(self._cluster.client, len(self.injected))
                yield
            case _:
                await self._purge()
                yield

    async def _leader(self, number: int) -> EmbeddedServer:
        """Return the server that leads the stream of that number."""
        replicated, names = self._cluster.replicated, self._cluster.names
        assert replicated is not None
        streams = (names.all_shards[0].journal, names.all_shards[0].tasks, bucket_stream(names.runs_bucket))
        return await replicated.leader_of(streams[number % len(streams)])

    async def _fill(self) -> None:
        broker = self._cluster.broker
        await broker.ensure_stream(StreamSpec(name=FILLER, subjects=(f"{FILLER}.>",)))
        refusals = 0
        # A message that is too large leaves room for a smaller one.
        size = FILLER_BYTES
        while refusals < FILLER_TRIES:
            try:
                await broker.publish(Publication(subject=f"{FILLER}.x", payload=bytes(size)))
            except StorageFull:
                refusals += 1
                size = max(1, size // 16)
            except BrokerError:
                await asyncio.sleep(0.1)

    async def _until_unready(self) -> list[float]:
        """Return how long each process takes to say that it is not ready; endless for one that does not."""
        began = time.monotonic()

        async def until_unready(child: Child) -> float:
            while time.monotonic() < began + UNREADY_SECONDS:
                status, _ = await asyncio.to_thread(child.ask, "readyz")
                if status == HTTPStatus.SERVICE_UNAVAILABLE:
                    return time.monotonic() - began
                await asyncio.sleep(LOOK_SECONDS)
            return float("inf")

        return list(await asyncio.gather(*map(until_unready, self._cluster.children)))

    async def _purge(self) -> None:
        """Delete all task and timer messages, as an operator's mistake would."""
        for shard in self._cluster.names.all_shards:
            await self._cluster.broker.purge(shard.tasks, shard.every_task)
            for wanted in (shard.every_timer, shard.every_fired):
                await self._cluster.broker.purge(shard.timers, wanted)


@contextlib.asynccontextmanager
async def _down(server: EmbeddedServer) -> AsyncGenerator[None]:
    await asyncio.to_thread(server.kill)
    yield
    await asyncio.to_thread(server.restart)


@contextlib.contextmanager
def _child_effect(fault: Fault, child: Child) -> Generator[None]:
    match fault.kind:
        case "kill_worker" | "kill_engine":
            child.kill()
            yield
            child.start()
        case "stop_worker" | "stop_engine":
            child.signal(signal.SIGSTOP)
            yield
            child.signal(signal.SIGCONT)
        case "reset_worker" | "reset_engine":
            for proxy in child.proxies:
                proxy.reset()
            yield
        case _:
            child.treat(MODES[fault.network])
            yield
            child.treat(MODES["pass"])
