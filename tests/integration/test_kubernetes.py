"""The manifests in ops/k8s: what they say is allowed, and is what the processes understand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped] # it has no types
import pytest
from click.testing import CliRunner

from ironflow.broker.embedded import find_server
from ironflow.broker.topology import queue_consumers
from ironflow.cli.nats_accounts import nats_accounts
from ironflow.durations import parse_duration
from ironflow.names import Names
from ironflow.version import __version__
from tests.support.deployed import Deployed, module_of, nats_file
from tests.support.manifests import (
    container_of,
    environment_of,
    of_kind,
    pod_of,
    rendered,
    secrets_of,
)
from tests.support.pod_security import omissions, violations

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.34"
OVERLAYS = pytest.mark.parametrize("overlay", ["single", "cluster"])
VARIANTS = pytest.mark.parametrize("overlay", ["single", "cluster", "single+archive", "cluster+archive"])
WORKLOADS = ("Deployment", "StatefulSet")
SIGN_IN = ("NATS_USER", "NATS_CA", "NATS_INBOX_PREFIX", "NATS_JS_API_PREFIX")
"""Variables that every process takes, and no option stands for."""


@VARIANTS
def test_every_manifest_fits_its_schema(overlay: str) -> None:
    unchecked = set[str]()
    for manifest in rendered(overlay):
        try:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unchecked.add(manifest["kind"])
    # KEDA's is no schema of Kubernetes; its fields are looked at below.
    assert unchecked == {"ScaledObject"}


@VARIANTS
def test_pods_are_restricted(overlay: str) -> None:
    namespace = of_kind(overlay, "Namespace")["ironflow"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, manifest in of_kind(overlay, *WORKLOADS).items():
        pod = pod_of(manifest)
        assert (name, violations(pod), omissions(pod)) == (name, [], [])


@VARIANTS
def test_every_workload_has_a_budget_and_every_port_that_is_asked_for_is_let_through(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy").values()
    let_in = {port["port"] for each in policies for rule in each["spec"].get("ingress", ()) for port in rule["ports"]}
    selectors = [each["spec"]["selector"]["matchLabels"] for each in of_kind(overlay, "PodDisruptionBudget").values()]
    for manifest in of_kind(overlay, *WORKLOADS).values():
        labels = manifest["spec"]["template"]["metadata"]["labels"]
        assert sum(selector.items() <= labels.items() for selector in selectors) == 1
        assert {port["containerPort"] for port in container_of(manifest)["ports"]} <= let_in


@OVERLAYS
def test_the_grace_period_has_room_for_the_drain(overlay: str) -> None:
    for name, manifest in of_kind(overlay, "Deployment").items():
        drain_ms = parse_duration(environment_of(overlay, container_of(manifest)).get("IRONFLOW_DRAIN_TIMEOUT", "1s"))
        assert pod_of(manifest)["terminationGracePeriodSeconds"] * 1000 >= drain_ms + 10_000, name


@OVERLAYS
def test_each_queue_is_scaled_by_the_lag_of_its_consumer(overlay: str) -> None:
    names = Names(of_kind(overlay, "ConfigMap")["ironflow"]["data"]["IRONFLOW_NAMESPACE"])
    workers = {
        name: environment_of(overlay, container_of(each))["QUEUE"]
        for name, each in of_kind(overlay, "Deployment").items()
        if name.startswith("ironflow-worker")
    }
    assert sorted(workers.values()) == {"single": ["orders"], "cluster": ["mail", "orders"]}[overlay]
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each for each in of_kind(overlay, "ScaledObject").values()}
    assert scaled.keys() == workers.keys()
    for name, queue in workers.items():
        (trigger,) = scaled[name]["spec"]["triggers"]
        consumer = queue_consumers(names, queue)[0]
        assert (trigger["metadata"]["stream"], trigger["metadata"]["consumer"]) == (consumer.stream, consumer.name)


def test_a_cluster_keeps_three_copies_on_three_servers_that_know_each_other() -> None:
    nats = of_kind("cluster", "StatefulSet")["nats"]
    engine = of_kind("cluster", "Deployment")["ironflow-engine"]
    assert (nats["spec"]["replicas"], engine["spec"]["replicas"]) == (3, 2)
    assert environment_of("cluster", container_of(engine))["IRONFLOW_REPLICAS"] == "3"
    routes = re.findall(r'nats://([^:"]*)', nats_file("cluster", "nats.conf"))
    assert routes == [f"nats-{number}.{nats['spec']['serviceName']}.ironflow.svc" for number in range(3)]


@VARIANTS
def test_every_variable_is_one_that_the_process_knows(overlay: str) -> None:
    for manifest in of_kind(overlay, "Deployment").values():
        container = container_of(manifest)
        environment = environment_of(overlay, container)
        module = module_of(container["command"][0])
        shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
        known = set(re.findall(r"\b(?:NATS|IRONFLOW)_[A-Z_]+\b", shown.stdout)) | {"QUEUE", *SIGN_IN}
        assert environment.keys() <= known


@VARIANTS
def test_the_image_is_the_one_that_the_containerfile_makes(overlay: str) -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", (ROOT / "ops" / "Containerfile").read_text(), re.MULTILINE)
    for manifest in of_kind(overlay, "Deployment").values():
        assert container_of(manifest)["image"] == f"ironflow:{__version__}"
        assert pod_of(manifest)["securityContext"]["runAsUser"] == int(user)


@OVERLAYS
def test_the_accounts_are_those_of_the_overlays_queues_and_each_pod_has_its_own_password_only(overlay: str) -> None:
    deployments = of_kind(overlay, "Deployment")
    queues = [environment_of(overlay, container_of(each)).get("QUEUE") for each in deployments.values()]
    written = nats_file(overlay, "accounts.conf")
    options = written.splitlines()[0].removeprefix("# Made by: ironflow nats-accounts ").split()
    assert CliRunner().invoke(nats_accounts, options).output == written
    assert set(options[3::2]) == {queue for queue in queues if queue is not None}
    for name, manifest in deployments.items():
        role = name.removeprefix("ironflow-").upper().replace("-", "_")
        assert secrets_of(container_of(manifest)) == {("ironflow-nats", f"IRONFLOW_{role}_PASSWORD")}
        assert f"$IRONFLOW_{role}_PASSWORD" in written
    assert secrets_of(container_of(of_kind(overlay, "StatefulSet")["nats"])) == {("ironflow-nats", "")}


@OVERLAYS
def test_nats_server_takes_the_configuration(overlay: str, tmp_path: Path) -> None:
    for server in Deployed(overlay, tmp_path).servers:
        words = [str(find_server()), "-t", "-c", str(server.folder / "nats.conf")]
        ended = subprocess.run(words, env=server.environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr


def test_the_archive_is_for_engines_alone_and_they_reach_it() -> None:
    deployments = of_kind("single+archive", "Deployment")
    archive = ("ironflow-archive", "url")
    assert [name for name, each in deployments.items() if archive in secrets_of(container_of(each))] == [
        "ironflow-engine"
    ]
    policy = of_kind("single+archive", "NetworkPolicy")["archive"]["spec"]
    engine = deployments["ironflow-engine"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= engine.items()
    assert policy["egress"] == [{"ports": [{"protocol": "TCP", "port": 5432}]}]
