"""What alert rules and the dashboard ask for is what engines and workers export."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ironflow.broker.embedded import EmbeddedServer
from tests.support import eventually
from tests.support.processes import cluster, functions_are_known
from tests.support.queries import OF_PROMETHEUS, alerts, asked_of, exported, panels, queries
from tests.support.scrapes import SERVED, health_port, scrape, value

OF_TARGETS = {"job", "instance"}
"""Labels that Prometheus gives all that it scrapes from a target."""


async def test_every_metric_and_label_of_alerts_and_dashboard_is_exported(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(nats_server.url, namespace, tmp_path) as processes:
        ports = [await health_port(each) for each in (processes.engine(*SERVED), processes.worker("flows.py", *SERVED))]
        async with processes.client() as client:
            await functions_are_known(client, "ten-steps", "sleeper")
            await (await client.start("ten-steps")).result(timeout=30)
            await (await client.start("sleeper", 0.1)).result(timeout=30)

            async def scraped() -> dict[str, set[str]]:
                scrapes = [await scrape(port) for port in ports]
                assert value(scrapes[0], "ironflow_engine_runs_ended_total") == 2
                return exported(*scrapes)

            found = await eventually(scraped, within=20.0)
    found |= OF_PROMETHEUS
    asked = {
        (title, name, label) for title, query in queries() for name, all_ in asked_of(query) for label in (*all_, "")
    }
    missing = {(title, name) for title, name, _ in asked if name not in found}
    assert missing == set()
    # What has not happened yet has no series, and so tells nothing of its labels.
    unknown = {
        (title, name, label)
        for title, name, label in asked
        if found[name] and label and label not in found[name] | OF_TARGETS
    }
    assert unknown == set()
    unasked = {name for name in found if name.startswith("ironflow_")} - {name for _, name, _ in asked}
    assert {re.sub("_(sum|count)$", "_bucket", name) for name in unasked} - {name for _, name, _ in asked} == {
        "ironflow_build_info"
    }


@pytest.mark.parametrize("query", ["sum(rate(x[5m])", "histogram_quantile(0.9)"])
def test_what_is_no_promql_is_found_out(query: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(asked_of(query))


def test_alerts_have_names_of_their_own_and_say_what_is_the_matter() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    for rule in alerts():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"].endswith(".")


def test_every_alert_is_explained_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert [rule["alert"] for rule in alerts() if f"`{rule['alert']}`" not in text] == []


def test_panels_do_not_lie_on_each_other() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels())
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)
