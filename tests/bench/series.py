"""How many series Prometheus gets of many runs: of as many functions, always as many."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from ironflow.client import Client
from tests.support import eventually
from tests.support.apps.many import COUNT
from tests.support.processes import cluster, functions_are_known
from tests.support.scrapes import SERVED, health_port, scrape, series, value

RUNS = 10_000
_AT_A_TIME = 200

Row = tuple[int, int, int, float]
"""Runs that have ended, series of the engine and of the worker, and how long both scrapes took, in milliseconds."""


async def measure(*counts: int) -> list[Row]:
    """Have so many runs end, spread over all functions, and scrape both processes after each count."""
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder) / "nats") as server,
        cluster(server.url, "bench", Path(folder)) as processes,
    ):
        processes_served = (processes.engine(*SERVED), processes.worker("many.py", *SERVED))
        ports = [await health_port(process) for process in processes_served]
        async with processes.client() as client:
            await functions_are_known(client, f"many-{COUNT - 1}")
            done = 0
            for count in counts:
                for begin in range(done, count, _AT_A_TIME):
                    await _start(client, range(begin, min(begin + _AT_A_TIME, count)))
                done = count
                rows.append(await _scraped(count, ports))
    return rows


async def _start(client: Client, numbers: range) -> None:
    await asyncio.gather(*(client.start(f"many-{number % COUNT}", number // COUNT) for number in numbers))


async def _scraped(count: int, ports: list[int]) -> Row:
    async def ended() -> None:
        assert value(await scrape(ports[0]), "ironflow_engine_runs_ended_total") == count

    await eventually(ended, within=300.0)
    began = time.monotonic()
    engine, worker = [await scrape(port) for port in ports]
    return count, series(engine), series(worker), (time.monotonic() - began) * 1000


async def main() -> int:
    """Print the series after some and after all runs; fail where the runs have made any."""
    runs = int(os.environ.get("RUNS", RUNS))
    rows = await measure(runs // 10, runs)
    print(tabulate(rows, headers=("runs", "series of the engine", "of the worker", "ms for both"), floatfmt=".1f"))
    return 0 if rows[0][1:3] == rows[-1][1:3] else 1
