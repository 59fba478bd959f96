"""What waits and sleeps that just stand there cost: events of others, the server's memory, CPU."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from ironflow.names import run_id, start_event_id
from tests.bench import arguments, ironflow_app, machine
from tests.bench.growth import MONTH_MS, Side, fill, idle_cpu
from tests.bench.resting import Planned, sleeper, waiter
from tests.bench.turns import Rounds, by_turns, note, ratio, table
from tests.bench.workloads import percentile

FEW_WAITS = 100
MOST_TIMES = 1.2
MOST_BYTES = 1_500
MOST_IDLE = 1.0
"""Percent of a core more than an empty system takes: what can be told apart here."""
SETTLES_SECONDS = 0.5
FORGETS_SECONDS = 260.0
"""The server keeps for two minutes what it has read of a block of messages, and collects garbage every two minutes."""

Make = Callable[[int, int], Planned]
"""Makes the run of a number, at a time."""


def options(bench: str, count: int, quick: int) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench {bench}")
    parser.add_argument("--count", type=int, default=count, help=f"how many there are (default: {count:,})")
    parser.add_argument("--rounds", type=int, default=5, help="of each system, by turns (default: 5)")
    parser.add_argument("--events", type=int, default=100, help="in a round (default: 100)")
    parser.add_argument("--settle", type=float, default=FORGETS_SECONDS, help="seconds until memory is read again")
    parser.add_argument("--quick", action="store_true", help=f"{quick:,}, small rounds")
    found = parser.parse_args(arguments.options())
    if found.quick:
        found.count, found.rounds, found.events = quick, 2, 30
    return found


async def waits() -> int:
    """Print what an event costs beside few and many waits for events of its name; fail where many make it dearer."""
    wanted = options("waits", 100_000, 5_000)
    load = machine.load()
    async with filled({"few": (FEW_WAITS, waiter_of), "many": (wanted.count, waiter_of)}) as sides:
        seen = await by_turns(sides, wanted.rounds, lambda side: _matched(side, wanted.events))
    columns = {f"{FEW_WAITS} waits": seen["few"], f"{wanted.count:,} waits": seen["many"]}
    print(table(columns, {f"{wanted.count:,} waits": seen["few"]}, "median (times that beside few)"))
    print(f"{wanted.rounds} rounds of {wanted.events} events; load average {load}, then {machine.load()}")
    dearer = [ratio(seen["many"], seen["few"], name) for name in ("p50, ms", "CPU of all, ms an event")]
    return 0 if max(dearer) <= MOST_TIMES else 1


async def sleepers() -> int:
    """Print what runs that sleep take of the server's memory, and of a core; fail where it is too much."""
    wanted = options("sleepers", 50_000, 5_000)
    load = machine.load()
    async with filled({"empty": (0, sleeper_of), "asleep": (wanted.count, sleeper_of)}) as sides:
        seen: dict[str, Rounds] = {name: {} for name in sides}
        for when, seconds in (("at first", SETTLES_SECONDS), ("later", wanted.settle)):
            await asyncio.sleep(seconds)
            for name, side in sides.items():
                note(seen[name], {f"server {when}, MiB": machine.memory(side.system.parts())["server"][0]})
        for name, figures in (await idle_cpu(sides)).items():
            note(seen[name], figures)
    each = (seen["asleep"]["server later, MiB"][0] - seen["empty"]["server later, MiB"][0]) * 2**20 / wanted.count
    note(seen["asleep"], {"server memory, bytes a run": each})
    print(table({"no runs": seen["empty"], f"{wanted.count:,} asleep": seen["asleep"]}, {}, "figure"))
    print(f"load average {load}, then {machine.load()}")
    more = sum(seen["asleep"][name][0] - seen["empty"][name][0] for name in seen["empty"] if name.startswith("idle"))
    return 0 if each <= MOST_BYTES and more <= MOST_IDLE else 1


def waiter_of(number: int, now_ms: int) -> Planned:
    """Return a run that waits for an event of its own."""
    return waiter(f"stands-{number}", now_ms)


def sleeper_of(number: int, now_ms: int) -> Planned:
    """Return a run that sleeps for a month and longer."""
    return sleeper(f"stands-{number}", now_ms, MONTH_MS + number * 1000)


@contextlib.asynccontextmanager
async def filled(wanted: Mapping[str, tuple[int, Make]]) -> AsyncIterator[dict[str, Side]]:
    """Have systems with so many runs each that just stand there, on servers that were started after that."""
    with tempfile.TemporaryDirectory(prefix="ironflow-standing-") as folder:
        sides = {name: Side(Path(folder) / name) for name in wanted}
        try:
            for name, (count, make) in wanted.items():
                await _fill(sides[name], count, make)
            yield sides
        finally:
            for side in sides.values():
                await side.stop()


async def _fill(side: Side, count: int, make: Make) -> None:
    side.folder.mkdir()
    await side.start()  # makes the streams
    await side.stop()
    now_ms = int(time.time() * 1000)
    await fill(side.folder / "nats", (make(number, now_ms) for number in range(count)))
    await side.start()


async def _matched(side: Side, count: int) -> Mapping[str, float]:
    """Return what events cost that end new waits, one after another: their latency and the CPU of each part."""
    system = side.system
    keys = [f"go-{time.time()}-{number}" for number in range(count)]
    runs = [asyncio.ensure_future(system.run("wait", key)) for key in keys]
    for key in keys:
        await _rests(side, key)
    await asyncio.sleep(SETTLES_SECONDS)  # until the engine has done with them
    before = machine.read(system.parts(), system.folder)
    took: list[float] = []
    for key, run in zip(keys, runs, strict=True):
        sent = time.time()
        await system.send(key)
        took.append((await run - sent) * 1000)
    after = machine.read(system.parts(), system.folder)
    cpu = {part: (seconds - before.cpu[part]) * 1000 / count for part, seconds in after.cpu.items()}
    figures = {"p50, ms": statistics.median(took), "p99, ms": percentile(took, 0.99)}
    figures["CPU of all, ms an event"] = sum(cpu.values())
    return figures | {f"CPU of {part}, ms an event": each for part, each in cpu.items()}


async def _rests(side: Side, key: str) -> None:
    """Wait until the first pass of a run has ended."""
    names = side.system.names
    outcome = names.journal_outcome(ironflow_app.QUEUE, run_id("wait", start_event_id("wait", key)), 0)
    while await side.system.client.broker.last(names.all_shards[0].journal, outcome) is None:  # noqa: ASYNC110 - another process writes
        await asyncio.sleep(0.02)
