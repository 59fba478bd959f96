"""The manifests in ops/k8s: what they say is allowed, and is what the processes understand."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # it has no types
import pytest
from click.testing import CliRunner

from ironflow.broker.embedded import find_server
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.topology import queue_consumer
from ironflow.cli.nats_accounts import nats_accounts
from ironflow.client import Client
from ironflow.durations import parse_duration
from ironflow.names import Names
from ironflow.version import __version__
from tests.support import eventually
from tests.support.identities import make_certificates
from tests.support.manifests import (
    Manifest,
    container_of,
    environment_of,
    of_kind,
    pod_of,
    port_of,
    rendered,
    secrets_of,
    words_of,
)
from tests.support.pod_security import omissions, violations
from tests.support.processes import APPS, Process, functions_are_known
from tests.support.scrapes import get

ROOT = Path(__file__).parents[2]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
KUBERNETES = "1.34"
OVERLAYS = pytest.mark.parametrize("overlay", ["single", "cluster"])
WORKLOADS = ("Deployment", "StatefulSet")
SIGN_IN = ("NATS_USER", "NATS_CA", "NATS_INBOX_PREFIX", "NATS_JS_API_PREFIX")
"""Variables that every process takes, and no option stands for."""
SECRETS = {
    "ironflow-nats": {
        f"IRONFLOW_{role}_PASSWORD": f"p{secrets.token_hex(8)}"
        for role in ("ENGINE", "WORKER_ORDERS", "WORKER_MAIL", "PUBLISHER", "READER", "OPERATOR")
    }
}
"""What an operator makes before the manifests are applied."""


@OVERLAYS
def test_every_manifest_fits_its_schema(overlay: str) -> None:
    unchecked = set[str]()
    for manifest in rendered(overlay):
        try:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unchecked.add(manifest["kind"])
    # KEDA's is no schema of Kubernetes; its fields are looked at below.
    assert unchecked == {"ScaledObject"}


@OVERLAYS
def test_pods_are_restricted(overlay: str) -> None:
    namespace = of_kind(overlay, "Namespace")["ironflow"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, manifest in of_kind(overlay, *WORKLOADS).items():
        pod = pod_of(manifest)
        assert (name, violations(pod), omissions(pod)) == (name, [], [])


@OVERLAYS
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
        consumer = queue_consumer(names, queue)
        assert (trigger["metadata"]["stream"], trigger["metadata"]["consumer"]) == (consumer.stream, consumer.name)


def test_a_cluster_keeps_three_copies_on_three_servers_that_know_each_other() -> None:
    nats = of_kind("cluster", "StatefulSet")["nats"]
    engine = of_kind("cluster", "Deployment")["ironflow-engine"]
    assert (nats["spec"]["replicas"], engine["spec"]["replicas"]) == (3, 2)
    assert environment_of("cluster", container_of(engine))["IRONFLOW_REPLICAS"] == "3"
    routes = re.findall(r'nats://([^:"]*)', nats_file("cluster", "nats.conf"))
    assert routes == [f"nats-{number}.{nats['spec']['serviceName']}.ironflow.svc" for number in range(3)]


@OVERLAYS
def test_every_variable_is_one_that_the_process_knows(overlay: str) -> None:
    for manifest in of_kind(overlay, "Deployment").values():
        container = container_of(manifest)
        environment = environment_of(overlay, container)
        module = module_of(container["command"][0])
        shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
        known = set(re.findall(r"\b(?:NATS|IRONFLOW)_[A-Z_]+\b", shown.stdout)) | {"QUEUE", *SIGN_IN}
        assert environment.keys() <= known


@OVERLAYS
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
    environment = write_nats_config(overlay, tmp_path)
    words = [str(find_server()), "-t", "-c", str(tmp_path / "nats.conf")]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


async def test_the_processes_run_from_the_values_of_the_manifests(tmp_path: Path) -> None:
    """What must differ is where other things are: the server, the volumes, and the file with the functions."""
    with nats_of("single", tmp_path) as (url, monitor):
        await eventually(functools.partial(server_is_healthy, monitor), within=10.0)
        elsewhere = {"nats://nats:4222": url, "http://nats:8222": monitor, "/tmp/": f"{tmp_path}/"}  # noqa: S108
        elsewhere |= {"/app/functions.py": str(APPS / "flows.py"), "/etc/nats-ca/": f"{tmp_path}/"}
        deployments = of_kind("single", "Deployment")
        pods = {name: start(each, elsewhere, tmp_path) for name, each in deployments.items()}
        try:
            for manifest in deployments.values():
                await eventually(functools.partial(probes_succeed, container_of(manifest)), within=30.0)
            async with signed_in("reader", url, tmp_path) as client:
                await functions_are_known(client, "ten-steps")
            async with signed_in("publisher", url, tmp_path) as client:
                assert await (await client.start("ten-steps")).result(timeout=30) == 55
            (scaled,) = of_kind("single", "ScaledObject").values()
            account = scaled["spec"]["triggers"][0]["metadata"]["account"]
            assert lag(await get(port_at(monitor), f"/jsz?acc={account}&consumers=true")) == 0
            for name, manifest in deployments.items():
                began = time.monotonic()
                assert await asyncio.to_thread(pods[name].terminate) == 0
                assert time.monotonic() - began < pod_of(manifest)["terminationGracePeriodSeconds"]
        except BaseException:
            print(*(pod.log.read_text() for pod in pods.values()))  # noqa: T201 - pytest shows it with the failure
            raise
        finally:
            for pod in pods.values():
                pod.kill()


@contextlib.asynccontextmanager
async def signed_in(role: str, url: str, folder: Path) -> AsyncGenerator[Client]:
    """Connect as a program in the cluster would that has the password of a role."""
    settings = ConnectionSettings(
        urls=(url,),
        user=f"ironflow-{role}",
        password=SECRETS["ironflow-nats"][f"IRONFLOW_{role.upper()}_PASSWORD"],
        inbox_prefix=f"_INBOX_ironflow-{role}",
        api_prefix="ironflow.js",
        tls_ca=str(folder / "ca.crt"),
    )
    broker = await connect(settings)
    try:
        yield Client(broker, Names("ironflow"))
    finally:
        await broker.close()


async def probes_succeed(container: Manifest) -> None:
    for probe in ("livenessProbe", "readinessProbe"):
        try:
            answer = await get(port_of(container, probe), container[probe]["httpGet"]["path"])
        except OSError as error:
            raise AssertionError(str(error)) from error
        assert answer == (200, "ok\n")


def start(manifest: Manifest, elsewhere: dict[str, str], folder: Path) -> Process:
    """Start what a Deployment's container starts."""
    container = container_of(manifest)
    environment = environment_of("single", container, SECRETS)
    for there, here in elsewhere.items():
        environment = {name: value.replace(there, here) for name, value in environment.items()}
    command, *words = words_of(container, environment)
    environment |= {"WITNESS": str(folder / "witness"), "GATE": str(folder / "gate")}
    (folder / "witness").touch()
    return Process([module_of(command), *words], environment, folder / f"{container['name']}.log")


def module_of(command: str) -> str:
    """Return the module that a command of ours runs."""
    module, _, _ = SCRIPTS[command].partition(".main:")
    return module


def nats_file(overlay: str, file: str) -> str:
    (config,) = (each for name, each in of_kind(overlay, "ConfigMap").items() if name.startswith("nats"))
    return str(config["data"][file])


def write_nats_config(overlay: str, folder: Path) -> dict[str, str]:
    """Write the configuration of an overlay's server, with what must differ, and return its environment."""
    make_certificates(folder)
    for name, file in {"tls.crt": "server.pem", "tls.key": "server.key", "ca.crt": "ca.pem"}.items():
        shutil.copy(folder / file, folder / name)
    text = nats_file(overlay, "nats.conf")
    for there, here in {
        "4222": "-1",
        "8222": "-1",
        "/data": str(folder / "nats"),
        "/etc/nats-tls": str(folder),
    }.items():
        assert there in text
        text = text.replace(there, here)
    (folder / "nats.conf").write_text(f'{text}\nports_file_dir: "{folder}"\n')
    (folder / "accounts.conf").write_text(nats_file(overlay, "accounts.conf"))
    container = container_of(of_kind(overlay, "StatefulSet")["nats"])
    return {**os.environ, **environment_of(overlay, container, SECRETS), "POD_NAME": "nats-0"}


@contextlib.contextmanager
def nats_of(overlay: str, folder: Path) -> Generator[tuple[str, str]]:
    """Run the server of an overlay with its configuration, on free ports and with its data in a folder; its URLs."""
    container = container_of(of_kind(overlay, "StatefulSet")["nats"])
    program, *words = container["command"]
    assert program == "nats-server"
    environment = write_nats_config(overlay, folder)
    (mount,) = (each["mountPath"] for each in container["volumeMounts"] if each["name"] == "config")
    words = [word.replace(f"{mount}/", f"{folder}/") for word in words]
    with (folder / "nats.log").open("wb") as log:
        process = subprocess.Popen([find_server(), *words], env=environment, stderr=log)
    try:
        deadline = time.monotonic() + 10
        while not (found := list(folder.glob("*.ports"))):
            assert time.monotonic() < deadline, (folder / "nats.log").read_text()
            time.sleep(0.01)
        ports = json.loads(found[0].read_text())
        yield at_home(ports["nats"][0]), at_home(ports["monitoring"][0])
    finally:
        process.kill()
        process.wait()


async def server_is_healthy(monitor: str) -> None:
    container = container_of(of_kind("single", "StatefulSet")["nats"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert (await get(port_at(monitor), container[probe]["httpGet"]["path"]))[0] == 200, probe


def at_home(url: str) -> str:
    # With TLS the server calls itself tls://, and says so too where a client calls it nats://.
    return re.sub(r"(?:tls|nats)://", "nats://", re.sub(r"//.*:", "//127.0.0.1:", url))


def port_at(url: str) -> int:
    return int(url.rpartition(":")[2])


def lag(answer: tuple[int, str]) -> Any:
    """Return the lag of the orders' queue as KEDA finds it."""
    status, text = answer
    assert status == 200
    (account,) = json.loads(text)["account_details"]
    (tasks,) = (each for each in account["stream_detail"] if each["name"] == "IRONFLOW_TASKS")
    (orders,) = (each for each in tasks["consumer_detail"] if each["name"] == "orders")
    return orders["num_pending"]
