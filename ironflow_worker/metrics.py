"""What a worker counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from ironflow.telemetry.metrics import QUICK, ProcessMetrics


class Metrics(ProcessMetrics):
    """A worker's metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = Counter(
            "ironflow_worker_passes",
            "Passes that ended, by how they ended.",
            ("function", "outcome"),
            registry=self.registry,
        )
        self.steps = Counter(
            "ironflow_worker_steps",
            "Step bodies that ended, by how they ended.",
            ("function", "outcome"),
            registry=self.registry,
        )
        self.step_seconds = Histogram(
            "ironflow_worker_step_duration_seconds",
            "How long step bodies took.",
            ("function",),
            buckets=QUICK,
            registry=self.registry,
        )
        self.commit_records = Histogram(
            "ironflow_worker_commit_records",
            "Journal records that were sent to JetStream together.",
            buckets=(1, 24, 50, 100, 250, 500, 1000),
            registry=self.registry,
        )
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
        self.dead_letters = Counter(
            "ironflow_worker_dead_letters",
            "Runs that were given up because no worker could do anything about them.",
            registry=self.registry,
        )
        self.running = Gauge("ironflow_worker_running", "Passes that run now.", registry=self.registry)
        self.slots = Gauge("ironflow_worker_slots", "Passes that may run at a time.", registry=self.registry)
