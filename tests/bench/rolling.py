"""All engines and workers are replaced, three times over, while runs are at work."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from ironflow.client import Client
from tests.support.processes import Cluster, cluster, functions_are_known, workers_answer
from tests.support.rollout import Exit, Pods, drain_seconds, grace_seconds
from tests.support.scrapes import SERVED

ENGINE, WORKER = "base/engine.yaml", "worker/worker.yaml"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is replaced, and what goes on meanwhile.

    Attributes:
        rounds: how often everything is replaced.
        engines: how many there are of each.
        workers: how many there are of each.
        each_second: how many runs of some of everything begin in a second.
        long_runs: how many runs are at work at a time that are longer than a drain.
        long_bodies: how many bodies such a run does, one after the other.
        long_seconds: how long each of them takes.
        drain: how long passes may take to end, in seconds; None for what the manifest says.

    """

    rounds: int = 3
    engines: int = 2
    workers: int = 2
    each_second: float = 8.0
    long_runs: int = 6
    long_bodies: int = 25
    long_seconds: float = 2.0
    drain: float | None = None


class Figures(msgspec.Struct):
    """What came of it.

    Attributes:
        exits: how each process that was replaced has ended.
        ends: how the runs ended, and how many of them.
        bodies: how often each body has begun.
        seconds: how long each run of some of everything took.
        taken_for_dead: how often an engine took a worker for dead; each has left in good order.

    """

    exits: list[Exit]
    ends: Counter[str]
    bodies: Counter[str]
    seconds: list[float]
    taken_for_dead: int

    def faults(self) -> list[str]:
        """Return what must not have happened."""
        twice = [body for body, count in self.bodies.items() if count > 1]
        bad = [each for each in self.exits if each.code != 0]
        return [
            *(f"{count} runs ended as {end}" for end, count in self.ends.items() if end != "completed"),
            *(["a worker that was told to stop was taken for dead"] * self.taken_for_dead),
            *(f"body {body} began {self.bodies[body]} times" for body in twice),
            *(f"{each.kind} ended with {each.code} after {each.seconds:.1f} s" for each in bad),
        ]


class Load:
    """Runs that begin all the time, until it is told to stop.

    Args:
        client: starts them.
        plan: how many.

    """

    def __init__(self, client: Client, plan: Plan) -> None:
        self._client = client
        self._plan = plan
        self._stopping = asyncio.Event()
        self._runs: set[asyncio.Task[None]] = set()
        self.ends: Counter[str] = Counter()
        self.seconds: list[float] = []

    async def run(self) -> None:
        """Begin runs until :meth:`stop`, and wait until all have ended."""
        plan = self._plan
        long_ones = [asyncio.create_task(self._one_after_the_other()) for _ in range(plan.long_runs)]
        while not self._stopping.is_set():
            task = asyncio.create_task(self._mixed(len(self._runs)))
            self._runs.add(task)
            # The pace of the load: nothing is waited for.
            await asyncio.wait([asyncio.create_task(self._stopping.wait())], timeout=1 / plan.each_second)
        await asyncio.gather(*self._runs, *long_ones)

    def stop(self) -> None:
        """Begin no more."""
        self._stopping.set()

    async def _mixed(self, number: int) -> None:
        began = time.monotonic()
        await self._to_its_end("mixed", {"seconds": 0.05 * (number % 8)})
        self.seconds.append(time.monotonic() - began)

    async def _one_after_the_other(self) -> None:
        while not self._stopping.is_set():
            await self._to_its_end("long", {"bodies": self._plan.long_bodies, "seconds": self._plan.long_seconds})

    async def _to_its_end(self, function: str, data: object) -> None:
        run = await self._client.start(function, data)
        self.ends[(await run.wait("180s")).status] += 1


async def roll(plan: Plan, url: str, namespace: str, folder: Path) -> Figures:
    """Replace everything as often as planned, under load, and wait until all runs have ended."""
    with cluster(url, namespace, folder) as processes:
        engines, workers = deployments(processes, plan)
        await engines.scale(plan.engines)
        await workers.scale(plan.workers)
        async with processes.client() as client:
            await functions_are_known(client, "mixed", "long", "part")
            await workers_answer(client, plan.workers)
            load = Load(client, plan)
            under_way = asyncio.create_task(load.run())
            for _ in range(plan.rounds):
                await asyncio.gather(engines.roll(), workers.roll())
            load.stop()
            await under_way
        deaths = processes.logs().count("a worker has died")
        return Figures(engines.exits + workers.exits, load.ends, processes.witnessed(), sorted(load.seconds), deaths)


def deployments(processes: Cluster, plan: Plan) -> tuple[Pods, Pods]:
    """Return the engines and the workers, with the times of the manifests."""
    drain = drain_seconds(WORKER) if plan.drain is None else plan.drain
    # What the drain does not take of the grace is the same, however long the drain.
    worker_grace = grace_seconds(WORKER) - drain_seconds(WORKER) + drain
    return (
        Pods("engine", grace_seconds(ENGINE), lambda: processes.engine(*SERVED)),
        Pods(
            "worker", worker_grace, lambda: processes.worker("deployed.py", "--drain-timeout", f"{drain:g}s", *SERVED)
        ),
    )


def shown(figures: Figures, plan: Plan) -> str:
    """Return the figures as a table."""
    return tabulate(
        [
            ("rounds", plan.rounds),
            *_exits("engine", figures.exits, grace_seconds(ENGINE)),
            *_exits("worker", figures.exits, grace_seconds(WORKER)),
            *((f"runs {end}", count) for end, count in figures.ends.items()),
            ("runs not completed", figures.ends.total() - figures.ends["completed"]),
            ("bodies begun", figures.bodies.total()),
            ("bodies begun twice", sum(count > 1 for count in figures.bodies.values())),
            ("workers taken for dead", figures.taken_for_dead),
            ("mixed runs: p50, p99, most", ", ".join(f"{each:.1f} s" for each in _quantiles(figures.seconds))),
        ]
    )


def _exits(kind: str, exits: Sequence[Exit], grace: float) -> list[tuple[str, object]]:
    seconds = [each.seconds for each in exits if each.kind == kind]
    codes = Counter(str(each.code) for each in exits if each.kind == kind)
    return [
        (f"{kind}s replaced", len(seconds)),
        (f"{kind}s: exit codes", ", ".join(f"{code}: {count}" for code, count in codes.items())),
        (f"{kind}s: longest exit", f"{max(seconds):.1f} s of {grace:g} s"),
    ]


def _quantiles(ordered: Sequence[float]) -> list[float]:
    return [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99, 1.0)]


async def main() -> int:
    """Print how it went; fail where a run, a body or an exit has suffered from it."""
    plan = Plan(rounds=int(os.environ.get("ROUNDS", "3")))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "nats") as server:
        figures = await roll(plan, server.url, "rolling", Path(folder))
    print(shown(figures, plan))
    faults = figures.faults()
    print(*faults[:20], f"{len(faults)} faults; {time.monotonic() - began:.0f} s in all", sep="\n")
    return 1 if faults else 0
