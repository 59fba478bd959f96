"""What engines count of runs."""

from __future__ import annotations

from msgspec.structs import replace

from ironflow.records import RunState
from ironflow_engine.metrics import Metrics

STARTED = RunState(
    id="r", function="f", queue="q", status="queued", started_at=1_000, event_id="e", event_name="e", event_sequence=1
)
ENDED = replace(STARTED, status="failed", finished_at=3_000)


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"ironflow_engine_{name}", labels)


async def test_a_run_is_counted_when_it_starts_when_it_ends_and_when_it_goes_on() -> None:
    metrics = Metrics()
    metrics.run_changed(None, STARTED)
    metrics.run_changed(STARTED, replace(STARTED, status="waiting"))
    metrics.run_changed(STARTED, ENDED)
    metrics.run_changed(ENDED, replace(ENDED, status="queued"))
    assert sample(metrics, "runs_started_total", function="f", queue="q") == 1
    assert sample(metrics, "runs_ended_total", function="f", queue="q", status="failed") == 1
    assert sample(metrics, "runs_retried_total", function="f", queue="q") == 1
    assert sample(metrics, "run_duration_seconds_sum", function="f") == 2.0


async def test_names_that_nobody_has_registered_do_not_become_labels() -> None:
    metrics = Metrics()
    for number in range(1_000):
        metrics.run_changed(None, replace(ENDED, function=f"made-up-{number}", queue=""))
    assert sample(metrics, "runs_started_total", function="(unknown)", queue="") == 1_000
    started = next(family for family in metrics.registry.collect() if family.name == "ironflow_engine_runs_started")
    assert len({str(each.labels) for each in started.samples}) == 1
