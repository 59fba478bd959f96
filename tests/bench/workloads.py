"""The workloads A to G, the same for every system, and the figures that they give."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.bench import machine
from tests.bench.system import System

Figures = dict[str, float]

_SETTLES_SECONDS = 0.1
"""From the start of a run until it surely waits. Were that too short, the figure would be worse, not better."""
_RESTS_SECONDS = 5.0
"""From the start of many runs until they surely rest: Ironflow keeps a handler that waits for three seconds."""
_LOOK_AGAIN_SECONDS = 0.005
NAP_SECONDS = 5.0
_SLOW_STEPS = 10

_numbers = count(1)


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        runs: of workload A.
        in_flight: of workload A; one figure each.
        serial: runs of B.
        steps: of C and F.
        sleepers: runs of D.
        events: of E.
        killed: runs of G.

    """

    runs: int = 2000
    in_flight: tuple[int, ...] = (200, 600)
    serial: int = 200
    steps: int = 300
    sleepers: int = 1000
    events: int = 200
    killed: int = 200


FULL = Size()
QUICK = Size(runs=300, serial=30, steps=60, sleepers=100, events=20, killed=40)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _lines(witness: Path) -> list[str]:
    return witness.read_text(encoding="utf-8").split()


def _key(workload: str) -> str:
    return f"{workload}-{os.getpid()}-{next(_numbers)}"


async def throughput(system: System, size: Size) -> Figures:
    """A: many short runs at the same time, and what they cost."""
    figures: Figures = {}
    runs = min(size.runs, system.most_runs or size.runs)
    for in_flight in size.in_flight[:1] if system.most_runs else size.in_flight:
        keys = [_key("three") for _ in range(runs)]
        parts = system.parts()
        before, counted = machine.read(parts, system.folder), system.counters()
        begun = time.monotonic()
        await system.run_all(keys, in_flight)
        took = time.monotonic() - begun
        after, counted_after = machine.read(parts, system.folder), system.counters()
        label = f"A{in_flight}"
        figures[f"{label} runs/s"] = runs / took
        cpu = {part: (seconds - before.cpu[part]) * 1000 / runs for part, seconds in after.cpu.items()}
        figures[f"{label} CPU s/1000"] = sum(cpu.values())
        figures |= {f"{label} CPU s/1000 {part}": seconds for part, seconds in cpu.items()}
        if before.flushes is not None and after.flushes is not None:
            figures[f"{label} flushes/run"] = (after.flushes - before.flushes) / runs
        for name, number in counted_after.items():
            figures[f"{label} {name}/run"] = (number - counted[name]) / runs
        for part, (now, peak) in machine.memory(parts).items():
            figures |= {f"{label} MiB {part}": now, f"{label} peak RSS MiB {part}": peak}
    return figures


async def serial(system: System, size: Size) -> Figures:
    """B: runs of three steps, one after another."""
    latencies: list[float] = []
    for _ in range(size.serial):
        begun = time.monotonic()
        await system.run("three", _key("three"))
        latencies.append((time.monotonic() - begun) * 1000)
    return {"B p50 ms": percentile(latencies, 0.5), "B p99 ms": percentile(latencies, 0.99)}


async def one_long_run(system: System, size: Size) -> Figures:
    """C: many steps in one run, one after another; and beside it what a durable write takes."""
    bare = await system.bare_writes_ms()
    begun = time.monotonic()
    await system.run("many", _key("many"), size.steps)
    figures = {"C ms/step": (time.monotonic() - begun) * 1000 / size.steps}
    return {**figures, **{f"C bare write{by} ms": took for by, took in bare.items()}}


async def sleepers(system: System, size: Size) -> Figures:
    """D: runs that all sleep at the same time; how long after its time each goes on.

    That counts from the look at the clock in front of the sleep, so that what it takes to begin to sleep counts too.
    """
    keys = [_key("nap") for _ in range(size.sleepers)]

    async def one(key: str) -> float:
        times: tuple[float, float] = await system.run("nap", key, NAP_SECONDS)
        return (times[1] - times[0] - NAP_SECONDS) * 1000

    late = await asyncio.gather(*map(one, keys))
    figures = {
        "D least ms late": min(late),
        "D p50 ms late": percentile(late, 0.5),
        "D p99 ms late": percentile(late, 0.99),
    }
    recorded = [ms for key in keys if (ms := await system.recorded_late_ms(key)) is not None]
    if recorded:
        figures["D recorded p50 ms late"] = percentile(recorded, 0.5)
        figures["D recorded p99 ms late"] = percentile(recorded, 0.99)
        figures["D recorded least ms late"] = min(recorded)
    return figures


async def events(system: System, size: Size) -> Figures:
    """E: from an event that is sent to the run that goes on."""
    latencies: list[float] = []
    for _ in range(size.events):
        key = _key("wait")
        run = asyncio.ensure_future(system.run("wait", key))
        await asyncio.sleep(_SETTLES_SECONDS)
        sent = time.time()
        await system.send(key)
        latencies.append((await run - sent) * 1000)
    return {"E p50 ms": percentile(latencies, 0.5), "E p99 ms": percentile(latencies, 0.99)}


async def late_events(system: System, size: Size) -> Figures:
    """E: the same, where the runs have rested for a while; there are as many of them at a time as it takes events."""
    keys = [_key("wait") for _ in range(size.events)]
    runs = [asyncio.ensure_future(system.run("wait", key)) for key in keys]
    await asyncio.sleep(_RESTS_SECONDS)
    latencies: list[float] = []
    for key, run in zip(keys, runs, strict=True):
        sent = time.time()
        await system.send(key)
        latencies.append((await run - sent) * 1000)
    return {"E late p50 ms": percentile(latencies, 0.5), "E late p99 ms": percentile(latencies, 0.99)}


async def all_events(system: System, size: Size) -> Figures:
    """E: events that come soon, and events that come later."""
    return {**await events(system, size), **await late_events(system, size)}


async def fan_out(system: System, size: Size) -> Figures:
    """F: parallel steps in one run, fifty at once."""
    begun = time.monotonic()
    await system.run("fan", _key("fan"), size.steps)
    return {"F ms": (time.monotonic() - begun) * 1000}


async def crash(system: System, size: Size) -> Figures:
    """G: one of two workers is killed when half of the slow steps have begun."""
    with tempfile.TemporaryDirectory() as folder:
        witness = Path(folder) / "bodies"
        witness.touch()
        runs = [
            asyncio.ensure_future(system.run("slow", _key("slow"), [str(witness), number]))
            for number in range(size.killed)
        ]
        while len(_lines(witness)) < size.killed * _SLOW_STEPS / 2:  # noqa: ASYNC110 - other processes write them
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        killed = time.monotonic()
        await system.kill_worker()
        await asyncio.gather(*runs)
        took = time.monotonic() - killed
        bodies = Counter(_lines(witness))
    missing = size.killed * _SLOW_STEPS - len(bodies)
    return {"G s": took, "G run twice": sum(bodies.values()) - len(bodies), "G lost": missing}


WORKLOADS: dict[str, Callable[[System, Size], Awaitable[Figures]]] = {
    "A": throughput,
    "B": serial,
    "C": one_long_run,
    "D": sleepers,
    "E": all_events,
    "F": fan_out,
    "G": crash,
}


@contextlib.asynccontextmanager
async def _started(system: System, workers: int) -> AsyncGenerator[None]:
    try:
        await system.start(workers)
        await system.run("three", _key("three"))  # what is done at the first time only
        yield
    finally:
        await system.stop()


async def measure(
    system: System, wanted: Sequence[str], size: Size, rounds: int, tell: Callable[[str], None]
) -> dict[str, list[float]]:
    """Return what each round gave: all but G from one start of the server with one worker, G from a start for each."""
    seen: dict[str, list[float]] = {}

    async def measure_one(letter: str) -> None:
        figures = await WORKLOADS[letter](system, size)
        tell(f"{system.name}: {', '.join(f'{name} {figure:.4g}' for name, figure in figures.items())}")
        for name, figure in figures.items():
            seen.setdefault(name, []).append(figure)

    if alone := [letter for letter in wanted if letter != "G"]:
        async with _started(system, 1):
            for letter in alone:
                for _ in range(rounds):
                    await measure_one(letter)
    for _ in range(rounds if "G" in wanted else 0):
        async with _started(system, 2):
            await measure_one("G")
    return seen
