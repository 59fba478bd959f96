"""What a worker counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """A worker's metrics, in a registry of their own so that several workers fit into one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
        self.running = Gauge("ironflow_worker_running", "Passes that run now.", registry=self.registry)
