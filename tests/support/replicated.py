"""Three nats-servers that make one JetStream cluster, on this machine, for tests of what a cluster adds."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any, Self

from ironflow.broker.embedded import EmbeddedServer
from tests.support.ports import free_port

SERVERS = 3
CLUSTER = "tests"


class ClusteredServer(EmbeddedServer):
    """One server of a cluster.

    Args:
        folder: where data, configuration and log are kept.
        number: which of the servers it is.
        routes: the ports by which the servers talk to each other, of all of them.

    """

    def __init__(self, folder: Path, number: int, routes: list[int]) -> None:
        super().__init__(folder)
        self.name = f"server-{number}"
        self._own_route = routes[number]
        self._routes = routes

    def _configuration(self) -> dict[str, object]:
        return {
            **super()._configuration(),
            "server_name": self.name,
            "cluster": {
                "name": CLUSTER,
                "listen": f"127.0.0.1:{self._own_route}",
                "routes": [f"nats://127.0.0.1:{port}" for port in self._routes],
                # Clients stay with the addresses that they were given, which may be those of proxies.
                "no_advertise": True,
            },
        }


class ReplicatedServers:
    """The servers of a cluster; an async context manager.

    Args:
        folder: for the data of all.

    Attributes:
        servers: all of them, those included that were killed.

    """

    def __init__(self, folder: Path) -> None:
        routes = [free_port() for _ in range(SERVERS)]
        self.servers = [ClusteredServer(folder / f"server-{n}", n, routes) for n in range(SERVERS)]

    @property
    def urls(self) -> tuple[str, ...]:
        """What clients connect to."""
        return tuple(server.url for server in self.servers)

    async def __aenter__(self) -> Self:
        # None is ready before most of them run.
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in self.servers))
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self.servers))

    async def leader_of(self, stream: str) -> ClusteredServer:
        """Return the server that leads a stream now, as those say that run."""
        while True:
            for server in self.servers:
                if server.running and (name := await asyncio.to_thread(_leader, server, stream)):
                    return next(each for each in self.servers if each.name == name)
            await asyncio.sleep(0.05)


def _leader(server: ClusteredServer, stream: str) -> str:
    """Return the name of a stream's leader, as a server's monitoring says; "" where it knows of none."""
    port = server.monitor_url.rpartition(":")[2]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/jsz?streams=true", timeout=2.0) as answer:
            accounts: list[dict[str, Any]] = json.load(answer).get("account_details", [])
    except OSError:
        return ""
    details = [each for account in accounts for each in account.get("stream_detail", [])]
    return next((str(each.get("cluster", {}).get("leader", "")) for each in details if each["name"] == stream), "")
