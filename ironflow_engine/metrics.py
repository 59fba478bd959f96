"""What an engine counts."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from ironflow.records import TERMINAL, RunState
from ironflow.telemetry.metrics import QUICK, ProcessMetrics
from ironflow.telemetry.tallies import CounterTally, HistogramTally

_RUN_BOUNDS = (0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0)
_UNKNOWN = "(unknown)"
"""Stands for functions that nobody has registered: anybody may ask for one, by any name."""


class Metrics(ProcessMetrics):
    """An engine's metrics.

    What happens to runs is counted by the one engine whose write of the run's state was accepted, so the sum over all
    engines is exact but for engines that were killed. What waits is measured, and every engine tells the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self._runs_started = self._tally("runs_started", "Runs that began.", "function", "queue")
        self._runs_ended = self._tally("runs_ended", "Runs that ended, by how.", "function", "queue", "status")
        self._runs_retried = self._tally("runs_retried", "Failed runs that go on.", "function", "queue")
        self._run_seconds = HistogramTally(
            "ironflow_engine_run_duration_seconds",
            "From a run's start, or its retry, to its end.",
            ("function",),
            _RUN_BOUNDS,
            self.registry,
        )
        self.timer_lateness = Histogram(
            "ironflow_engine_timer_lateness_seconds",
            "How much later than due sleeps, back-offs and time-outs were ended.",
            buckets=QUICK,
            registry=self.registry,
        )
        self._batch_messages = HistogramTally(
            "ironflow_engine_batch_messages",
            "Messages that were taken from a stream and worked on together.",
            ("stream",),
            (1, 5, 25, 100, 250, 500),
            self.registry,
        )
        self.unreadable = self._counter("unreadable_messages", "Messages that were dropped as unreadable.", "stream")
        self.refused_records = self._counter(
            "refused_records", "Ends of waits that came second: the run had gone on, or ended, by another cause."
        )
        self.lost_workers = self._counter("lost_workers", "Workers whose tasks were handed on because they died.")
        self.taken_over = self._counter("tasks_taken_over", "Tasks that were handed on because their workers died.")
        self.reconciled = self._counter("runs_reconciled", "Runs that were overdue and go on.")
        self.queue_waiting = self._gauge("queue_waiting", "Tasks that no worker has taken.", "queue")
        self.queue_running = self._gauge("queue_running", "Tasks that workers have taken.", "queue")
        self.intake_pending = self._gauge("intake_pending", "Messages that engines have yet to take.", "stream")
        self.open_waits = self._gauge("open_waits", "Waits for events that are open.")
        self.timers = self._gauge("timers", "Timers that are set, or have fired and are not done with.")
        self.archive_unreachable = self._gauge(
            "archive_unreachable", "1 where there is an archive that cannot be used."
        )
        self.archive_pending = self._gauge("archive_pending", "Messages that are not copied to the archive yet.")

    def batch_sizes(self, stream: str) -> Callable[[int], None]:
        """Return what counts the messages of a stream that are taken and worked on together."""
        return self._batch_messages.of(stream).observe

    def run_changed(self, before: RunState | None, after: RunState) -> None:
        """Count what the change of a run's stored state means."""
        function = after.function if after.queue else _UNKNOWN
        had_ended, has_ended = before is not None and before.status in TERMINAL, after.status in TERMINAL
        if before is None:
            self._runs_started.counts[function, after.queue] += 1
        elif had_ended and not has_ended:
            self._runs_retried.counts[function, after.queue] += 1
        if has_ended and not had_ended:
            self._runs_ended.counts[function, after.queue, after.status] += 1
            began_at = after.epoch_started_at or after.started_at
            self._run_seconds.of(function).observe((after.finished_at - began_at) / 1000)

    def _tally(self, name: str, text: str, *labels: str) -> CounterTally:
        return CounterTally(f"ironflow_engine_{name}", text, labels, self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ironflow_engine_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"ironflow_engine_{name}", text, labels, registry=self.registry)
