"""A minute of everything, on real processes: the small sister of ``just chaos``."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.chaos import figures
from tests.chaos.checker import check
from tests.chaos.cluster import ClusterSettings
from tests.chaos.experiment import Experiment, carry_out
from tests.chaos.load import orders_of
from tests.chaos.timeline import Fault

SECONDS = 13.0
RUNS = 30

TIMELINE = (
    Fault(1.0, "kill_worker", 0, seconds=0.2),
    Fault(2.0, "ambiguous", seconds=2.0, share=0.05),
    Fault(3.0, "stop_worker", 1, seconds=2.0),
    Fault(5.0, "kill_server", seconds=0.2),
    Fault(6.5, "network_of_worker", 2, seconds=2.0, network="black_hole"),
    Fault(8.0, "kill_engine", 0, seconds=0.2),
    Fault(9.0, "network_of_engine", 1, seconds=2.0, network="deaf"),
    Fault(10.0, "stop_engine", 0, seconds=2.0),
    Fault(11.0, "kill_worker", 3, seconds=0.2),
    Fault(12.0, "reset_worker", 0),
)


async def test_nothing_is_lost_doubled_or_early_whatever_breaks(tmp_path: Path) -> None:
    experiment = Experiment(orders=orders_of(RUNS, seed=1), submit_seconds=SECONDS, timeline=TIMELINE, end_within=40.0)
    seen = await carry_out(experiment, tmp_path)
    assert check(seen.history) == []
    # Each has a child.
    assert len(seen.history.ends) == 2 * RUNS
    # Faults that meet no work prove nothing.
    assert len(figures.touched(seen.history)) > RUNS / 4


@pytest.mark.parametrize(("crash", "shards"), [("6:before", 1), ("6:after", 1), ("6:after", 3)])
async def test_processes_may_die_at_a_write_of_their_own(tmp_path: Path, crash: str, shards: int) -> None:
    settings = ClusterSettings(engines=1, workers=2, crash=crash, shards=shards)
    experiment = Experiment(
        orders=orders_of(6, seed=1), submit_seconds=1.0, timeline=(), settings=settings, end_within=40.0
    )
    seen = await carry_out(experiment, tmp_path)
    assert check(seen.history) == []
    # A worker may be left so little to do that it does not get to its sixth write.
    assert set(seen.exits) == {-signal.SIGKILL}
    assert len(seen.exits) in (2, 3)
