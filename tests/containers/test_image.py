"""The image of ops/Containerfile, built and run as the manifests say: no root, and nothing to write to but /tmp."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tests.support import eventually
from tests.support.containers import why_there_are_none
from tests.support.deployed import NATS_SECRETS, Deployed
from tests.support.manifests import Manifest, container_of, environment_of, of_kind, pod_of, port_of, words_of
from tests.support.processes import functions_are_known
from tests.support.scrapes import get

ROOT = Path(__file__).parents[2]
FUNCTIONS = """
import ironflow

@ironflow.function(id="greet", queue="orders")
async def greet(ctx: ironflow.Context) -> str:
    return await ctx.step.run("greet", lambda: "hello")
"""


@pytest.fixture
def client() -> Generator[docker.DockerClient]:
    reason = why_there_are_none()
    if reason is not None:
        pytest.skip(f"NOT RUN in the image, since no container engine answers ({reason})")
    with contextlib.closing(docker.from_env(timeout=600)) as connected:
        yield connected


@pytest.mark.containers
@pytest.mark.timeout(1200)
async def test_engine_and_worker_run_in_the_image_as_the_manifests_say(
    client: docker.DockerClient, tmp_path: Path
) -> None:
    deployments = of_kind("single", "Deployment")
    image = container_of(deployments["ironflow-engine"])["image"]
    client.images.build(path=str(ROOT), dockerfile="ops/Containerfile", tag=image, rm=True)
    system = Deployed("single", tmp_path)
    (server,) = system.servers
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    for file in ("functions.py", "ca.crt"):
        (tmp_path / file).chmod(0o644)
    server.start()
    containers: list[Container] = []
    try:
        await eventually(server.probes_succeed, within=10.0)
        elsewhere = {"nats://nats:4222": server.url, "http://nats:8222": f"http://127.0.0.1:{server.monitor_port}"}
        containers = [run(client, each, tmp_path, elsewhere) for each in deployments.values()]
        for each in deployments.values():
            await eventually(functools.partial(is_ready, each), within=60.0)
        async with system.signed_in("reader") as reader:
            await functions_are_known(reader, "greet")
        async with system.signed_in("publisher") as publisher:
            assert await (await publisher.start("greet")).result("30s") == "hello"
        for container, each in zip(containers, deployments.values(), strict=True):
            assert container.exec_run("id -u").output == f"{pod_of(each)['securityContext']['runAsUser']}\n".encode()
            assert container.exec_run("touch /app/x /opt/ironflow/x").exit_code != 0
            assert container.exec_run(["python", "-c", "import asyncpg, opentelemetry"]).exit_code == 0
            container.stop(timeout=pod_of(each)["terminationGracePeriodSeconds"])
            assert container.wait()["StatusCode"] == 0
    finally:
        for container in containers:
            print(container.logs().decode())  # noqa: T201 - pytest shows it with the failure
            container.remove(force=True)
        server.kill()


def run(client: docker.DockerClient, manifest: Manifest, folder: Path, elsewhere: dict[str, str]) -> Container:
    """Run a Deployment's container with all that its security context says."""
    container, context = container_of(manifest), pod_of(manifest)["securityContext"]
    environment = environment_of("single", container, NATS_SECRETS)
    for there, here in elsewhere.items():
        environment = {name: value.replace(there, here) for name, value in environment.items()}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    return client.containers.run(
        container["image"],
        words_of(container, environment),
        environment=environment,
        user=f"{context['runAsUser']}:{context['runAsGroup']}",
        read_only=True,
        cap_drop=container["securityContext"]["capabilities"]["drop"],
        security_opt=["no-new-privileges"],
        tmpfs={"/tmp": ""},  # noqa: S108 - the volume of that name
        volumes={
            str(folder / "functions.py"): {"bind": "/app/functions.py", "mode": "ro"},
            str(folder / "ca.crt"): {"bind": "/etc/nats-ca/ca.crt", "mode": "ro"},
        },
        network_mode="host",
        detach=True,
    )


async def is_ready(manifest: Manifest) -> None:
    container = container_of(manifest)
    try:
        answer = await get(port_of(container, "readinessProbe"), container["readinessProbe"]["httpGet"]["path"])
    except OSError as error:
        raise AssertionError(str(error)) from error
    assert answer == (200, "ok\n")
