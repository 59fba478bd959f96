"""What every process counts, whatever else it does."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, Info, ProcessCollector

from ironflow.version import __version__

QUICK = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
"""Bounds, in seconds, of what shall be a matter of moments. Few: each is a series for each label."""


class ProcessMetrics:
    """The metrics of one process, in a registry of their own so that several fit into one process.

    Labels are bounded: functions, queues, streams, and how things ended. Ids of runs, steps, events and workers are
    never among them.

    Attributes:
        registry: what exports them.

    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Info("ironflow_build", "The version of Ironflow.", registry=self.registry).info({"version": __version__})
        self.event_loop_lag = Histogram(
            "ironflow_event_loop_lag_seconds",
            "How late the event loop came to what was due; body code that blocks it shows here.",
            buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0),
            registry=self.registry,
        )
