"""Three nats-servers that keep everything three times: processes on loopback ports, each of which can be killed."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ironflow.broker.embedded import LOOPBACK, EmbeddedServer
from tests.support.ports import free_port

NODES = 3
LEADER_SECONDS = 20.0
_POLL_SECONDS = 0.02


class Node(EmbeddedServer):
    """One server of a cluster.

    Args:
        folder: where its data is.
        name: what the others call it.
        routes: the cluster ports of all nodes, its own first.
        sync_interval: when it forces data to disk.

    """

    def __init__(self, folder: Path, name: str, routes: Sequence[int], sync_interval: str) -> None:
        super().__init__(folder, sync_interval=sync_interval)
        self.name = name
        self._routes = routes

    def _configuration(self) -> dict[str, object]:
        own, *others = self._routes
        return super()._configuration() | {
            "server_name": self.name,
            "cluster": {
                "name": "ironflow-test",
                "listen": f"{LOOPBACK}:{own}",
                "routes": [f"nats://{LOOPBACK}:{port}" for port in others],
            },
        }


class NatsCluster:
    """Three servers that run.

    Args:
        nodes: the servers.

    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """What ``NATS_URL`` takes: all nodes."""
        return ",".join(self.urls)

    @property
    def urls(self) -> tuple[str, ...]:
        """One URL a node."""
        return tuple(node.url for node in self.nodes)

    def node(self, name: str) -> Node:
        """Return the node of that name."""
        return next(node for node in self.nodes if node.name == name)

    def start(self) -> None:
        """Start all nodes, also after :meth:`Node.kill`; none becomes ready before a majority runs."""
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(lambda node: node.start(), self.nodes))

    def stop(self) -> None:
        """End all nodes."""
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(lambda node: node.stop(), self.nodes))

    def leader_of(self, stream: str, *, within: float = LEADER_SECONDS) -> Node:
        """Return the node that leads a stream now; wait for one while the nodes elect it."""
        deadline = time.monotonic() + within
        while True:
            for node in self.nodes:
                name = _leader(node, stream) if node.running else None
                if name and self.node(name).running:
                    return self.node(name)
            assert time.monotonic() < deadline, f"no leader of {stream}"
            time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def nats_cluster(folder: Path, *, sync_interval: str = "always") -> Generator[NatsCluster]:
    """Run three servers with their data in *folder*, synced as in production; ``node.kill()`` ends one as a crash."""
    ports = [free_port() for _ in range(NODES)]
    cluster = NatsCluster(
        [
            Node(folder / f"n{number}", f"n{number}", [port, *(set(ports) - {port})], sync_interval)
            for number, port in enumerate(ports)
        ]
    )
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _leader(node: Node, stream: str) -> str | None:
    """Return who leads a stream, as a node sees it."""
    url = f"{node.monitor_url}/jsz?streams=1"
    with contextlib.suppress(OSError), urllib.request.urlopen(url) as answer:  # noqa: S310 - it is ours
        for account in json.load(answer).get("account_details", ()):
            for detail in account["stream_detail"]:
                if detail["name"] == stream:
                    return str(detail["cluster"].get("leader") or "") or None
    return None
