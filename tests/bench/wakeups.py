"""How late runs wake that sleep at the same time, by the server's clock alone."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import msgspec
from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from ironflow.client import Client
from ironflow.codec import decode_record
from ironflow.names import Names, parse_journal
from ironflow.records import StepRecord, WaitRecord
from tests.support.processes import cluster, functions_are_known

RUNS = 500
SLEEP_SECONDS = 2.0


class Wakeup(msgspec.Struct, frozen=True):
    """One run's sleep, in milliseconds of the server's clock.

    Attributes:
        due: when it should end.
        ended: when its end was recorded.
        continued: when the step after it began.

    """

    due: int
    ended: int
    continued: int


async def measure(runs: int = RUNS, seconds: float = SLEEP_SECONDS) -> list[Wakeup]:
    """Have runs sleep at the same time, on one engine and one worker process."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder) / "nats") as server,
        cluster(server.url, "bench", Path(folder)) as processes,
    ):
        processes.engine()
        processes.worker("flows.py", "--concurrency", "100")
        async with processes.client() as client:
            await functions_are_known(client, "sleeper")
            handles = await asyncio.gather(
                *(client.start("sleeper", seconds, id=f"nap-{number}") for number in range(runs))
            )
            await asyncio.gather(*(handle.wait("120s") for handle in handles))
            return [await _wakeup(client, processes.names, handle.id) for handle in handles]


async def _wakeup(client: Client, names: Names, run: str) -> Wakeup:
    due = ended = continued = 0
    async for page in client.broker.read(names.all_shards[0].journal, names.journal_of_run("orders", run)):
        for message in page:
            match parse_journal(message.subject).kind, parse_journal(message.subject).rest:
                case "wait", ("nap",):
                    due = message.time_ms + (decode_record(WaitRecord, message.payload).delay_ms or 0)
                case "step", ("nap",):
                    ended = message.time_ms
                case "step", ("after",):
                    continued = message.time_ms - decode_record(StepRecord, message.payload).duration_ms
                case _:
                    pass
    return Wakeup(due, ended, continued)


def percentile(values: list[int], share: float) -> int:
    """Return the value that *share* of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def main() -> int:
    """Print how late the wake-ups were; fail where one was early."""
    wakeups = await measure()
    ended = [wakeup.ended - wakeup.due for wakeup in wakeups]
    continued = [wakeup.continued - wakeup.due for wakeup in wakeups]
    rows = [
        (name, len(late), sum(value < 0 for value in late), percentile(late, 0.5), percentile(late, 0.99), max(late))
        for name, late in (("end of sleep recorded", ended), ("next step began", continued))
    ]
    print(tabulate(rows, headers=("lateness in ms", "runs", "early", "p50", "p99", "max")))
    return 1 if any(value < 0 for value in ended) else 0
