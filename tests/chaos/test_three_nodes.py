"""A cluster that loses the leader of the journal under load: row 11 in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import figures
from tests.chaos.checker import check
from tests.chaos.cluster import ClusterSettings
from tests.chaos.experiment import Experiment, carry_out
from tests.chaos.load import orders_of
from tests.chaos.timeline import Fault

SECONDS = 12.0
RUNS = 15
LONGEST_OUTAGE_MS = 10_000
MOST_TRIES_A_SECOND = 50


@pytest.mark.slow
async def test_the_loss_of_a_leader_costs_seconds_and_nothing_else(tmp_path: Path) -> None:
    experiment = Experiment(
        orders=orders_of(RUNS, seed=1),
        submit_seconds=SECONDS,
        timeline=(Fault(4.0, "kill_leader", 0, seconds=2.0),),
        settings=ClusterSettings(engines=1, workers=2, servers=3),
        end_within=50.0,
    )
    seen = await carry_out(experiment, tmp_path)
    assert check(seen.history) == []
    assert len(seen.history.ends) == 2 * RUNS
    assert figures.touched(seen.history)
    [outage] = figures.outages(seen.history, "kill_leader", SECONDS)
    assert outage <= LONGEST_OUTAGE_MS
    tries = [figures.most_in_a_second(moments) for moments in seen.history.in_vain.values()]
    # Those that never asked in vain were not there.
    assert 0 < max(tries) <= MOST_TRIES_A_SECOND
