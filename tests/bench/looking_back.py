"""What it takes, and what others bear, when old runs begin to wait for events of which very many came meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncGenerator

from tabulate import tabulate

from ironflow.client import Client
from ironflow.handles import RunHandle
from ironflow.names import ENGINE_CONSUMER, Names
from tests.bench import arguments, machine
from tests.bench.waits import running
from tests.support.eventually import eventually

WAVES = 2
"""For the first one everything has to be read; the second one finds what was read for the first."""
OLD_RUNS = 20
"""In each wave."""
AT_A_TIME = 500
ALONE_SECONDS = 2.0
OTHERS_PAUSE_SECONDS = 0.02


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench looking-back")
    parser.add_argument("--count", type=int, default=100_000, help="of the events meanwhile (default: 100,000)")
    parser.add_argument("--quick", action="store_true", help="5,000")
    found = parser.parse_args(arguments.options())
    if found.quick:
        found.count = 5_000
    return found


async def main() -> int:
    """Print how long old runs take to find their events, and another run beside them; fail where one does not."""
    wanted = options()
    load = machine.load()
    rows: list[tuple[object, ...]] = []
    found = 0
    async with running("old-waiter", "doubles", engines=1) as (client, names):
        waves = [await begun(client, wave) for wave in range(WAVES)]
        await publish_all(client, names, wanted.count)
        async with others(client) as took:
            await asyncio.sleep(ALONE_SECONDS)
            rows.append(("nothing", None, *medians(took)))
            for wave, runs in enumerate(waves):
                took.clear()
                began = time.monotonic()
                await client.publish("go", {"wave": wave})
                found += sum(await asyncio.gather(*(run.result("10m") for run in runs)))
                rows.append((f"wave {wave + 1}", time.monotonic() - began, *medians(took)))
    headers = ("beside", "all found theirs after, s", "another run, p50 ms", "worst ms")
    print(tabulate(rows, headers=headers, floatfmt=("", ".2f", ".1f", ".1f"), missingval="-"))
    print(f"{OLD_RUNS} old runs in a wave, {wanted.count:,} events; {found} of {OLD_RUNS * WAVES} found theirs")
    print(f"load average {load}, then {machine.load()}")
    return 0 if found == OLD_RUNS * WAVES else 1


async def begun(client: Client, wave: int) -> list[RunHandle[bool]]:
    """Begin the runs of a wave, and return them when they rest."""
    runs: list[RunHandle[bool]] = [
        await client.start("old-waiter", {"wave": wave, "n": number_of(wave, each)}) for each in range(OLD_RUNS)
    ]

    async def rest() -> None:
        assert {(await run.state()).status for run in runs} == {"waiting"}

    await eventually(rest, within=30.0)
    return runs


def number_of(wave: int, run: int) -> int:
    """Return what an old run waits for; no other event has it."""
    return -1 - wave * OLD_RUNS - run


async def publish_all(client: Client, names: Names, count: int) -> None:
    """Publish many events, and behind them those that are waited for."""
    numbers = [*range(count), *(number_of(wave, run) for wave in range(WAVES) for run in range(OLD_RUNS))]
    for begin in range(0, len(numbers), AT_A_TIME):
        part = numbers[begin : begin + AT_A_TIME]
        await asyncio.gather(*(client.publish("paid", {"n": number, "items": ["a", "b"]}) for number in part))

    async def be_through() -> None:
        events = await client.broker.stream_state(names.events)
        consumer = await client.broker.consumer_state(names.events, ENGINE_CONSUMER)
        assert consumer.ack_floor == events.last_sequence

    await eventually(be_through, within=60.0)


@contextlib.asynccontextmanager
async def others(client: Client) -> AsyncGenerator[list[float]]:
    """Have one run after another while the block runs, and give it how many milliseconds each takes."""
    took: list[float] = []

    async def one_after_another() -> None:
        while True:
            began = time.monotonic()
            await (await client.start("doubles", 1)).result("1m")
            took.append((time.monotonic() - began) * 1_000)
            await asyncio.sleep(OTHERS_PAUSE_SECONDS)

    running_on = asyncio.create_task(one_after_another())
    yield took
    running_on.cancel()
    await asyncio.gather(running_on, return_exceptions=True)


def medians(took: list[float]) -> tuple[float | None, float | None]:
    """Return the median and the worst; None where there was no time for any."""
    return (statistics.median(took), max(took)) if took else (None, None)
