"""What a worker counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from ironflow.telemetry.metrics import QUICK, ProcessMetrics
from ironflow.telemetry.tallies import CounterTally, HistogramTally


class Metrics(ProcessMetrics):
    """A worker's metrics.

    Attributes:
        records_sent: counts records that are sent together.

    """

    def __init__(self) -> None:
        super().__init__()
        self._running_passes = 0
        ended = ("function", "outcome")
        self._passes = CounterTally(
            "ironflow_worker_passes", "Passes that ended, by how they ended.", ended, self.registry
        )
        self._steps = CounterTally(
            "ironflow_worker_steps", "Step bodies that ended, by how they ended.", ended, self.registry
        )
        self._step_seconds = HistogramTally(
            "ironflow_worker_step_duration_seconds", "How long step bodies took.", ("function",), QUICK, self.registry
        )
        commits = HistogramTally(
            "ironflow_worker_commit_records",
            "Journal records that were sent to JetStream together.",
            (),
            (1, 8, 50, 100, 250, 500, 1000),
            self.registry,
        )
        self.records_sent = commits.of().observe
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
        self.sleep_lateness = Histogram(
            "ironflow_worker_sleep_lateness_seconds",
            "How late sleeps ended for whose end a worker waited.",
            buckets=QUICK,
            registry=self.registry,
        )
        self.dead_letters = Counter(
            "ironflow_worker_dead_letters",
            "Runs that were given up because no worker could do anything about them.",
            registry=self.registry,
        )
        running = Gauge("ironflow_worker_running", "Passes that run now.", registry=self.registry)
        running.set_function(lambda: self._running_passes)
        self.slots = Gauge("ironflow_worker_slots", "Passes that may run at a time.", registry=self.registry)

    def passes_begin(self, passes: int) -> None:
        """Note that so many more passes run now, or with a minus so many fewer."""
        self._running_passes += passes

    def pass_ended(self, function: str, outcome: str) -> None:
        """Count a pass, by how it ended."""
        self._passes.counts[function, outcome] += 1

    def step_ended(self, function: str, outcome: str, seconds: float) -> None:
        """Count a step's body, by how it ended, and how long it took."""
        self._steps.counts[function, outcome] += 1
        self._step_seconds.of(function).observe(seconds)
