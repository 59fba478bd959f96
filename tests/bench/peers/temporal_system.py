"""Temporal under measurement: its development server, and workers without the sandbox."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from temporalio.client import Client

from tests.bench.peers.base import Peer, free_port, python_module, until
from tests.bench.peers.temporal_app import LOCAL, POLLERS, QUEUE

POLL_RPS = 2000
_RAISED = ("transfer", "timer", "visibility")


class Temporal(Peer):
    """Implements :class:`tests.bench.system.System`."""

    name = "Temporal"
    durability = "development server on SQLite with journal_mode=WAL, synchronous=FULL"
    notes = (
        f"workflows unsandboxed, {POLLERS} pollers of each kind, events are signals",
        f"history.*ProcessorMaxPollRPS={POLL_RPS}, without which each step waits 50 ms",
        "one process and one shard: not what Temporal runs on in production",
        "G: start_to_close 5 s, or the lost activities would never be missed",
    )
    local = False
    most_runs = 400

    async def start_server(self) -> None:
        """Start the development server."""
        self.address = f"127.0.0.1:{free_port()}"
        options = ["--headless", "--log-level", "error", "--port", self.address.rpartition(":")[2]]
        options += ["--db-filename", str(self.folder / "bench.sqlite")]
        options += ["--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=FULL"]
        for kind in _RAISED:
            options += ["--dynamic-config-value", f"history.{kind}ProcessorMaxPollRPS={POLL_RPS}"]
        self.spawn("server", [str(Path(sys.executable).parent / "temporal"), "server", "start-dev", *options])

        async def answers() -> bool:
            self.client = await Client.connect(self.address)
            return True

        await until(answers)

    def start_worker(self) -> None:
        """Start a worker."""
        environment = {LOCAL: "1"} if self.local else {}
        self.spawn("worker", python_module("tests.bench.peers.temporal_app", self.address), environment)

    async def ready(self) -> None:
        """Wait for the first workflow."""
        await self.run("three", f"first-{os.getpid()}")

    async def run(self, workflow: str, key: str, argument: Any = None) -> Any:
        """Execute a workflow."""
        arguments = [] if argument is None else [argument]
        return await self.client.execute_workflow(workflow, args=arguments, id=key, task_queue=QUEUE)

    async def send(self, key: str) -> None:
        """Send a signal."""
        await self.client.get_workflow_handle(key).signal("go")


class TemporalLocalActivities(Temporal):
    """Temporal with steps that are recorded only when the workflow task ends."""

    name = "Temporal, local activities"
    durability = f"{Temporal.durability}; but steps are not durable one by one"
    local = True
