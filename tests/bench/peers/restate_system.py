"""Restate under measurement: its server, and workers that serve its SDK with hypercorn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

from tests.bench.peers.base import TOOLS, Peer, free_port, python_module, until


class Restate(Peer):
    """Implements :class:`tests.bench.system.System`."""

    name = "Restate"
    durability = "defaults: the log's write-ahead log is synced (rocksdb-disable-wal-fsync = false)"
    notes = (
        "24 partitions (default)",
        "events are awakeables",
        "F in groups of 50",
        "G with 16 streams per connection, or one worker gets everything",
    )

    async def start(self, workers: int) -> None:
        """Start everything."""
        self.shared = workers > 1
        await super().start(workers)

    async def start_server(self) -> None:
        """Start the server."""
        self.worker_port, node, admin, ingress = free_port(), free_port(), free_port(), free_port()
        self.admin, self.ingress = f"http://127.0.0.1:{admin}", f"http://127.0.0.1:{ingress}"
        program = next(TOOLS.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
        environment = {
            "RESTATE_BASE_DIR": str(self.folder / "data"),
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
            "RESTATE_DISABLE_TELEMETRY": "true",
        }
        if self.shared:
            environment["RESTATE_HTTP2_STREAMS_PER_CONNECTION_LIMIT"] = "16"
        self.spawn("server", [str(program), "--node-name", "bench"], environment)
        self.worker_command = python_module("tests.bench.peers.restate_app", str(self.worker_port))
        self.client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=300)
        )

    async def ready(self) -> None:
        """Register the workers."""

        async def registered() -> bool:
            deployment = {"uri": f"http://127.0.0.1:{self.worker_port}"}
            async with self.client.post(f"{self.admin}/deployments", json=deployment) as answer:
                return answer.status in {200, 201}

        async def answers() -> bool:
            return await self.run("three", "first") == 3

        await until(registered)
        await until(answers)

    async def close(self) -> None:
        """Close the client."""
        await self.client.close()

    async def run(self, workflow: str, key: str, argument: Any = None) -> Any:
        """Call a handler."""
        body = str(self._told(key)) if workflow == "wait" else argument
        # A handler that takes nothing refuses even the type of nothing.
        more = {"skip_auto_headers": ["Content-Type"]} if body is None else {"json": body}
        while True:
            try:
                async with self.client.post(f"{self.ingress}/bench/{workflow}", **more) as answer:
                    answer.raise_for_status()
                    return await answer.json(content_type=None) if answer.content_length else None
            except aiohttp.ServerDisconnectedError:
                continue  # the server had closed a connection that was idle

    async def send(self, key: str) -> None:
        """Resolve the awakeable."""
        address = self._told(key).read_text(encoding="utf-8")
        async with self.client.post(f"{self.ingress}/restate/awakeables/{address}/resolve", json={}) as answer:
            answer.raise_for_status()

    def _told(self, key: str) -> Path:
        return self.folder / f"{key}.awakeable"
