"""What the manifests start, as processes of this machine, from the values that stand there.

What must differ is where other things are: servers, volumes, ports, and the file with the functions.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import tomllib
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path

from ironflow.broker.embedded import find_server
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.client import Client
from ironflow.names import Names
from tests.support import eventually
from tests.support.identities import make_certificates
from tests.support.manifests import (
    Manifest,
    Secret,
    container_of,
    environment_of,
    of_kind,
    port_of,
    words_of,
)
from tests.support.ports import free_port
from tests.support.processes import APPS, Process
from tests.support.scrapes import get

ROOT = Path(__file__).parents[2]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
NATS_SECRETS = {
    "ironflow-nats": {
        f"IRONFLOW_{role}_PASSWORD": f"p{secrets.token_hex(8)}"
        for role in ("ENGINE", "WORKER_ORDERS", "WORKER_MAIL", "PUBLISHER", "READER", "OPERATOR")
    }
}
"""What an operator makes before the manifests are applied."""
FUNCTIONS = {"orders": "flows.py", "mail": "mail.py"}
"""What stands for the file in the image, by queue."""
_READY_SECONDS = 15.0


class Server:
    """One pod of NATS.

    Args:
        overlay: whose configuration it has.
        name: of the pod.
        folder: for its data.
        ports: of clients, of routes and of the monitor, by pod.

    Attributes:
        url: where clients connect.
        monitor_port: where it is monitored.
        environment: its variables.

    """

    def __init__(self, overlay: str, name: str, folder: Path, ports: dict[str, tuple[int, int, int]]) -> None:
        self.name = name
        self.folder = folder / name
        self.url, self.monitor_port = f"nats://127.0.0.1:{ports[name][0]}", ports[name][2]
        self._container = container_of(of_kind(overlay, "StatefulSet")["nats"])
        self.environment = write_nats_config(overlay, self.folder, name, ports)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it with the command of the manifest."""
        program, *words = self._container["command"]
        assert program == "nats-server"
        (mount,) = (each["mountPath"] for each in self._container["volumeMounts"] if each["name"] == "config")
        words = [word.replace(f"{mount}/", f"{self.folder}/") for word in words]
        with (self.folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen([find_server(), *words], env=self.environment, stderr=log)

    def kill(self) -> None:
        """End it as a crash of its machine would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def probes_succeed(self) -> None:
        """Fail where a probe of the manifest does."""
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            try:
                status, text = await get(self.monitor_port, self._container[probe]["httpGet"]["path"])
            except OSError as error:
                raise AssertionError(str(error)) from error
            assert (probe, status) == (probe, 200), text


class Pod:
    """One pod of an engine or a worker.

    Args:
        overlay: whose values it has.
        manifest: its Deployment.
        folder: for its logs and volumes.
        elsewhere: what must differ.
        secrets: what an operator has made.

    """

    def __init__(
        self,
        overlay: str,
        manifest: Manifest,
        folder: Path,
        elsewhere: dict[str, str],
        secrets: Mapping[str, Secret],
    ) -> None:
        self.container = container_of(manifest)
        self.name = manifest["metadata"]["name"]
        self.port = free_port()
        environment = environment_of(overlay, self.container, secrets)
        app = APPS / FUNCTIONS[environment.get("QUEUE", "orders")]
        said = str(port_of(self.container, "readinessProbe"))
        assert environment["IRONFLOW_HEALTH_PORT"] == said == str(port_of(self.container, "livenessProbe"))
        differ = {**elsewhere, "/tmp/": f"{folder}/", "/app/functions.py": str(app), said: str(self.port)}  # noqa: S108
        # At one go: what stands here has the names of places there in it.
        places = re.compile("|".join(map(re.escape, differ)))
        environment = {name: places.sub(lambda found: differ[found[0]], value) for name, value in environment.items()}
        command, *words = words_of(self.container, environment)
        environment |= {"WITNESS": str(folder / "witness"), "GATE": str(folder / "gate")}
        (folder / "witness").touch()
        self.process = Process([module_of(command), *words], environment, folder / f"{self.name}-{self.port}.log")

    async def probes_succeed(self) -> None:
        """Fail where a probe of the manifest does."""
        for probe in ("livenessProbe", "readinessProbe"):
            try:
                answer = await get(self.port, self.container[probe]["httpGet"]["path"])
            except OSError as error:
                raise AssertionError(str(error)) from error
            assert answer == (200, "ok\n"), self.name


class Deployed:
    """All that an overlay starts.

    Args:
        overlay: which.
        folder: for data, certificates and logs.
        secrets: what an operator has made.

    Attributes:
        servers: the pods of NATS.
        pods: those of engines and workers.

    """

    def __init__(self, overlay: str, folder: Path, secrets: Mapping[str, Secret] = NATS_SECRETS) -> None:
        self.overlay = overlay
        self._secrets = secrets
        self.folder = folder
        count = of_kind(overlay, "StatefulSet")["nats"]["spec"]["replicas"]
        ports = {f"nats-{number}": (free_port(), free_port(), free_port()) for number in range(count)}
        make_certificates(folder)
        for name, file in {"tls.crt": "server.pem", "tls.key": "server.key", "ca.crt": "ca.pem"}.items():
            shutil.copy(folder / file, folder / name)
        self.servers = [Server(overlay, name, folder, ports) for name in ports]
        self.pods: list[Pod] = []

    @property
    def urls(self) -> tuple[str, ...]:
        """Where NATS is; the name of the service stands for all of its pods."""
        return tuple(server.url for server in self.servers)

    async def start(self) -> None:
        """Start everything, and wait until all probes succeed."""
        for server in self.servers:
            server.start()
        for server in self.servers:
            await eventually(server.probes_succeed, within=_READY_SECONDS)
        monitor = f"http://127.0.0.1:{self.servers[0].monitor_port}"
        elsewhere = {"tls://nats:4222": ",".join(self.urls), "http://nats:8222": monitor}
        elsewhere |= {"/etc/nats-ca/": f"{self.folder}/"}
        for manifest in of_kind(self.overlay, "Deployment").values():
            for _ in range(manifest["spec"].get("replicas", 1)):
                self.pods.append(Pod(self.overlay, manifest, self.folder, elsewhere, self._secrets))
        for pod in self.pods:
            await eventually(pod.probes_succeed, within=2 * _READY_SECONDS)

    @contextlib.asynccontextmanager
    async def signed_in(self, role: str) -> AsyncGenerator[Client]:
        """Connect as a program in the cluster would that has the password of a role."""
        settings = ConnectionSettings(
            urls=self.urls,
            user=f"ironflow-{role}",
            password=NATS_SECRETS["ironflow-nats"][f"IRONFLOW_{role.upper()}_PASSWORD"],
            inbox_prefix=f"_INBOX_ironflow-{role}",
            api_prefix="ironflow.js",
            tls_ca=str(self.folder / "ca.crt"),
        )
        broker = await connect(settings)
        try:
            yield Client(broker, Names("ironflow"))
        finally:
            await broker.close()

    def logs(self) -> Iterator[str]:
        """Return what everything has logged, for whoever reads a failed test."""
        for log in (*(server.folder / "nats.log" for server in self.servers), *(pod.process.log for pod in self.pods)):
            if log.exists():
                yield f"--- {log.name}\n{log.read_text()}"

    def kill(self) -> None:
        """End everything."""
        for pod in self.pods:
            pod.process.kill()
        for server in self.servers:
            server.kill()


@contextlib.asynccontextmanager
async def deployed(overlay: str, folder: Path, **secrets: Secret) -> AsyncGenerator[Deployed]:
    """Have an overlay run until the block ends, with more secrets where it asks for more."""
    more = {name.replace("_", "-"): secret for name, secret in secrets.items()}
    everything = Deployed(overlay, folder, {**NATS_SECRETS, **more})
    try:
        await everything.start()
        yield everything
    except BaseException:
        print(*everything.logs(), sep="\n")  # noqa: T201 - pytest shows it with the failure
        raise
    finally:
        everything.kill()


def module_of(command: str) -> str:
    """Return the module that a command of ours runs."""
    return SCRIPTS[command].partition(":")[0].removesuffix(".__main__").removesuffix(".main")


def nats_file(overlay: str, file: str) -> str:
    """Return a file of the configuration of NATS."""
    (config,) = (each for name, each in of_kind(overlay, "ConfigMap").items() if name.startswith("nats"))
    return str(config["data"][file])


def write_nats_config(overlay: str, folder: Path, pod: str, ports: dict[str, tuple[int, int, int]]) -> dict[str, str]:
    """Write the configuration of a pod of NATS, with what must differ, and return its environment."""
    folder.mkdir()
    client, route, monitor = ports[pod]
    text = nats_file(overlay, "nats.conf")
    service = of_kind(overlay, "StatefulSet")["nats"]["spec"]["serviceName"]
    differ = {f"{name}.{service}.ironflow.svc:6222": f"127.0.0.1:{each[1]}" for name, each in ports.items()}
    if len(ports) == 1:
        differ = {}
    differ |= {"port: 4222": f"port: {client}", "http_port: 8222": f"http_port: {monitor}"}
    differ |= {"port: 6222": f"port: {route}"} if len(ports) > 1 else {}
    differ |= {"/data": str(folder / "data"), "/etc/nats-tls": str(folder.parent)}
    for there, here in differ.items():
        assert there in text, there
        text = text.replace(there, here)
    (folder / "nats.conf").write_text(text)
    (folder / "accounts.conf").write_text(nats_file(overlay, "accounts.conf"))
    container = container_of(of_kind(overlay, "StatefulSet")["nats"])
    return {**os.environ, **environment_of(overlay, container, NATS_SECRETS), "POD_NAME": pod}
