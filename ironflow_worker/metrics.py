"""What a worker counts."""

from __future__ import annotations

from collections import Counter as Tally

from prometheus_client import Counter, Gauge, Histogram

from ironflow.telemetry.metrics import QUICK, ProcessMetrics


class Metrics(ProcessMetrics):
    """A worker's metrics."""

    def __init__(self) -> None:
        super().__init__()
        self._commits: list[int] = []
        self._ends: list[tuple[str, str]] = []
        self._bodies: list[tuple[str, str, float]] = []
        self._running_passes = 0
        self._by_labels: dict[tuple[str, str, str], Counter] = {}
        self._seconds: dict[str, Histogram] = {}
        self._passes = Counter(
            "ironflow_worker_passes",
            "Passes that ended, by how they ended.",
            ("function", "outcome"),
            registry=self._registry,
        )
        self._steps = Counter(
            "ironflow_worker_steps",
            "Step bodies that ended, by how they ended.",
            ("function", "outcome"),
            registry=self._registry,
        )
        self.step_seconds = Histogram(
            "ironflow_worker_step_duration_seconds",
            "How long step bodies took.",
            ("function",),
            buckets=QUICK,
            registry=self._registry,
        )
        self._commit_records = Histogram(
            "ironflow_worker_commit_records",
            "Journal records that were sent to JetStream together.",
            buckets=(1, 8, 50, 100, 250, 500, 1000),
            registry=self._registry,
        )
        self.refused_records = Counter(
            "ironflow_worker_refused_records",
            "Records that another worker or the engine had written first.",
            registry=self._registry,
        )
        self.lost_leases = Counter(
            "ironflow_worker_lost_leases",
            "Records that were not written because the worker had been stopped for longer than its lease.",
            registry=self._registry,
        )
        self.sleep_lateness = Histogram(
            "ironflow_worker_sleep_lateness_seconds",
            "How late sleeps ended for whose end a worker waited.",
            buckets=QUICK,
            registry=self._registry,
        )
        self.dead_letters = Counter(
            "ironflow_worker_dead_letters",
            "Runs that were given up because no worker could do anything about them.",
            registry=self._registry,
        )
        running = Gauge("ironflow_worker_running", "Passes that run now.", registry=self._registry)
        running.set_function(lambda: self._running_passes)
        self.slots = Gauge("ironflow_worker_slots", "Passes that may run at a time.", registry=self._registry)

    def passes_begin(self, passes: int) -> None:
        """Note that so many more passes run now, or with a minus so many fewer."""
        self._running_passes += passes

    def records_sent(self, records: int) -> None:
        """Count records that are sent together."""
        self._commits.append(records)
        if not self._will_count:
            self._count_soon()

    def pass_ended(self, function: str, outcome: str) -> None:
        """Count a pass, by how it ended."""
        self._ends.append((function, outcome))
        if not self._will_count:
            self._count_soon()

    def step_ended(self, function: str, outcome: str, seconds: float) -> None:
        """Count a step's body, by how it ended, and how long it took."""
        self._bodies.append((function, outcome, seconds))
        if not self._will_count:
            self._count_soon()

    def _count_gathered(self) -> None:
        super()._count_gathered()
        commits, self._commits = self._commits, []
        ends, self._ends = self._ends, []
        bodies, self._bodies = self._bodies, []
        for records in commits:
            self._commit_records.observe(records)
        for (function, outcome), count in Tally(ends).items():
            self._labelled("passes", self._passes, function, outcome).inc(count)
        for (function, outcome), count in Tally(body[:2] for body in bodies).items():
            self._labelled("steps", self._steps, function, outcome).inc(count)
        for function, _, seconds in bodies:
            histogram = self._seconds.get(function)
            if histogram is None:
                histogram = self._seconds[function] = self.step_seconds.labels(function)
            histogram.observe(seconds)

    def _labelled(self, name: str, counter: Counter, function: str, outcome: str) -> Counter:
        # The library looks the labels up behind a lock, at several times the price of counting.
        key = name, function, outcome
        found = self._by_labels.get(key)
        if found is None:
            found = self._by_labels[key] = counter.labels(function, outcome)
        return found
