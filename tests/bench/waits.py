"""Events that come at the very moment of a time-out, and events that come before their wait: real processes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from ironflow.client import Client
from ironflow.errors import RunNotFoundError
from ironflow.messages import RunView
from ironflow.names import Names, run_id
from tests.support.processes import cluster, functions_are_known

RACES = 400
RACES_A_SECOND = 40
TIMEOUT_SECONDS = 2.0
SPREAD_SECONDS = 0.15
USUAL_DELAY_SECONDS = 0.01
"""About how long it takes from a published trigger to the recorded wait."""
EARLY = 1_000
AT_A_TIME = 100
LOOK_AGAIN_SECONDS = 0.05


@contextlib.asynccontextmanager
async def running(*functions: str, engines: int = 2) -> AsyncGenerator[tuple[Client, Names]]:
    """Run a server, engines and a worker."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder) / "nats") as server,
        cluster(server.url, "bench", Path(folder)) as processes,
    ):
        for _ in range(engines):
            processes.engine()
        processes.worker("flows.py", "--concurrency", "200")
        async with processes.client() as client:
            await functions_are_known(client, *functions)
            yield client, processes.names


async def ended(client: Client, function: str, event: str, number: int) -> tuple[str, RunView]:
    """Publish a trigger; return its run's end."""
    published = await client.publish_record(event, {"n": number})
    run = run_id(function, published.record.id)
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(RunNotFoundError):  # no engine has come to the event yet
                return run, await client.run(run).wait()
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def late(client: Client, number: int, room: asyncio.Semaphore) -> RunView:
    """Return the end of a run whose event comes before its wait, once there is room for it."""
    async with room:
        return (await ended(client, "late-waiter", "late", number))[1]


async def results_of(client: Client, names: Names, run: str) -> int:
    """Return how many ends of its wait a run has recorded."""
    subject = names.journal_step("orders", run, "flag")
    return sum([len(page) async for page in client.broker.read(names.all_shards[0].journal, subject)])


async def race(client: Client, number: int, chance: random.Random) -> tuple[str, RunView]:
    """Publish a trigger, and its event about when the wait times out."""
    await asyncio.sleep(number / RACES_A_SECOND)

    async def flag() -> None:
        await asyncio.sleep(TIMEOUT_SECONDS + USUAL_DELAY_SECONDS + chance.uniform(-SPREAD_SECONDS, SPREAD_SECONDS))
        await client.publish("flag", {"n": number})

    run, _ = await asyncio.gather(ended(client, "racer", "race", number), flag())
    return run


def print_counts(what: str, counts: Counter[str], seconds: float) -> None:
    """Print what came of the runs."""
    print(tabulate(sorted(counts.items()), headers=(what, "runs")))
    print(f"in {seconds:.1f} s")


async def races() -> int:
    """Print how 400 races ended; fail where one ended with both or neither, or where one side never won."""
    chance = random.Random(1)
    counts = Counter({"event": 0, "timeout": 0, "both": 0, "neither": 0})
    async with running("racer") as (client, names):
        began = time.monotonic()
        for run, view in await asyncio.gather(*(race(client, number, chance) for number in range(RACES))):
            recorded = await results_of(client, names, run)
            won = {b"true": "event", b"false": "timeout"}.get(bytes(view.output), "neither")
            counts[won if recorded == 1 else "both" if recorded else "neither"] += 1
        print_counts("ended by", counts, time.monotonic() - began)
    fair = min(counts["event"], counts["timeout"]) >= RACES // 10
    return 0 if fair and not counts["both"] and not counts["neither"] else 1


async def early() -> int:
    """Print how many of 1,000 runs got the event that was published before they waited; fail where one did not."""
    counts = Counter({"came": 0, "lost": 0})
    async with running("late-waiter") as (client, _):
        began = time.monotonic()
        room = asyncio.Semaphore(AT_A_TIME)
        for view in await asyncio.gather(*(late(client, number, room) for number in range(EARLY))):
            counts["came" if bytes(view.output) == b"true" else "lost"] += 1
        print_counts("the event", counts, time.monotonic() - began)
    return 0 if counts["came"] == EARLY else 1
