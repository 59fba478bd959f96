"""What a large map takes: time, memory of the workers and of the engine, and bodies that a killed worker has begun."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from tests.support import eventually
from tests.support.processes import Cluster, Process, cluster, functions_are_known, workers_answer

ITEMS = 10_000
AGAIN_SHARE = 0.05
"""The share of the bodies that may run again when the worker is killed."""
LEASE_SECONDS = "3"
"""Short, and long enough for a busy machine: a lease that lapses under a worker that lives has bodies run again too."""


class FannedOut(msgspec.Struct, frozen=True):
    """What came of a map.

    Attributes:
        items: how many there were.
        seconds: how long it took.
        in_order: whether the results were right, and in order.
        peaks: the largest memory of each process that was not killed, in MiB.
        before_kill: how many bodies had begun when the worker was killed; 0 where none was.
        again: how many bodies have run again.
        workers: how many workers have run bodies; only known where one was killed.

    """

    items: int
    seconds: float
    in_order: bool
    peaks: Mapping[str, float]
    before_kill: int = 0
    again: int = 0
    workers: int = 0

    def violations(self) -> list[str]:
        """Return what must not be."""
        wrong = [] if self.in_order else ["the results are not those of the items, in order"]
        if self.again > AGAIN_SHARE * self.items:
            wrong.append(f"{self.again} bodies of {self.items} ran again, more than {AGAIN_SHARE:.0%}")
        if self.before_kill and self.workers != 2:
            wrong.append(f"{self.workers} workers have run bodies, and one was to take over from the other")
        return wrong


def memory_mib(process: Process, what: str) -> float:
    """Return a figure of a process's memory: "VmHWM", its peak, or "VmRSS", what it has now."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == what:
            return int(rest.split()[0]) / 1024
    msg = f"the system does not tell {what} of process {process.pid}"
    raise OSError(msg)


async def undisturbed(processes: Cluster, items: int) -> FannedOut:
    """Map items on one engine and one worker."""
    members = {"engine": processes.engine(), "worker": processes.worker("flows.py")}
    async with processes.client() as client:
        await functions_are_known(client, "doubles")
        begun = time.monotonic()
        results = await (await client.start("doubles", items)).result("300s")
        seconds = time.monotonic() - begun
    return FannedOut(items, seconds, _are_doubles(results, items), _peaks(members))


async def killed_at_half(processes: Cluster, items: int) -> FannedOut:
    """Map items on one engine and two workers, and kill the one that is at it when half of the bodies have begun."""
    engine = processes.engine("--lease", LEASE_SECONDS)
    workers = {worker.pid: worker for worker in (processes.worker("flows.py") for _ in range(2))}
    async with processes.client() as client:
        await functions_are_known(client, "seen-doubles")
        await workers_answer(client, 2)
        begun = time.monotonic()
        run = await client.start("seen-doubles", items)

        def half_have_begun() -> None:
            assert processes.witness.read_bytes().count(b"\n") >= items // 2

        await eventually(half_have_begun, within=120.0)
        at_work = int(processes.witness.read_text().partition(" ")[0])
        workers.pop(at_work).kill()
        before_kill = len(_bodies(processes))
        results = await run.result("300s")
        seconds = time.monotonic() - begun
    bodies = _bodies(processes)
    (survivor,) = workers.values()
    return FannedOut(
        items,
        seconds,
        _are_doubles(results, items),
        _peaks({"engine": engine, "worker that took over": survivor}),
        before_kill=before_kill,
        again=sum(times - 1 for times in Counter(number for _, number in bodies).values()),
        workers=len({pid for pid, _ in bodies}),
    )


async def main() -> int:
    """Print the figures; fail where results are not in order, or too much ran again after a kill."""
    wrong: list[str] = []
    for title, measure in (("undisturbed", undisturbed), ("worker killed at half", killed_at_half)):
        with (
            tempfile.TemporaryDirectory() as folder,
            EmbeddedServer(Path(folder) / "nats") as server,
            cluster(server.url, "bench", Path(folder)) as processes,
        ):
            found = await measure(processes, ITEMS)
        print(f"{title}: {ITEMS:,} items in {found.seconds:.1f} s, {ITEMS / found.seconds:,.0f} a second")
        print(f"results in order: {'yes' if found.in_order else 'no'}")
        if found.before_kill:
            share = found.again / ITEMS
            print(f"killed when {found.before_kill:,} bodies had begun; {found.again:,} ran again, {share:.1%}")
        print(tabulate(found.peaks.items(), headers=("process", "peak memory in MiB"), floatfmt=".0f"), end="\n\n")
        wrong += found.violations()
    for violation in wrong:
        print(f"wrong: {violation}")
    return 1 if wrong else 0


def _are_doubles(results: object, items: int) -> bool:
    return results == [2 * number for number in range(items)]


def _peaks(members: Mapping[str, Process]) -> dict[str, float]:
    return {name: memory_mib(process, "VmHWM") for name, process in members.items()}


def _bodies(processes: Cluster) -> list[list[str]]:
    """Return who has begun which body."""
    return [line.split() for line in processes.witness.read_text().splitlines()]
