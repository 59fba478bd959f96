"""What is counted with every record is exported as the library exports its own."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest as text
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from ironflow.telemetry.tallies import CounterTally, HistogramTally

BOUNDS = (0.005, 1, 60.0, 86_400)
VALUES = (0.0, 0.005, 0.0051, 1.0, 59, 60.5, 1e9)


@pytest.fixture
def ours() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    # As in every process of ours.
    monkeypatch.setattr("prometheus_client.metrics._use_created", False)
    return CollectorRegistry()


def assert_same(ours: CollectorRegistry, theirs: CollectorRegistry) -> None:
    assert text(ours) == text(theirs)
    assert openmetrics(ours) == openmetrics(theirs)  # type: ignore[no-untyped-call]


def test_a_counter_is_exported_as_the_librarys_own(ours: CollectorRegistry, theirs: CollectorRegistry) -> None:
    tally = CounterTally("passes", "Passes.", ("function", "outcome"), ours)
    counter = Counter("passes", "Passes.", ("function", "outcome"), registry=theirs)
    assert_same(ours, theirs)
    for labels in (("f", "completed"), ("f", "completed"), ('g "x"\n', "failed")):
        tally.counts[labels] += 1
        counter.labels(*labels).inc()
    assert_same(ours, theirs)


def test_a_histogram_is_exported_as_the_librarys_own(ours: CollectorRegistry, theirs: CollectorRegistry) -> None:
    tally = HistogramTally("seconds", "Seconds.", ("function",), BOUNDS, ours)
    histogram = Histogram("seconds", "Seconds.", ("function",), buckets=BOUNDS, registry=theirs)
    assert_same(ours, theirs)
    for value in VALUES:
        tally.of("f").observe(value)
        histogram.labels("f").observe(value)
    assert_same(ours, theirs)


def test_a_histogram_without_labels_is_there_from_the_begin(ours: CollectorRegistry, theirs: CollectorRegistry) -> None:
    tally = HistogramTally("records", "Records.", (), BOUNDS, ours)
    histogram = Histogram("records", "Records.", buckets=BOUNDS, registry=theirs)
    assert_same(ours, theirs)
    assert b'records_bucket{le="+Inf"} 0.0' in text(ours)
    tally.of().observe(2)
    histogram.observe(2)
    assert_same(ours, theirs)
