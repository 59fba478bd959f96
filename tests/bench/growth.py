"""What runs cost beside others that rest: the same figures on an empty system and on one that is filled, by turns."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.errors import EngineUnavailableError
from ironflow.names import Names, run_id, start_event_id
from ironflow.records import FunctionRecord, RunStatus
from tests.bench import arguments, ironflow_app, machine
from tests.bench.resting import DAY_MS, FAILED_SHARE, Filler, Planned, ended, skip_what_is_written, sleeper, waiter
from tests.bench.stretched import NAMESPACE, START_SECONDS, Stretched
from tests.bench.turns import Rounds, by_turns, note, ratio, table
from tests.bench.workloads import Size, events, serial, throughput

GOAL = 0.85
"""Of the runs per second of an empty system."""
IDLE_SECONDS = 20.0
"""Two sweeps of the reconciler at least."""
SAMPLES = 30
"""Of what is done to runs that have rested."""
MONTH_MS = 30 * DAY_MS
PATIENT_SECONDS = 120.0
"""For one batch among others; one that is not answered would have to be looked up."""
SOON_MS = 1_000
ROUND = Size(runs=1000, in_flight=(200,), serial=30, events=20)
QUICK_ROUND = Size(runs=300, in_flight=(200,), serial=10, events=5)


def options(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench growth")
    parser.add_argument("--resting", default="100000,1000000", help="how many runs rest, one stage each")
    parser.add_argument("--rounds", type=int, default=5, help="of each system at each stage, by turns (default: 5)")
    parser.add_argument("--quick", action="store_true", help="2,000 and 10,000, small rounds")
    found = parser.parse_args(words)
    found.sizes = [2_000, 10_000] if found.quick else [int(size) for size in found.resting.split(",")]
    found.round = QUICK_ROUND if found.quick else ROUND
    return found


# Filling


def resting(first: int, last: int) -> Iterator[Planned]:
    """Yield runs: those in turns that sleep and that wait, and beside each fourth one that has ended."""
    now_ms = int(time.time() * 1000)
    for number in range(first, last):
        nap_ms = SOON_MS if number < SAMPLES * 2 else MONTH_MS + number * 1000 % MONTH_MS
        yield waiter(f"rest-{number}", now_ms) if number % 2 else sleeper(f"rest-{number}", now_ms, nap_ms)
        if number % 4 == 0:
            yield ended(f"rest-{number}", now_ms, failed=number % (4 * FAILED_SHARE) == 0)


def run_of(function: str, number: int) -> str:
    """Return the id of one of these runs."""
    return run_id(function, start_event_id(function, f"rest-{number}"))


async def fill(folder: Path, runs: Iterator[Planned]) -> float:
    """Write runs into the data of a server that is stopped; return how many a second."""
    names = Names(NAMESPACE)
    functions = {
        function.id: FunctionRecord(id=function.id, queue=ironflow_app.QUEUE)
        for function in (ironflow_app.nap, ironflow_app.wait, ironflow_app.three)
    }
    with EmbeddedServer(folder, sync_interval="2m", ready_seconds=START_SECONDS) as server:
        broker = await connect(ConnectionSettings(urls=(server.url,)), answer_seconds=PATIENT_SECONDS)
        try:
            began = time.monotonic()
            written = await Filler(broker, names, functions).write(runs)
            await skip_what_is_written(server.url, broker, names)
            return written / (time.monotonic() - began)
        finally:
            await broker.close()


# One system


class Side:
    """The empty system or the one that is filled: a server, an engine and a worker.

    Args:
        folder: where its data is.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read_model = folder / "lists.sqlite"
        self.server_seconds = 0.0
        self._server: EmbeddedServer | None = None
        self._system: Stretched | None = None

    @property
    def system(self) -> Stretched:
        """What runs on it."""
        assert self._system is not None
        return self._system

    async def start(self) -> None:
        """Start all of it, and run something once."""
        began = time.monotonic()
        self._server = EmbeddedServer(self.folder / "nats", ready_seconds=START_SECONDS)
        self._server.start()
        self.server_seconds = time.monotonic() - began
        options = ("--read-model", str(self.read_model))
        self._system = Stretched(self._server, [self._server.pid], self.folder, engine_options=options)
        await self._system.start(1)
        await self._system.run("three", f"first-{time.time()}")
        await _answered(self.lists, time.monotonic())

    async def stop(self) -> None:
        """End all of it; its data stays."""
        if self._system is not None:
            await self._system.stop()
        if self._server is not None:
            self._server.stop()

    async def round(self, size: Size) -> Mapping[str, float]:
        """Return what new runs and lists take."""
        figures = await throughput(self.system, size)
        figures = {name: figures[name] for name in ("A200 runs/s", "A200 CPU s/1000")}
        figures |= {name: figure for name, figure in (await serial(self.system, size)).items() if "p50" in name}
        figures |= {name: figure for name, figure in (await events(self.system, size)).items() if "p50" in name}
        return {**figures, **await self.lists()}

    async def lists(self) -> Mapping[str, float]:
        """Return what the first page of a list takes."""
        return {
            "runs list, ms": await self._list_ms(),
            "runs list --status completed, ms": await self._list_ms(status="completed"),
            "runs list --function three, ms": await self._list_ms(function="three"),
        }

    async def _list_ms(self, *, status: RunStatus | None = None, function: str | None = None) -> float:
        took: list[float] = []
        for _ in range(5):
            began = time.perf_counter()
            async for _ in self.system.client.runs(status=status, function=function, limit=50):
                pass
            took.append((time.perf_counter() - began) * 1000)
        return statistics.median(took)

    async def engine_start(self, *, cold: bool) -> tuple[float, float]:
        """Start the engine anew; return the seconds until it answers, and until it answers with a list.

        Args:
            cold: without its file of lists.

        """
        await asyncio.to_thread(self.system.engine.terminate)
        if cold:
            for file in self.folder.glob(f"{self.read_model.name}*"):
                file.unlink()
        began = time.monotonic()
        self.system.engine.start()
        await _answered(self.system.client.engine.functions, began)
        known = time.monotonic() - began
        await _answered(self.lists, began)
        return known, time.monotonic() - began


async def _answered(ask: Callable[[], Awaitable[object]], began: float) -> None:
    while True:
        try:
            await ask()
        except EngineUnavailableError:
            assert time.monotonic() < began + START_SECONDS
            await asyncio.sleep(0.01)
        else:
            return


# What is done to runs that have rested


async def wake_events(system: Stretched, numbers: Sequence[int]) -> float:
    """Return the median milliseconds from an event to the end of a run that has waited for it for long."""
    took: list[float] = []
    for number in numbers:
        handle = system.client.run(run_of("wait", number))
        ended_at = asyncio.ensure_future(handle.result("60s"))
        await asyncio.sleep(0.02)  # until it listens; were that too short, the figure would be worse
        sent = time.time()
        await system.send(f"rest-{number}")
        took.append((await ended_at - sent) * 1000)
    return statistics.median(took)


async def cancel(system: Stretched, numbers: Sequence[int]) -> float:
    """Return the median milliseconds that it takes to cancel a run that sleeps."""
    took: list[float] = []
    for number in numbers:
        handle = system.client.run(run_of("nap", number))
        began = time.perf_counter()
        await handle.cancel()
        took.append((time.perf_counter() - began) * 1000)
        assert (await handle.wait("60s")).status == "cancelled"
    return statistics.median(took)


async def retry(system: Stretched, numbers: Sequence[int]) -> float:
    """Return the median milliseconds from the retry of a run that had failed to its end."""
    took: list[float] = []
    for number in numbers:
        handle = system.client.run(run_of("three", number))
        assert (await handle.state()).status == "failed"
        began = time.perf_counter()
        await handle.retry()
        assert await handle.result("60s") == 3
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


async def soon(system: Stretched) -> None:
    """Wait until the runs have gone on whose sleep was short."""
    for number in range(0, SAMPLES * 2, 2):
        assert (await system.client.run(run_of("nap", number)).wait("120s")).status == "completed"


async def old_runs(system: Stretched, first: int, last: int) -> Mapping[str, float]:
    """Return what it takes to do something to runs that have rested, spread over all that were written last."""
    step = max(2, (last - first) // SAMPLES // 2 * 2)
    failed = range(first + -first % (4 * FAILED_SHARE), last, 4 * FAILED_SHARE)
    every = max(1, len(failed) // SAMPLES)
    begin = first + SAMPLES * 4
    return {
        "old run: event to end, ms": await wake_events(system, range(begin + 1, last, step)[:SAMPLES]),
        "old run: cancel, ms": await cancel(system, range(begin, last, step)[:SAMPLES]),
        "old run: retry to end, ms": await retry(system, failed[::every][:SAMPLES]),
    }


# All of it


async def idle_cpu(sides: Mapping[str, Side]) -> dict[str, dict[str, float]]:
    """Return the shares of a core, in percent, that server and engine of both systems take while nothing happens."""

    def read() -> dict[str, dict[str, float]]:
        parts = {name: side.system.parts() for name, side in sides.items()}
        return {
            name: {part: sum(map(machine.cpu_seconds, pids)) for part, pids in of.items()} for name, of in parts.items()
        }

    before = read()
    await asyncio.sleep(IDLE_SECONDS)
    after = read()
    return {
        name: {
            f"idle {part}, % of a core": (after[name][part] - before[name][part]) / IDLE_SECONDS * 100
            for part in ("server", "engine")
        }
        for name in sides
    }


async def measure(sides: Mapping[str, Side], rounds: int, size: Size) -> dict[str, Rounds]:
    """Return the figures of both systems, whose rounds take turns."""
    seen = await by_turns(sides, rounds, lambda side: side.round(size))
    for name, figures in (await idle_cpu(sides)).items():
        note(seen[name], figures)
    for name, side in sides.items():
        memory = machine.memory(side.system.parts())
        note(seen[name], {f"MiB {part}": now for part, (now, _) in memory.items() if part != machine.CLIENT})
        for what in ("cold", "with its file"):
            known, listed = await side.engine_start(cold=what == "cold")
            note(seen[name], {f"engine start {what}, s": known, f"engine start {what} to list, s": listed})
    return seen


@contextlib.asynccontextmanager
async def two_sides() -> AsyncIterator[dict[str, Side]]:
    """Have an empty system and one to be filled; both end with the block, and their data goes."""
    with tempfile.TemporaryDirectory(prefix="ironflow-growth-") as folder:
        sides = {name: Side(Path(folder) / name) for name in ("empty", "filled")}
        try:
            for side in sides.values():
                side.folder.mkdir()
                await side.start()
            yield sides
        finally:
            for side in sides.values():
                await side.stop()


async def main() -> int:
    """Print figures and ratios; fail where A on the filled system is under the goal."""
    wanted = options(arguments.options())
    print(f"load average before: {machine.load()}")
    stages: dict[int, dict[str, Rounds]] = {}
    async with two_sides() as sides:
        filled = sides["filled"]
        stages[0] = await measure(sides, wanted.rounds, wanted.round)
        for first, last in itertools.pairwise([0, *wanted.sizes]):
            await filled.stop()
            rate = await fill(filled.folder / "nats", resting(first, last))
            await filled.start()
            print(f"{last:,} runs rest; {rate:,.0f} a second were written; load {machine.load()}", file=sys.stderr)
            stages[last] = await measure(sides, wanted.rounds, wanted.round)
            await soon(filled.system)
            own = stages[last]["filled"]
            own |= {name: [value] for name, value in (await old_runs(filled.system, first, last)).items()}
            own["server start, s"] = [filled.server_seconds]
    columns = {f"{size:,} rest": stage["filled"] for size, stage in stages.items()}
    bases = {f"{size:,} rest": stage["empty"] for size, stage in stages.items()}
    print(table(columns, bases, "median (times the empty system's)"))
    print(f"load average after: {machine.load()}; {wanted.rounds} rounds of {wanted.round.runs} runs, 200 in flight")
    kept = [ratio(stage["filled"], stage["empty"], "A200 runs/s") >= GOAL for stage in stages.values()]
    return 0 if all(kept) else 1
