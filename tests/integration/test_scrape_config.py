"""The scrape configuration in ops/prometheus finds what the manifests start, under the names that alerts go by."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.support.manifests import container_of, of_kind, port_of
from tests.support.queries import OPS, alerts

Labels = dict[str, str]


def targets(overlay: str) -> dict[tuple[str, int], Labels]:
    """Return what Prometheus is told of each port of each pod."""
    found: dict[tuple[str, int], Labels] = {}
    for name, manifest in of_kind(overlay, "Deployment", "StatefulSet").items():
        of_pod = manifest["spec"]["template"]["metadata"]["labels"]
        labels = {f"__meta_kubernetes_pod_label_{re.sub('[^a-zA-Z0-9_]', '_', key)}": of_pod[key] for key in of_pod}
        for port in container_of(manifest)["ports"]:
            found[name, port["containerPort"]] = labels | {
                "__meta_kubernetes_pod_name": f"{name}-abc",
                "__meta_kubernetes_pod_container_port_name": port["name"],
            }
    return found


def relabelled(rules: list[dict[str, Any]], labels: Labels) -> Labels | None:
    """Return the labels that a target keeps, by the few actions that are used; None where it is not scraped."""
    for rule in rules:
        value = ";".join(labels.get(name, "") for name in rule["source_labels"])
        matches = re.fullmatch(rule.get("regex", "(.*)"), value) is not None
        if rule.get("action") == "keep":
            if not matches:
                return None
        else:
            assert rule.keys() == {"source_labels", "target_label"}
            labels = labels | {rule["target_label"]: value}
    return {name: value for name, value in labels.items() if not name.startswith("__")}


@pytest.mark.parametrize("overlay", ["single", "cluster"])
def test_engines_and_workers_are_scraped_at_their_health_ports_and_nothing_else_is(overlay: str) -> None:
    (config,) = yaml.safe_load((OPS / "prometheus" / "scrape.yaml").read_text())
    (discovery,) = config["kubernetes_sd_configs"]
    assert discovery["namespaces"]["names"] == list(of_kind(overlay, "Namespace"))
    found = {where: relabelled(config["relabel_configs"], labels) for where, labels in targets(overlay).items()}
    scraped = {where: labels for where, labels in found.items() if labels is not None}
    deployments = of_kind(overlay, "Deployment")
    assert scraped.keys() == {
        (name, port_of(container_of(each), "readinessProbe")) for name, each in deployments.items()
    }
    assert {labels["job"] for labels in scraped.values()} == {"ironflow-engine", "ironflow-worker"}
    asked = {job for rule in alerts() for job in re.findall(r'job="([^"]*)"', rule["expr"])}
    assert asked <= {labels["job"] for labels in scraped.values()}
    assert all(labels["instance"].startswith(name) for (name, _), labels in scraped.items())
