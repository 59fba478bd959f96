"""Counters and histograms of what happens with every record.

The library's own may be used by any thread, which takes a histogram five calls and two locks for each observation.
These are added to by one thread, with one call or none, and the library exports them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Labels = tuple[str, ...]


class CounterTally(Collector):
    """A Prometheus counter.

    Args:
        name: what it is exported as, without ``_total``.
        text: what it says.
        labels: the names of its labels.
        registry: what exports it.

    Attributes:
        counts: how many, by the values of the labels; add to it, from one thread.

    """

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self.counts: Counter[Labels] = Counter()
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield what there is to export, in whatever thread."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self.counts.copy().items():
            family.add_metric(values, count)
        yield family


class Observations:
    """What a histogram has seen for one set of labels.

    Args:
        bounds: the upper bounds of its buckets, in ascending order.

    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._buckets = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Add a value, from one thread."""
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def exported(self) -> tuple[list[tuple[str, float]], float]:
        """Return how many values were at most as large as each bound, and the sum of all, in whatever thread.

        A value that is added meanwhile may be in one of the two only.
        """
        bounds = (*(str(float(bound)) for bound in self._bounds), "+Inf")
        return list(zip(bounds, map(float, accumulate(self._buckets.copy())), strict=True)), self._sum


class HistogramTally(Collector):
    """A Prometheus histogram.

    Args:
        name: what it is exported as.
        text: what it says.
        labels: the names of its labels; without any it is there before there is a value.
        bounds: the upper bounds of its buckets, in ascending order.
        registry: what exports it.

    """

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._seen: dict[Labels, Observations] = {}
        if not self._labels:
            self.of()
        registry.register(self)

    def of(self, *values: str) -> Observations:
        """Return what is added to for these values of the labels."""
        found = self._seen.get(values)
        if found is None:
            found = self._seen[values] = Observations(self._bounds)
        return found

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield what there is to export, in whatever thread."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, seen in self._seen.copy().items():
            buckets, total = seen.exported()
            family.add_metric(values, buckets, total)
        yield family
