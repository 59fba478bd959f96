"""What Prometheus gets while many runs are at work: all that is asked for, and of as many functions as many series."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

import msgspec
from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from ironflow.client import Client
from tests.support import eventually
from tests.support.apps.many import COUNT
from tests.support.processes import cluster, functions_are_known
from tests.support.queries import metrics_asked_for, unknown_to
from tests.support.scrapes import SERVED, health_port, scrape, series, value

RUNS = 10_000
_AT_A_TIME = 200
_SCRAPE_SECONDS = 1.0

Row = tuple[int, int, int, float]
"""Runs that have ended, series of the engine and of the worker, and how long both scrapes took, in milliseconds."""


class Figures(msgspec.Struct):
    """What was scraped.

    Attributes:
        rows: after each count of runs.
        unknown: metrics that alerts or the dashboard ask for, and a scrape under load did not have.
        scrapes: how many scrapes there were under load, each of both processes.
        busiest: the most passes that ran in any of them.

    """

    rows: list[Row] = []
    unknown: set[str] = set()
    scrapes: int = 0
    busiest: float = 0


async def measure(*counts: int) -> Figures:
    """Have so many runs end, spread over all functions; scrape both processes meanwhile, and after each count."""
    figures = Figures()
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
                load = asyncio.create_task(_load(client, range(done, count), ports[0]))
                await _watch(load, ports, figures)
                done = count
                figures.rows.append(await _scraped(count, ports))
    return figures


async def _load(client: Client, numbers: range, engine: int) -> None:
    """Have runs begin and end."""

    async def ended() -> None:
        assert value(await scrape(engine), "ironflow_engine_runs_ended_total") == numbers.stop

    for begin in range(numbers.start, numbers.stop, _AT_A_TIME):
        await _start(client, range(begin, min(begin + _AT_A_TIME, numbers.stop)))
    await eventually(ended, within=300.0)


async def _start(client: Client, numbers: range) -> None:
    await asyncio.gather(*(client.start(f"many-{number % COUNT}", number // COUNT) for number in numbers))


async def _watch(load: asyncio.Task[None], ports: list[int], figures: Figures) -> None:
    """Scrape as long as there is load, as often as a Prometheus in a hurry."""
    while not load.done():
        scrapes = [await scrape(port) for port in ports]
        figures.scrapes += 1
        figures.busiest = max(figures.busiest, value(scrapes[1], "ironflow_worker_running"))
        figures.unknown |= unknown_to(*scrapes)
        await asyncio.wait([load], timeout=_SCRAPE_SECONDS)
    await load


async def _scraped(count: int, ports: list[int]) -> Row:
    began = time.monotonic()
    engine, worker = [await scrape(port) for port in ports]
    return count, series(engine), series(worker), (time.monotonic() - began) * 1000


async def main() -> int:
    """Print the series after some and after all runs; fail where runs made any, or a metric is missing."""
    runs = int(os.environ.get("RUNS", RUNS))
    figures = await measure(runs // 10, runs)
    rows = figures.rows
    print(tabulate(rows, headers=("runs", "series of the engine", "of the worker", "ms for both"), floatfmt=".1f"))
    print(f"{figures.scrapes} scrapes of both under load, with up to {figures.busiest:g} passes at work")
    missing = ", ".join(sorted(figures.unknown)) or "none"
    print(f"of {len(metrics_asked_for())} metrics that alerts and dashboard ask for, a scrape missed: {missing}")
    return 0 if rows[0][1:3] == rows[-1][1:3] and not figures.unknown and figures.busiest else 1
