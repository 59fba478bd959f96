"""A run with many steps that is woken again and again: what a wake-up costs, by how many steps stand behind it."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from pathlib import Path

from ironflow.broker.embedded import EmbeddedServer
from ironflow.limits import DEFAULT_LIMITS
from ironflow.names import run_id, start_event_id
from tests.bench import arguments, ironflow_app, machine
from tests.bench.stretched import Stretched
from tests.bench.turns import Rounds, note, table

WAKES = 100
STEPS = (10, 1_000, DEFAULT_LIMITS.steps_per_run - WAKES - 1)
"""The waits count as steps, too: the last one is as long as a run may be."""
LOOK_AGAIN_SECONDS = 0.005


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench woken")
    parser.add_argument("--steps", default=",".join(map(str, STEPS)), help="one run each")
    parser.add_argument("--wakes", type=int, default=WAKES, help=f"of each run (default: {WAKES})")
    parser.add_argument("--quick", action="store_true", help="up to 1,000 steps, woken 20 times")
    found = parser.parse_args(arguments.options())
    found.sizes = [int(steps) for steps in found.steps.split(",")]
    if found.quick:
        found.sizes, found.wakes = [10, 1_000], 20
    return found


async def main() -> int:
    """Print what a wake-up takes, and the first one after the worker was killed."""
    wanted = options()
    load = machine.load()
    columns: dict[str, Rounds] = {}
    with tempfile.TemporaryDirectory(prefix="ironflow-woken-") as folder, EmbeddedServer(Path(folder) / "n") as server:
        system = Stretched(server, [server.pid], Path(folder) / "logs")
        try:
            await system.start(1)
            for steps in wanted.sizes:
                columns[f"{steps:,} steps"] = await _woken(system, steps, wanted.wakes)
        finally:
            await system.stop()
    first, *others = columns
    print(table(columns, dict.fromkeys(others, columns[first]), f"(times that of {first})"))
    print(f"{wanted.wakes} wake-ups of each run; load average {load}, then {machine.load()}")
    return 0


async def _woken(system: Stretched, steps: int, wakes: int) -> Rounds:
    """Run one to its last wait; return what its wake-ups took."""
    key = uuid.uuid4().hex
    began = time.monotonic()
    run = asyncio.ensure_future(system.run("woken", key, [key, steps, wakes + 1]))
    await _waits(system, key, 0, run)
    figures: Rounds = {"first pass, ms a step": [(time.monotonic() - began) * 1000 / steps]}
    before = machine.read(system.parts(), system.folder)
    for number in range(wakes):
        note(figures, {"wake-up, ms": await _wake(system, key, number, run)})
    after = machine.read(system.parts(), system.folder)
    for part in ("server", "engine", "worker"):
        note(figures, {f"CPU of {part}, ms a wake-up": (after.cpu[part] - before.cpu[part]) * 1000 / wakes})
    note(figures, {"slowest wake-up, ms": max(figures["wake-up, ms"])})
    note(figures, {"MiB worker": machine.memory(system.parts())["worker"][0]})
    await system.kill_worker()
    system.restart_worker()
    await system.is_ready()
    note(figures, {"wake-up by a new worker, ms": await _end(system, key, wakes, run)})
    return {name: [statistics.median(values)] for name, values in figures.items()}


async def _wake(system: Stretched, key: str, number: int, run: asyncio.Future[object]) -> float:
    """Return the milliseconds from an event to the wait behind it."""
    sent = time.perf_counter()
    await system.send(f"{key}-{number}")
    await _waits(system, key, number + 1, run)
    return (time.perf_counter() - sent) * 1000


async def _end(system: Stretched, key: str, number: int, run: asyncio.Future[object]) -> float:
    sent = time.perf_counter()
    await system.send(f"{key}-{number}")
    await run
    return (time.perf_counter() - sent) * 1000


async def _waits(system: Stretched, key: str, number: int, run: asyncio.Future[object]) -> None:
    """Wait until a run has recorded that it waits for its next event; raise what it has failed with, if it has."""
    wait = system.names.journal_wait(
        ironflow_app.QUEUE, run_id("woken", start_event_id("woken", key)), f"event-{number}"
    )
    while await system.client.broker.last(system.names.all_shards[0].journal, wait) is None:
        if run.done():
            await run
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
