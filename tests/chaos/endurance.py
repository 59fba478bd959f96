"""Row 15: what one worker and one engine need while they do very many steps: ``python -m tests.chaos.endurance``."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from tests.chaos.cluster import ChaosCluster, Child, ClusterSettings, chaos_cluster
from tests.chaos.collector import Collector
from tests.chaos.load import Load, all_end
from tests.chaos.programs import Order, Work
from tests.chaos.report import Figure, RowResult, render

STEPS_A_RUN = 50
WARM_UP_RUNS_A_SECOND = 80
IN_HAND = 200
"""So many runs are on their way all the time, two to four seconds' work. Submitted at a pace of their own, on a slow
machine they would become more and more, and an engine needs memory for each run that has not ended."""
LOOK_SECONDS = 1.0
WARM_UP_RUNS = 6_000
"""Of one step each, before anything is counted: what an engine needs depends on runs, and it takes some thousands until
its caches and lists have what they keep."""
WARM_UP_SHARE = 0.25
LONGEST_SECONDS = 60 * 60
FEWEST_STEPS = 20_000
"""With fewer, what processes need at their start is all that shows."""


class Needs(msgspec.Struct, frozen=True):
    """What a process needs at a moment.

    Attributes:
        steps: how many have been recorded by then.
        kilobytes: of memory, resident.

    """

    steps: int
    kilobytes: float
    descriptors: int
    threads: int


def needs(child: Child, steps: int) -> Needs:
    """Return what a process needs now; Linux only."""
    process = Path("/proc") / str(child.pid)
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    memory = float(status["VmRSS"].split()[0])
    return Needs(steps, memory, len(list((process / "fd").iterdir())), int(status["Threads"]))


def megabytes_per_100_000_steps(samples: Sequence[Needs]) -> float:
    """Return by how much memory grows, by the line that fits best."""
    slope = statistics.linear_regression([each.steps for each in samples], [each.kilobytes for each in samples]).slope
    return slope * 100_000 / 1024


async def measure(steps: int, folder: Path) -> RowResult:
    """Have so many steps done, and look at the processes each second."""
    runs = max(1, steps // STEPS_A_RUN)
    program = tuple(Work(f"step {number}", milliseconds=0) for number in range(STEPS_A_RUN))
    orders = [Order(number, program) for number in range(runs)]
    async with chaos_cluster(ClusterSettings(engines=1, workers=1, slots=20, lease=10.0), folder) as cluster:
        before = await _warm_up(cluster, runs)
        begun = 0
        seen: dict[str, list[Needs]] = {"engine": [], "worker": []}
        async with asyncio.timeout(LONGEST_SECONDS):
            while (done := await _steps_done(cluster, before)) < runs * STEPS_A_RUN:
                seen["engine"].append(needs(cluster.engines[0], done))
                seen["worker"].append(needs(cluster.workers[0], done))
                following = orders[begun : done // STEPS_A_RUN + IN_HAND]
                begun += len(following)
                await asyncio.gather(Load(cluster.client, following, LOOK_SECONDS).run(), asyncio.sleep(LOOK_SECONDS))
    figures = [figure for who, samples in seen.items() for figure in _figures(who, samples, runs * STEPS_A_RUN)]
    tested = runs * STEPS_A_RUN >= FEWEST_STEPS
    return RowResult(15, "very many steps, and nothing wrong", runs * STEPS_A_RUN, figures, tested=tested)


async def _warm_up(cluster: ChaosCluster, first: int) -> int:
    """Have many small runs done, numbered from *first*; return how many facts are in the journal then."""
    orders = [Order(number, (Work("step", milliseconds=0),)) for number in range(first, first + WARM_UP_RUNS)]
    load = Load(cluster.client, orders, WARM_UP_RUNS / WARM_UP_RUNS_A_SECOND)
    await load.run()
    ended, left = await all_end(Collector(cluster.broker, cluster.names), load.submitted, LONGEST_SECONDS)
    assert ended, left
    return (await cluster.broker.stream_state(cluster.names.all_shards[0].journal)).last_sequence


async def _steps_done(cluster: ChaosCluster, before: int) -> int:
    """Return how many steps are in the journal since; these runs record a fact for each, and one outcome."""
    facts = (await cluster.broker.stream_state(cluster.names.all_shards[0].journal)).last_sequence - before
    return facts * STEPS_A_RUN // (STEPS_A_RUN + 1)


def _figures(who: str, samples: Sequence[Needs], steps: int) -> list[Figure]:
    warm = [each for each in samples if each.steps >= WARM_UP_SHARE * steps]
    descriptors, threads = [each.descriptors for each in warm], [each.threads for each in warm]
    return [
        Figure(f"{who}: memory, in the end", round(warm[-1].kilobytes / 1024), None, " MB"),
        Figure(f"{who}: memory, more per 100,000 steps", round(megabytes_per_100_000_steps(warm), 2), 1.0, " MB"),
        Figure(f"{who}: file descriptors, more or fewer", max(descriptors) - min(descriptors), 2),
        Figure(f"{who}: threads, more or fewer", max(threads) - min(threads), 0),
    ]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--steps", default=100_000, show_default=True, help="How many, over all runs.")
def main(steps: int) -> None:
    """Have one worker and one engine do very many steps, and look for what grows."""
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(steps, Path(folder)))
    click.echo(render([result]))
    sys.exit(0 if result.ok else 1)


if __name__ == "__main__":
    main()
