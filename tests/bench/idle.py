"""What an engine and a worker cost that have nothing to do."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from tests.bench import machine
from tests.support.processes import cluster, functions_are_known, workers_answer

SETTLE_SECONDS = 10.0
SECONDS = 60.0


class Idle(msgspec.Struct, frozen=True):
    """One process at rest.

    Attributes:
        cores: the share of one core that it takes.
        switches: how often its threads were given a core, for each second.
        rss: MiB of resident memory.

    """

    name: str
    cores: float
    switches: float
    rss: float


async def main() -> int:
    """Print what each process takes; the exit code tells whether engine and worker together stay within the goal."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder) / "nats") as server,
        cluster(server.url, "bench", Path(folder)) as processes,
    ):
        engine, worker = processes.engine(), processes.worker("flows.py")
        async with processes.client() as client:
            await functions_are_known(client, "sleeper")
            await workers_answer(client, 1)
        await asyncio.sleep(SETTLE_SECONDS)
        found = await _watch({"server": server.pid, "engine": engine.pid, "worker": worker.pid})
    print(_table(found))
    ours = [each for each in found if each.name != "server"]
    return 0 if sum(each.cores for each in ours) <= 0.005 and sum(each.rss for each in ours) <= 120 else 1


async def _watch(pids: dict[str, int]) -> list[Idle]:
    before = {name: (machine.cpu_seconds(pid), machine.switches(pid)) for name, pid in pids.items()}
    await asyncio.sleep(SECONDS)
    return [
        Idle(
            name,
            (machine.cpu_seconds(pid) - before[name][0]) / SECONDS,
            (machine.switches(pid) - before[name][1]) / SECONDS,
            machine.resident(pid),
        )
        for name, pid in pids.items()
    ]


def _table(found: Sequence[Idle]) -> str:
    rows = [(each.name, each.cores * 100, each.switches, each.rss) for each in found]
    return tabulate(rows, headers=("", "% of a core", "switches/s", "MiB RSS"), tablefmt="github", floatfmt=".2f")
