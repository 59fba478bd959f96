"""Counters and histograms of our own show what the library's show."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from ironflow.telemetry.tallies import Counts, Tallies

NAME, TEXT, BOUNDS = "took_seconds", "How long it took.", (0.005, 1, 60.0)
VALUES = (0.0, 0.005, 0.006, 1.0, 59.5, 61.0)


def shown(registry: CollectorRegistry) -> list[str]:
    # When a metric was created is shown by none of our processes.
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def test_what_is_counted_is_shown_as_the_library_shows_it() -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    counter = Counter("steps", TEXT, ("function", "how"), registry=theirs)
    counts = Counts("steps", TEXT, ("function", "how"), ours)
    for function in ("f", "f", 'g"'):
        counter.labels(function, "well").inc()
        counts.of(function, "well").inc()
    assert shown(ours) == shown(theirs)


def test_values_are_shown_as_the_library_shows_them() -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram(NAME, TEXT, ("function", "how"), buckets=BOUNDS, registry=theirs)
    tallies = Tallies(NAME, TEXT, ("function", "how"), BOUNDS, ours)
    for function in ("f", 'g"'):
        for value in VALUES:
            histogram.labels(function, "well").observe(value)
            tallies.of(function, "well").observe(value)
    assert shown(ours) == shown(theirs)


def test_without_labels_it_is_shown_before_anything_is_counted() -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    Histogram(NAME, TEXT, buckets=BOUNDS, registry=theirs)
    Tallies(NAME, TEXT, (), BOUNDS, ours)
    assert shown(ours) == shown(theirs)


def test_the_registry_knows_its_names() -> None:
    registry = CollectorRegistry()
    Tallies(NAME, TEXT, (), BOUNDS, registry).of().observe(0.5)
    asked_for = registry.restricted_registry([f"{NAME}_bucket"])
    assert f'{NAME}_bucket{{le="1.0"}} 1.0' in generate_latest(asked_for).decode()
