"""What a run costs when there are more workers, engines and shards, and when everything is kept three times."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from ironflow.broker.embedded import EmbeddedServer
from tests.bench import arguments, machine
from tests.bench.stretched import ClusterServers, Stretched
from tests.bench.turns import by_turns, ratio, table
from tests.bench.workloads import Size, serial, throughput
from tests.support.nats_cluster import nats_cluster

Fleet: TypeAlias = tuple[int, int, int]
"""Workers, engines and shards."""
FLEETS: tuple[Fleet, ...] = (
    *((1, 1, 1), (2, 1, 1), (4, 1, 1), (1, 2, 1), (2, 2, 1), (4, 2, 1)),
    *((1, 1, 2), (2, 1, 2), (4, 1, 2), (1, 2, 2), (2, 2, 2), (4, 2, 2)),
    *((1, 1, 4), (2, 2, 4), (4, 2, 4)),
)
"""The first one is what the others are compared with. There is memory for all at a time, and work for one."""
MOST_COST = 1.25
"""How many times as much CPU a run may take on a larger fleet; below that it is noise here."""
FULL = Size(runs=2000)
QUICK = Size(runs=300, in_flight=(200,), serial=20)
REPLICATED = Size(runs=2000, in_flight=(200, 600), serial=100)


def options(bench: str) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench {bench}")
    parser.add_argument("--rounds", type=int, default=5, help="of each, by turns (default: 5)")
    parser.add_argument("--quick", action="store_true", help="300 runs a round")
    if bench == "scale":
        parser.add_argument(
            "--fleet",
            dest="fleets",
            metavar="WORKERS,ENGINES,SHARDS",
            type=_fleet,
            action="append",
            help="one to measure, the one to compare with first; may be repeated (default: all)",
        )
    return parser.parse_args(arguments.options())


def _fleet(text: str) -> Fleet:
    workers, engines, shards = map(int, text.split(","))
    return workers, engines, shards


async def main() -> int:
    """Print runs per second and CPU seconds of fleets; fail where a run costs more than on the first."""
    wanted = options("scale")
    size = QUICK if wanted.quick else FULL
    load = machine.load()
    async with fleets(wanted.fleets or FLEETS) as systems:
        seen = await by_turns(systems, wanted.rounds, lambda system: _at_two_loads(system, size))
    first, *others = seen
    print(table(seen, dict.fromkeys(others, seen[first]), f"median (times that of {first})"))
    print(f"{wanted.rounds} rounds of {size.runs} runs; load average {load}, then {machine.load()}")
    costs = [ratio(seen[name], seen[first], "200 each: CPU s/1000") for name in others]
    return 0 if max(costs, default=1.0) <= MOST_COST else 1


async def _at_two_loads(system: Stretched, size: Size) -> Mapping[str, float]:
    """Return A with as many runs in flight on every fleet, and with as many for each worker in each shard."""
    figures: dict[str, float] = {}
    # Who has more of them has more load, and a batch is as large then as it was with one.
    for load, in_flight in (("200", 200), ("200 each", 200 * len(system.parts()["worker"]) * system.names.shards)):
        found = await throughput(system, replace(size, runs=max(size.runs, 2 * in_flight), in_flight=(in_flight,)))
        figures |= {f"{load}: {name.partition(' ')[2]}": figure for name, figure in found.items() if "MiB" not in name}
    return figures


@contextlib.asynccontextmanager
async def fleets(wanted: Sequence[Fleet]) -> AsyncIterator[Mapping[str, Stretched]]:
    """Have systems with so many workers, engines and shards, each with a server of its own."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ironflow-scale-")))
        systems: dict[str, Stretched] = {}
        for workers, engines, shards in wanted:
            name = f"{workers}w {engines}e {shards}s"
            server = stack.enter_context(EmbeddedServer(folder / f"{name} nats"))
            systems[name] = Stretched(server, [server.pid], folder / name, engines=engines, shards=shards)
            stack.push_async_callback(systems[name].stop)
            await systems[name].start(workers)
            await systems[name].run("three", "first")
        yield systems


async def replicas() -> int:
    """Print the figures of workloads A and B with everything kept once and kept three times."""
    wanted = options("replicas")
    size = QUICK if wanted.quick else REPLICATED
    load = machine.load()

    async def measure(system: Stretched) -> Mapping[str, float]:
        bare = await system.bare_writes_ms()
        return {"bare write, ms": bare[""], **await throughput(system, size), **await serial(system, size)}

    async with kept_once_and_thrice() as systems:
        seen = await by_turns(systems, wanted.rounds, measure)
    once, thrice = seen
    print(table(seen, {thrice: seen[once]}, "median (times that of one server)"))
    print(f"{wanted.rounds} rounds of {size.runs} runs; load average {load}, then {machine.load()}")
    return 0


@contextlib.asynccontextmanager
async def kept_once_and_thrice() -> AsyncIterator[Mapping[str, Stretched]]:
    """Have a system on one server and one on three, all synced."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ironflow-replicas-")))
        server = stack.enter_context(EmbeddedServer(folder / "one"))
        three = ClusterServers(stack.enter_context(nats_cluster(folder / "three")))
        systems = {
            "one server, R1": Stretched(server, [server.pid], folder / "logs-1"),
            "three servers, R3": Stretched(three, three.pids, folder / "logs-3", replicas=3),
        }
        for system in systems.values():
            stack.push_async_callback(system.stop)
            await system.start(1)
            await system.run("three", "first")
        yield systems
