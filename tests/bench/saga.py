"""Every way in which a saga of five steps can break, on a real server with worker processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec
from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from ironflow.client import Client
from ironflow.messages import RunView, StepView
from tests.support.apps.sagas import Plan
from tests.support.processes import Cluster, Process, cluster, functions_are_known

STEPS = range(1, 6)
AT_A_TIME = 8
WORKERS = 3
"""Fewer than sagas, so that a worker is killed in the middle of other undos too; and so many that most sagas do not
lose one worker after the other, since each of these is left alone for longer."""


def plans() -> list[Plan]:
    """Return each combination of a step that fails, an undo that fails, and an undo that kills its worker."""
    return [
        Plan(failing_step, failing_undo, killed_undo)
        for failing_step in STEPS
        for failing_undo, killed_undo in itertools.product(range(failing_step), repeat=2)
    ]


async def keep_alive(workers: Sequence[Process]) -> None:
    """Start a worker again whenever it has been killed."""
    while True:
        await asyncio.sleep(0.02)
        for worker in workers:
            if worker.is_dead:
                worker.start()


@contextlib.asynccontextmanager
async def running(folder: Path, url: str) -> AsyncGenerator[tuple[Client, Cluster]]:
    """Run an engine, and workers that are started again whenever they are killed."""
    with cluster(url, "saga", folder) as processes:
        processes.engine("--lease", "0.5")  # each kill costs one
        workers = [processes.worker("sagas.py") for _ in range(WORKERS)]
        guard = asyncio.create_task(keep_alive(workers))
        try:
            async with processes.client() as client:
                await functions_are_known(client, "saga")
                yield client, processes
        finally:
            guard.cancel()
            await asyncio.gather(guard, return_exceptions=True)


def faults(plan: Plan, run: str, view: RunView, steps: list[StepView], told: list[str]) -> list[str]:
    """Return what a saga did that it must not have done."""
    undoable = [*reversed(range(1, plan.failing_step))]
    failed = plan.failing_undo if plan.failing_undo in undoable else 0
    begun = [int(line.split()[2]) for line in told if line.startswith(f"{run} undo ")]
    undone = {step.name: step.status for step in steps if step.kind == "compensate"}
    expected = {f"compensate:step-{number}": "failed" if number == failed else "completed" for number in undoable}
    checks = {
        "it did not fail": view.status == "failed",
        "it names another step": view.error is not None and view.error.step == f"step-{plan.failing_step}",
        "the order is not reversed": [number for number, _ in itertools.groupby(begun)] == undoable,
        "another undo failed, or none was recorded": undone == expected and [*undone] == [*expected],
        "it does not say how the undos went": view.compensation
        == (None if not undoable else "failed" if failed else "completed"),
    }
    return [what for what, holds in checks.items() if not holds]


async def break_all(
    client: Client, processes: Cluster, chosen: Sequence[Plan]
) -> tuple[int, Counter[str], int, list[str]]:
    """Break sagas, some at a time; return how many, their ends, the kills, and the faults."""
    ends: Counter[str] = Counter()
    found: list[str] = []
    killed: list[Plan] = []
    slots = asyncio.Semaphore(AT_A_TIME)

    async def break_one(plan: Plan) -> None:
        async with slots:
            run = await client.start("saga", msgspec.to_builtins(plan))
            view = await run.wait("120s")
        told = processes.witness.read_text().splitlines()
        if told.count(f"{run.id} undo {plan.killed_undo}") > 1:
            killed.append(plan)
        ends[f"{view.status}, compensation {view.compensation}"] += 1
        found.extend(f"{plan}: {fault}" for fault in faults(plan, run.id, view, await run.steps(), told))

    await asyncio.gather(*map(break_one, chosen))
    return len(chosen), ends, len(killed), found


async def main(every: int = 1) -> int:
    """Break sagas in every way, or in each *every*-th, and print what came of it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "nats") as server:
        async with running(Path(folder), server.url) as (client, processes):
            count, ends, kills, found = await break_all(client, processes, plans()[::every])
    rows = [*ends.items(), ("all sagas", count), ("undos whose worker was killed", kills), ("faults", len(found))]
    print(tabulate([*rows, ("seconds", f"{time.monotonic() - began:.0f}")], headers=["saga", "count"]))
    print(*found, sep="\n")
    killed = sum(plan.killed_undo > 0 for plan in plans()[::every])
    complete = kills == killed and set(ends) == {
        f"failed, compensation {way}" for way in ("None", "completed", "failed")
    }
    return 0 if complete and not found else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[-1]) if "--every" in sys.argv else 1)))
