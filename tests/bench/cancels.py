"""Runs that are cancelled at random moments of their lives, by real processes."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from ironflow.client import Client
from tests.support.endings import GRACE_MS, MOMENTS, Ending, cancel_at_random, endings, left_behind, read_sightings
from tests.support.processes import Cluster, cluster, functions_are_known, workers_answer

RUNS = 500
STARTS_A_SECOND = 25
LONGER_THAN_A_LIFE = 1.2
"""So that some runs have completed before they are cancelled."""
FIRST_LIVES = 40
"""As many as go on at a time later, so that they tell how long a life takes then."""


class Cancels(msgspec.Struct, frozen=True):
    """What came of cancelling runs at random moments.

    Attributes:
        endings: how each run ended.
        left_behind: the tasks, timers and waits of cancelled runs that nobody has taken back.

    """

    endings: Sequence[Ending]
    left_behind: Sequence[str]

    def counts(self) -> dict[str, int]:
        """Return how many runs ended how."""
        found = Counter(ending.status for ending in self.endings)
        return {status: found[status] for status in ("completed", "cancelled", "failed", "neither", "both")}

    def moments(self) -> Counter[str]:
        """Return what the cancelled runs were at."""
        return Counter(moment for ending in self.endings for moment in ending.moments)

    def recorded_after(self) -> list[tuple[str, int, int]]:
        """Return what stands in journals behind a terminal outcome: its kind, how often, and how late at the most."""
        found: dict[str, list[int]] = {}
        for ending in self.endings:
            for kind, after_ms in ending.recorded_after:
                found.setdefault(kind, []).append(after_ms)
        return [(kind, len(after), max(after)) for kind, after in sorted(found.items())]

    def latest_begin_ms(self) -> int:
        """Return how long after its recorded cancel a body has begun; negative where none did."""
        return max(after for ending in self.endings for after in ending.begun_after_ms)

    def violations(self) -> list[str]:
        """Return what must not be, however few runs there were."""
        counts = self.counts()
        wrong = [f"run {each.run} ended {each.status}: {each}" for each in self.endings if not each.is_consistent]
        wrong += [f"{status} in {counts[status]} runs" for status in ("failed", "neither", "both") if counts[status]]
        wrong += [f"no run was {status}" for status in ("completed", "cancelled") if not counts[status]]
        wrong += [f"{each.late} bodies of run {each.run} began late" for each in self.endings if each.late]
        wrong += [f"{kind} recorded {ms} ms after an end" for kind, _, ms in self.recorded_after() if ms > GRACE_MS]
        # A timer that is set at the same moment stays, and has no effect.
        wrong += [f"left behind: {subject}" for subject in self.left_behind if ".timers." not in subject]
        return wrong

    def missed(self) -> list[str]:
        """Return the moments at which no run was cancelled."""
        return sorted(MOMENTS - self.moments().keys())


async def measure(processes: Cluster, runs: int, starts_a_second: float, first_lives: int) -> Cancels:
    """Cancel runs on one engine and two workers."""
    processes.engine()
    for _ in range(2):
        processes.worker("lives.py", "--threads", "32")
    async with processes.client() as client:
        await functions_are_known(client, "life")
        await workers_answer(client, 2)
        span = LONGER_THAN_A_LIFE * await _length_of_a_life(client, first_lives)
        chance = random.Random(5)

        async def one(number: int) -> tuple[str, bool]:
            await asyncio.sleep(number / starts_a_second)
            return await cancel_at_random(client, number, runs, span, chance)

        answers = await asyncio.gather(*(one(number) for number in range(runs)))
        await asyncio.sleep(2 * GRACE_MS / 1000)  # the time in which nothing may begin any more, and then some
        sightings = read_sightings(processes.witness.read_text().splitlines())
        found = await endings(client, processes.names, answers, sightings)
        return Cancels(found, await left_behind(client, processes.names, found))


async def _length_of_a_life(client: Client, lives: int) -> float:
    """Return how many seconds a run takes to its end beside others."""
    began = time.monotonic()
    runs = [await client.start("life", None, id=f"first-{number}") for number in range(lives)]
    await asyncio.gather(*(run.wait("60s") for run in runs))
    return time.monotonic() - began


async def main() -> int:
    """Print how 500 runs ended; fail where one ended twice or never, or began a body after its cancel."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder) / "nats") as server,
        cluster(server.url, "bench", Path(folder)) as processes,
    ):
        began = time.monotonic()
        found = await measure(processes, RUNS, STARTS_A_SECOND, FIRST_LIVES)
    print(tabulate(found.counts().items(), headers=("ended", "runs")), end="\n\n")
    print(tabulate(found.moments().most_common(), headers=("cancelled while at", "runs")), end="\n\n")
    behind = ("recorded behind the end", "records", "at most ms behind")
    print(tabulate(found.recorded_after(), headers=behind), end="\n\n")
    late = sum(ending.late for ending in found.endings)
    after = sum(begun > 0 for ending in found.endings for begun in ending.begun_after_ms)
    print(f"bodies begun after the recorded cancel: {after}, the last {found.latest_begin_ms()} ms after it")
    print(f"bodies begun more than {GRACE_MS} ms after it: {late}")
    print(f"timers of cancelled runs left behind: {sum('.timers.' in each for each in found.left_behind)}")
    print(f"in {time.monotonic() - began:.1f} s")
    wrong = [*found.violations(), *(f"no run was cancelled while at: {moment}" for moment in found.missed())]
    for violation in wrong:
        print(f"wrong: {violation}")
    return 1 if wrong else 0
