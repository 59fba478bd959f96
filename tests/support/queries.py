"""What alert rules and dashboards ask of Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

OPS = Path(__file__).parents[2] / "ops"
ALERTS = OPS / "prometheus" / "alerts.yaml"
DASHBOARD = OPS / "grafana" / "dashboard.json"

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
