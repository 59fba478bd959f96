"""One experiment: a load, what goes wrong meanwhile, healing, and the history of it all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tests.chaos import timeline as timelines
from tests.chaos.cluster import ChaosCluster, ClusterSettings, chaos_cluster
from tests.chaos.collector import Collector
from tests.chaos.history import History
from tests.chaos.injector import Injector
from tests.chaos.load import Load, all_end
from tests.chaos.programs import Order
from tests.chaos.timeline import Timeline
from tests.chaos.witness import read_witness

REFUSED_RECORDS = "ironflow_worker_refused_records_total"


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done.

    Attributes:
        orders: the load.
        submit_seconds: over how long the orders are submitted.
        timeline: what goes wrong.
        settings: the processes.
        end_within: seconds after the last fault in which all must have ended; what is only late has ended by then, and
            what is lost has not.

    """

    orders: Sequence[Order]
    submit_seconds: float
    timeline: Timeline
    settings: ClusterSettings = ClusterSettings()
    end_within: float = 240.0


class Observed(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        baseline: what came of the same load with nothing wrong, where the row asks for it.
        ended: whether all runs ended, and all was used up, in time.
        seconds_to_end: from the last fault's end.
        exits: the codes with which processes ended by themselves.
        unready_seconds: how long each process took to say that it cannot store anything, where it could not.

    """

    history: History
    ended: bool
    seconds_to_end: float
    exits: tuple[int, ...]
    unready_seconds: tuple[float, ...] = ()
    baseline: History | None = None


async def carry_out(experiment: Experiment, folder: Path) -> Observed:
    """Carry out an experiment in a folder of its own."""
    _keep(experiment, folder)
    async with chaos_cluster(experiment.settings, folder) as cluster:
        load = Load(cluster.client, experiment.orders, experiment.submit_seconds)
        injector = Injector(cluster)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            group.create_task(injector.run(experiment.timeline))
        await cluster.heal()
        began = asyncio.get_running_loop().time()
        collector = Collector(cluster.broker, cluster.names)
        ended, leftovers = await all_end(collector, load.submitted, experiment.end_within)
        seconds = asyncio.get_running_loop().time() - began
        history = await _collect(cluster, collector, load, injector, leftovers)
        exits = tuple(code for child in cluster.children for code in child.exits)
    return Observed(history, ended, seconds, exits, tuple(injector.unready_seconds))


def _keep(experiment: Experiment, folder: Path) -> None:
    """Write down what is about to be done, so that it can be done again."""
    folder.mkdir(parents=True, exist_ok=True)
    timelines.save(experiment.timeline, folder / "timeline.jsonl")
    (folder / "orders.json").write_bytes(msgspec.json.encode(experiment.orders))


async def _collect(
    cluster: ChaosCluster, collector: Collector, load: Load, injector: Injector, leftovers: Mapping[str, int]
) -> History:
    return History(
        submitted=[*load.submitted, *injector.submitted],
        events=await collector.events(),
        journal=await collector.journal(),
        states=await collector.states(),
        lines=read_witness(cluster.folder),
        leftovers=leftovers,
        timers=await collector.timers(),
        injected=injector.injected,
        metrics={REFUSED_RECORDS: await cluster.metric(REFUSED_RECORDS)},
        refused=dict(load.refused),
        in_vain={
            child.name: sorted(moment for proxy in child.proxies for moment in proxy.in_vain)
            for child in cluster.children
        },
    )
