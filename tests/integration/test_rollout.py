"""Engines and workers are replaced under load, as a Deployment does; `python -m tests.bench rolling` does more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ironflow.broker.embedded import EmbeddedServer
from tests.bench.rolling import Figures, Plan, roll
from tests.support.rollout import Exit


async def test_replacing_all_engines_and_workers_disturbs_no_run(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    # A long run takes longer than a drain, and each of its bodies is shorter.
    plan = Plan(rounds=1, engines=1, workers=1, long_runs=2, long_bodies=9, long_seconds=0.4, drain=2.0)
    figures = await roll(plan, nats_server.url, namespace, tmp_path)
    assert figures.faults() == []
    assert Counter(each.kind for each in figures.exits) == {"engine": 1, "worker": 1}
    assert figures.ends["completed"] > plan.long_runs


def test_each_fault_of_a_rollout_is_told() -> None:
    figures = Figures(
        exits=[Exit("engine", 1.0, 0), Exit("worker", 45.0, None), Exit("worker", 1.0, 1)],
        ends=Counter(completed=5, failed=1),
        bodies=Counter({"run a": 1, "run b": 2}),
        seconds=[1.0],
        taken_for_dead=1,
    )
    assert figures.faults() == [
        "1 runs ended as failed",
        "a worker that was told to stop was taken for dead",
        "body run b began 2 times",
        "worker ended with None after 45.0 s",
        "worker ended with 1 after 1.0 s",
    ]
