"""What a worker counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from ironflow.telemetry.metrics import QUICK, ProcessMetrics
from ironflow.telemetry.tallies import Counts, Tallies


class Metrics(ProcessMetrics):
    """A worker's metrics."""

    def __init__(self) -> None:
        super().__init__()
        self._passes = Counts(
            "ironflow_worker_passes", "Passes that ended, by how they ended.", ("function", "outcome"), self.registry
        )
        self._steps = Counts(
            "ironflow_worker_steps",
            "Step bodies that ended, by how they ended.",
            ("function", "outcome"),
            self.registry,
        )
        self._step_seconds = Tallies(
            "ironflow_worker_step_duration_seconds",
            "How long step bodies took.",
            ("function",),
            QUICK,
            self.registry,
        )
        self.commit_records = Tallies(
            "ironflow_worker_commit_records",
            "Journal records that were sent to JetStream together.",
            (),
            (1, 8, 50, 100, 250, 500, 1000),
            self.registry,
        ).of()
        self.refused_records = Counter(
            "ironflow_worker_refused_records",
            "Records that another worker or the engine had written first.",
            registry=self.registry,
        )
        self.lost_leases = Counter(
            "ironflow_worker_lost_leases",
            "Records that were not written because the worker had been stopped for longer than its lease.",
            registry=self.registry,
        )
        self.sleep_lateness = Tallies(
            "ironflow_worker_sleep_lateness_seconds",
            "How late sleeps ended for whose end a worker waited.",
            (),
            QUICK,
            self.registry,
        ).of()
        self.dead_letters = Counter(
            "ironflow_worker_dead_letters",
            "Runs that were given up because no worker could do anything about them.",
            registry=self.registry,
        )
        self.running = Gauge("ironflow_worker_running", "Passes that run now.", registry=self.registry)
        self.slots = Gauge("ironflow_worker_slots", "Passes that may run at a time.", registry=self.registry)

    def pass_ended(self, function: str, outcome: str) -> None:
        """Count a pass, by how it ended."""
        self._passes.of(function, outcome).inc()

    def step_ended(self, function: str, outcome: str, seconds: float) -> None:
        """Count a step's body, by how it ended, and how long it took."""
        self._steps.of(function, outcome).inc()
        self._step_seconds.of(function).observe(seconds)
