"""What a batch costs beside the same messages sent singly: the curve that decides when a batch is made."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, NatsBroker, connect
from ironflow.broker.nats.batch_costs import BatchCosts
from ironflow.broker.protocol import Publication, Stored, StreamSpec
from tests.bench import machine
from tests.support.nats_cluster import nats_cluster

SIZES = (1, 4, 8, 16, 24, 32, 48, 64, 128, 256, 512)
MESSAGES = 2048
"""In each cell of the table; a process's CPU time is known to 10 ms only."""
FEWEST_GROUPS = 16
PAYLOAD = os.urandom(100).hex().encode()
NODES = (1, 3)
SYNC_INTERVALS = ("always", "2m")


class Cell(msgspec.Struct, frozen=True):
    """What groups of one size take, sent in one of the two ways.

    Attributes:
        ms: the median from the first message to the last acknowledgement.
        server_cpu_ms: of all servers, for each group.
        client_cpu_ms: of this process, for each group.

    """

    ms: float
    server_cpu_ms: float
    client_cpu_ms: float


class _Always(BatchCosts):
    """Decides the same each time."""

    def __init__(self, smallest: int) -> None:
        super().__init__()
        self._smallest = smallest

    def next_smallest_batch(self) -> int:
        return self._smallest


async def main() -> int:
    """Print a table for one server and for three that keep everything, synced always and as servers come."""
    for nodes, sync_interval in itertools.product(NODES, SYNC_INTERVALS):
        with (
            tempfile.TemporaryDirectory() as folder,
            _servers(nodes, Path(folder), sync_interval) as servers,
        ):
            broker = await connect(ConnectionSettings(urls=tuple(server.url for server in servers)))
            try:
                await broker.ensure_stream(
                    StreamSpec(
                        name="batch",
                        subjects=("batch.>",),
                        one_per_subject="keep_first",
                        atomic_batches=True,
                        replicas=nodes,
                    )
                )
                rows = await _measure(broker, [server.pid for server in servers])
                print(f"\nservers: {nodes}, sync_interval: {sync_interval}\n\n{_table(rows)}", flush=True)
            finally:
                await broker.close()
    return 0


@contextlib.contextmanager
def _servers(nodes: int, folder: Path, sync_interval: str) -> Iterator[Sequence[EmbeddedServer]]:
    """Have one server, or three that are a cluster."""
    if nodes == 1:
        with EmbeddedServer(folder / "nats", sync_interval=sync_interval) as server:
            yield [server]
    else:
        with nats_cluster(folder, sync_interval=sync_interval) as cluster:
            yield cluster.nodes


async def _measure(broker: NatsBroker, servers: Sequence[int]) -> list[tuple[int, Cell, Cell]]:
    """Return the cells for each size: singly, and as a batch."""
    ways = (_Always(max(SIZES) + 1), _Always(1))
    await _cell(broker, servers, 64, ways[0])  # what is done at the first time only
    return [
        (size, await _cell(broker, servers, size, ways[0]), await _cell(broker, servers, size, ways[1]))
        for size in SIZES
    ]


async def _cell(broker: NatsBroker, servers: Sequence[int], size: int, way: BatchCosts) -> Cell:
    broker._publisher._costs = way  # noqa: SLF001 - what is measured is the decision that it makes
    groups = max(FEWEST_GROUPS, MESSAGES // size)
    took: list[float] = []
    servers_before, client_before = _cpu_seconds(servers), time.process_time()
    for _ in range(groups):
        publications = [Publication(subject=f"batch.x.{uuid.uuid4().hex}", payload=PAYLOAD) for _ in range(size)]
        begun = time.perf_counter()
        answers = await broker.publish_all(publications)
        took.append((time.perf_counter() - begun) * 1000)
        assert all(isinstance(answer, Stored) for answer in answers)
    return Cell(
        statistics.median(took),
        (_cpu_seconds(servers) - servers_before) * 1000 / groups,
        (time.process_time() - client_before) * 1000 / groups,
    )


def _cpu_seconds(servers: Sequence[int]) -> float:
    return sum(map(machine.cpu_seconds, servers))


def _table(rows: Sequence[tuple[int, Cell, Cell]]) -> str:
    headers = ("messages", "singly ms", "batch ms", "server CPU ms", "batch", "client CPU ms", "batch")
    cells = [
        (
            size,
            singly.ms,
            batch.ms,
            singly.server_cpu_ms,
            batch.server_cpu_ms,
            singly.client_cpu_ms,
            batch.client_cpu_ms,
        )
        for size, singly, batch in rows
    ]
    return tabulate(cells, headers=headers, tablefmt="github", floatfmt=".2f")
