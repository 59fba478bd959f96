"""Metrics that cost little to count with, for what happens thousands of times a second.

The library's own takes a lock for each number that it changes, and passes through several calls for each. What is
counted here is changed by one thread and only read by others, so it needs no lock; what is shown is the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily


class Count:
    """What was counted for one set of labels; by one thread only."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0.0

    def inc(self) -> None:
        """Count one more."""
        self.total += 1


class Counts:
    """A counter with labels, for a registry of the library's.

    Args:
        name: of the metric.
        text: says what it is.
        labels: their names.
        registry: shows it.

    """

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._counts: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def of(self, *values: str) -> Count:
        """Return where to count for these values of the labels."""
        count = self._counts.get(values)
        if count is None:
            count = self._counts[values] = Count()
        return count

    def describe(self) -> list[CounterMetricFamily]:
        """Tell the registry the name."""
        return [self._family()]

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Return what the registry is to show."""
        family = self._family()
        for values, count in list(self._counts.items()):
            family.add_metric(values, count.total)
        yield family

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(self._name, self._text, labels=self._labels)


class Tally:
    """What was observed for one set of labels; by one thread only."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Tallies:
    """A histogram, for a registry of the library's.

    Args:
        name: of the metric.
        text: says what it is.
        labels: their names; with none there is one tally from the start.
        bounds: what the values are sorted by, ascending.
        registry: shows it.

    """

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = bounds
        self._shown_bounds = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._tallies: dict[tuple[str, ...], Tally] = {}
        if not labels:
            self.of()
        registry.register(self)

    def of(self, *values: str) -> Tally:
        """Return where to count for these values of the labels."""
        tally = self._tallies.get(values)
        if tally is None:
            tally = self._tallies[values] = Tally(self._bounds)
        return tally

    def describe(self) -> list[HistogramMetricFamily]:
        """Tell the registry the name."""
        return [self._family()]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Return what the registry is to show."""
        family = self._family()
        for values, tally in list(self._tallies.items()):
            buckets = list(zip(self._shown_bounds, map(float, accumulate(tally.counts)), strict=True))
            family.add_metric(values, buckets, tally.total)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._text, labels=self._labels)
