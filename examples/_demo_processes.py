"""The processes of the demo: a NATS server, an engine, two workers. None of them outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from ironflow.broker import embedded_guard
from ironflow.broker.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = "examples/orders.py"
WORKERS = 2
LAST_LINES = 5


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


class Child:
    """A process behind a guard that ends it when this process is gone, however that went.

    Attributes:
        name: what people call it.
        pid: the process itself, not its guard.

    """

    def __init__(self, name: str, pid: int, guard: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.pid = pid
        self._guard = guard
        self._log = log
        self._may_end = False

    @classmethod
    async def start(cls, name: str, *arguments: str, log: Path, environment: dict[str, str]) -> Child:
        """Start a Python module or program; what it writes to stderr goes to *log*."""
        with log.open("wb") as stderr:
            guard = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", embedded_guard.__file__),
                *(sys.executable, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which ends the others in order
            )
        pid = int(await guard.stdout.readline() or 0) if guard.stdout else 0
        return cls(name, pid, guard, log)

    def kill(self) -> None:
        """End the process as a crash would."""
        self._may_end = True
        os.kill(self.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)

    async def stop(self) -> None:
        """End the process in good order, and return when it is gone."""
        self._may_end = True
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        await self._guard.wait()

    async def watch(self) -> None:
        """Return when the process has ended as it was told to.

        Raises:
            DemoError: it ended by itself.

        """
        code = await self._guard.wait()
        if self._may_end:
            return
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        ending = f"{self.name} (process {self.pid}) ended by itself with code {code}; its last words:"
        raise DemoError("\n    ".join([ending, *(lines or ["(none)"])]))


class Fleet:
    """The demo's processes.

    Attributes:
        url: where NATS is.
        workers: the workers that were started.
        witness: the file in which every step body leaves a line when it starts.

    """

    def __init__(self, server: EmbeddedServer, engine: Child, workers: list[Child], witness: Path) -> None:
        self.url = server.url
        self.workers = workers
        self.witness = witness
        self._server = server
        self._children = [engine, *workers]

    def watches(self) -> list[Coroutine[Any, Any, None]]:
        """Return what is to be awaited beside everything else: it raises DemoError where a process ends by itself."""
        return [self._watch_server(), *(child.watch() for child in self._children)]

    async def _watch_server(self) -> None:
        while self._server.running:  # noqa: ASYNC110 - nothing tells when it ends
            await asyncio.sleep(0.2)
        raise DemoError("the NATS server ended")


@contextlib.asynccontextmanager
async def running_fleet(folder: Path) -> AsyncIterator[Fleet]:
    """Run a fleet with all of its data in *folder*, until the block ends."""
    witness = folder / "witness"
    witness.touch()
    async with EmbeddedServer(folder / "nats") as server:
        environment = os.environ | {
            "NATS_URL": server.url,
            "IRONFLOW_LOG_LEVEL": "error",
            "IRONFLOW_DEMO_WITNESS": str(witness),
        }
        children: list[Child] = []

        async def start(name: str, *arguments: str) -> None:
            log = folder / f"{name.replace(' ', '-')}.log"
            children.append(await Child.start(name, *arguments, log=log, environment=environment))

        try:
            await start("engine", "-m", "ironflow_engine")
            for number in range(1, WORKERS + 1):
                await start(f"worker {number}", "-m", "ironflow_worker", "--queue", "orders", WORKFLOWS)
            yield Fleet(server, children[0], children[1:], witness)
        finally:
            await asyncio.gather(*(child.stop() for child in children))
