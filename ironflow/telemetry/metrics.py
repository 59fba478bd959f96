"""What every process counts, whatever else it does."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Histogram, Info, ProcessCollector

from ironflow.version import __version__

QUICK = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
"""Bounds, in seconds, of what shall be a matter of moments. Few: each is a series for each label."""

_GATHER_SECONDS = 0.05
"""Longer than a run of a few steps takes, so that counting seldom comes in the midst of one; too short to be seen."""


class ProcessMetrics:
    """The metrics of one process, in a registry of their own so that several fit into one process.

    What happens with each record is gathered for a moment and counted then: to count takes as long as a tenth of a
    step, in which the server has better use for the processor.

    Labels are bounded: functions, queues, streams, and how things ended. Ids of runs, steps, events and workers are
    never among them.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._will_count = False
        ProcessCollector(registry=self._registry)
        Info("ironflow_build", "The version of Ironflow.", registry=self._registry).info({"version": __version__})
        self.event_loop_lag = Histogram(
            "ironflow_event_loop_lag_seconds",
            "How late the event loop came to what was due; body code that blocks it shows here.",
            buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0),
            registry=self._registry,
        )

    @property
    def registry(self) -> CollectorRegistry:
        """The registry, up to date."""
        self._count_gathered()
        return self._registry

    def _count_soon(self) -> None:
        """Have what has gathered counted in a moment; to be called while nothing has."""
        self._will_count = True
        asyncio.get_running_loop().call_later(_GATHER_SECONDS, self._count_gathered)

    def _count_gathered(self) -> None:
        """Count what has gathered, and gather anew."""
        self._will_count = False
