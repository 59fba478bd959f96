"""What the adapters of peers share: processes in a folder of their own, and many runs at a time."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TOOLS = Path(os.environ.get("IRONFLOW_BENCH_PEERS", Path.home() / ".cache" / "ironflow-bench-peers"))
"""Where ``just bench-peers`` has installed what is no Python package."""

STOP_SECONDS = 15


class Peer:
    """The parts of :class:`tests.bench.system.System` that are alike for peers."""

    name = ""
    durability = ""
    notes: Sequence[str] = ()
    most_runs = 0

    def __init__(self) -> None:
        self.folder = Path(tempfile.gettempdir())
        self.roots: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.worker_command: list[str] = []

    async def start(self, workers: int) -> None:
        """Make a folder, start the server in it, then the workers."""
        self.folder = Path(tempfile.mkdtemp())
        self.folder.chmod(0o755)
        self.roots = {"server": [], "worker": []}
        await self.start_server()
        for _ in range(workers):
            self.start_worker()
        await self.ready()

    async def start_server(self) -> None:
        """Start the server, return once it answers, and set the worker's command."""

    async def ready(self) -> None:
        """Return once the workers take work."""

    async def close(self) -> None:
        """Close the client's connections."""

    async def stop(self) -> None:
        """End all processes, the workers first."""
        await self.close()
        for process in self.roots.get("worker", []):
            process.kill()
            process.wait()
        for process in self.roots.get("server", []):
            process.terminate()
            try:
                process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.roots = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def spawn(self, part: str, command: Sequence[str], environment: Mapping[str, str] = {}, **more: Any) -> None:
        """Start a process of a part; what it says goes into a log in the folder."""
        with (self.folder / f"{part}.log").open("ab") as log:
            self.roots[part].append(
                subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log, **more)
            )

    def start_worker(self) -> None:
        """Start one more worker."""
        self.spawn("worker", self.worker_command)

    def parts(self) -> Mapping[str, list[int]]:
        """Return the process ids."""
        return {part: [process.pid for process in processes] for part, processes in self.roots.items() if processes}

    async def run(self, workflow: str, key: str, argument: Any = None) -> Any:
        """Run a workflow to its end."""
        raise NotImplementedError

    async def run_all(self, keys: Sequence[str], in_flight: int) -> None:
        """Run ``three`` for each key, so many at a time."""
        left = iter(keys)

        async def one_after_another() -> None:
            for key in left:
                await self.run("three", key)

        await asyncio.gather(*(one_after_another() for _ in range(in_flight)))

    async def kill_worker(self) -> None:
        """Kill a worker."""
        process = self.roots["worker"].pop(0)
        process.kill()
        process.wait()

    def counters(self) -> Mapping[str, float]:
        """Count nothing else."""
        return {}

    async def recorded_late_ms(self, key: str) -> float | None:  # noqa: ARG002 - nothing is asked
        """Not asked."""
        return None

    async def bare_writes_ms(self) -> Mapping[str, float]:
        """Not asked."""
        return {}


def python_module(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def free_port() -> int:
    """Return a port that nothing listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def until(check: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    """Wait until a check holds; what it raises means "not yet"."""
    deadline = time.monotonic() + seconds
    reason: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if await check():
                return
        except Exception as error:  # noqa: BLE001 - whatever the client of a server that starts may raise
            reason = error
        await asyncio.sleep(0.1)
    msg = f"not ready within {seconds} s"
    raise TimeoutError(msg) from reason
