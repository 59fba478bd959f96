"""The disk of the server runs full, which the server does not recover from by itself."""

from __future__ import annotations

from pathlib import Path

from tests.chaos import figures
from tests.chaos.checker import check
from tests.chaos.cluster import ClusterSettings
from tests.chaos.experiment import Experiment, carry_out
from tests.chaos.load import orders_of
from tests.chaos.timeline import Fault
from tests.support.disks import small_disk

SECONDS = 5.0
RUNS = 10
FULL_SECONDS = 3.0
DISK_BYTES = 64 * 1024 * 1024


async def test_a_disk_that_ran_full_costs_time_until_there_is_room_and_the_server_is_restarted(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "nats", DISK_BYTES):
        experiment = Experiment(
            orders=orders_of(RUNS, seed=1),
            submit_seconds=SECONDS,
            timeline=(Fault(2.0, "disk_full", seconds=FULL_SECONDS),),
            # It believes that it has more room than there is.
            settings=ClusterSettings(workers=2, stored_bytes=16 * DISK_BYTES),
            end_within=50.0,
        )
        seen = await carry_out(experiment, tmp_path)
    assert check(seen.history) == []
    assert len(seen.history.ends) == 2 * RUNS
    assert figures.touched(seen.history)
    # Nothing went in while it was full.
    [outage] = figures.outages(seen.history, "disk_full", FULL_SECONDS)
    assert outage >= 1000 * FULL_SECONDS
    assert set(seen.history.refused) <= {"PublishError"}
