"""What alert rules and dashboards ask of Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from prometheus_client.metrics_core import Metric

OPS = Path(__file__).parents[2] / "ops"
ALERTS = OPS / "prometheus" / "alerts.yaml"
DASHBOARD = OPS / "grafana" / "dashboard.json"

OF_PROMETHEUS = {"up": {"job", "instance"}}
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "info": ("_info",)}
_PARTS = ("lhs", "rhs", "expr", "vector_selector", "param")


def alerts() -> list[dict[str, Any]]:
    """Return the alert rules."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels, without those that only are headings."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def asked_of(query: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield each metric that a query names, with the labels that it selects or groups it by.

    Raises:
        ValueError: it is no PromQL.

    """
    yield from _walk(promql_parser.parse(query.replace("$__rate_interval", "5m")), frozenset())


def _walk(part: Any, labels: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    if isinstance(part, promql_parser.VectorSelector):
        assert part.name is not None
        yield part.name, labels | {matcher.name for matcher in part.matchers.matchers}
        return
    modifier = getattr(part, "modifier", None)
    if isinstance(part, promql_parser.AggregateExpr) and modifier is not None:
        labels |= set(modifier.labels)
    for inner in [*(getattr(part, name, None) for name in _PARTS), *getattr(part, "args", ())]:
        if inner is not None:
            yield from _walk(inner, labels)


def queries() -> list[tuple[str, str]]:
    """Return what each alert and each panel asks, behind its name."""
    of_panels = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    return [(rule["alert"], rule["expr"]) for rule in alerts()] + of_panels


def exported(*scrapes: dict[str, Metric]) -> dict[str, set[str]]:
    """Return the labels of each series by name; of counters that have not counted anything yet too."""
    found: dict[str, set[str]] = {}
    for metrics in scrapes:
        for family in metrics.values():
            for suffix in _SUFFIXES[family.type]:
                found.setdefault(family.name + suffix, set())
            for sample in family.samples:
                found[sample.name] |= sample.labels.keys()
    return found


def unknown_to(*scrapes: dict[str, Metric]) -> set[str]:
    """Return the metrics that alerts or panels ask for, and that none of these scrapes has."""
    return metrics_asked_for() - exported(*scrapes).keys() - OF_PROMETHEUS.keys()


def metrics_asked_for() -> set[str]:
    """Return the metrics that alerts and panels ask for."""
    return {name for _, query in queries() for name, _ in asked_of(query)}
