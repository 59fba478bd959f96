"""``python -m tests.bench NAME``: run one measurement and print its table."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from tests.bench import (
    archive,
    arguments,
    batches,
    cancels,
    examples,
    fan_out,
    growth,
    idle,
    looking_back,
    ours,
    rolling,
    saga,
    scale,
    series,
    standing,
    waits,
    wakeups,
    woken,
)

BENCHES: dict[str, tuple[Callable[[], Awaitable[int]], str]] = {
    "archive": (archive.main, "20,000 runs archived while Postgres stops and engines die; a list over 1,000,000 runs"),
    "batches": (batches.main, "batches of 1 to 512 messages beside the same messages singly: time and CPU"),
    "cancels": (cancels.main, "500 runs cancelled at random moments: how each ends, and what begins afterwards"),
    "early": (waits.early, "1,000 runs whose event is published 0 to 50 ms before they wait for it: how many get it"),
    "examples": (examples.main, "each example in process, in virtual time: how long it takes"),
    "fan-out": (fan_out.main, "a map of 10,000 items: time, memory, order, and what runs again after a kill"),
    "growth": (growth.main, "workload A and more beside 100,000 and 1,000,000 runs that rest; options: --resting, …"),
    "idle": (idle.main, "an engine and a worker that have nothing to do, for a minute: CPU and memory"),
    "looking-back": (
        looking_back.main,
        "40 old runs that begin to wait behind 100,000 events of the name: how long they and others take; --count",
    ),
    "races": (waits.races, "400 events within 150 ms of a time-out: which of the two counts"),
    "replicas": (scale.replicas, "workloads A and B on one server and on three that keep everything three times"),
    "rolling": (rolling.main, "all engines and workers are replaced three times under load: what suffers from it"),
    "saga": (saga.main, "55 sagas of five steps: each step and each undo fails, each undo kills its worker"),
    "scale": (scale.main, "workload A with 1, 2, 4 workers, 1, 2 engines and 1, 2, 4 shards: runs/s, CPU of each run"),
    "series": (series.main, "10,000 runs of 50 functions: how many series Prometheus gets"),
    "sleepers": (standing.sleepers, "50,000 runs that sleep: the server's memory and CPU; options: --count"),
    "waits": (standing.waits, "an event beside 100 and 100,000 waits for events of its name: latency and CPU"),
    "woken": (woken.main, "a run of 10,000 steps that is woken 100 times: what a wake-up takes"),
    "workloads": (ours.main, "the workloads A to G that peers are measured with; options: --quick, --rounds, …"),
    "wakeups": (wakeups.main, "500 runs that sleep 2 s at the same time: how late they wake"),
}


def main() -> int:
    """Run what the command line names; without a name, the workloads, which take options."""
    wanted = ["workloads"] if ours.options() is not None else arguments.names()
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        print(f"no bench {', '.join(unknown)}; there are:", file=sys.stderr)
        for name, (_, what) in BENCHES.items():
            print(f"  {name:<10} {what}", file=sys.stderr)
        return 2
    return max(asyncio.run(_run(name)) for name in wanted)


async def _run(name: str) -> int:
    run, what = BENCHES[name]
    print(f"{name}: {what}")
    return await run()


if __name__ == "__main__":
    sys.exit(main())
