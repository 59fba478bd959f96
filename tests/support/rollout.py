"""Replaces processes as a Deployment does: first the new one is ready, then the old one is told to stop."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ironflow.durations import parse_duration
from tests.support.processes import Process
from tests.support.scrapes import health_port, ready

MANIFESTS = Path(__file__).parents[2] / "ops" / "k8s"


class Exit(msgspec.Struct, frozen=True):
    """How a process ended that was told to.

    Attributes:
        kind: what it was.
        seconds: how long it took.
        code: its exit code; None where it had to be killed, since its grace was over.

    """

    kind: str
    seconds: float
    code: int | None


class Pods(msgspec.Struct):
    """The processes of one Deployment.

    Attributes:
        kind: "engine" or "worker".
        grace_seconds: how long one may take to end.
        start: starts one.
        running: those that take part.
        exits: how those that were replaced have ended.

    """

    kind: str
    grace_seconds: float
    start: Callable[[], Process]
    running: list[Process] = []
    exits: list[Exit] = []

    async def scale(self, count: int) -> None:
        """Start as many as there are to be, and wait until they are ready."""
        self.running = [self.start() for _ in range(count)]
        for process in self.running:
            await ready(await health_port(process))

    async def roll(self) -> None:
        """Replace all of them, one after the other; the old ones end while the next new ones start."""
        ending: list[asyncio.Task[Exit]] = []
        for old in tuple(self.running):
            new = self.start()
            await ready(await health_port(new))
            self.running.remove(old)
            self.running.append(new)
            ending.append(asyncio.create_task(asyncio.to_thread(self._end, old)))
        self.exits += await asyncio.gather(*ending)

    def _end(self, process: Process) -> Exit:
        began = time.monotonic()
        try:
            code: int | None = process.terminate(within=self.grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            code = None
        return Exit(self.kind, time.monotonic() - began, code)


def deployment(file: str) -> dict[str, Any]:
    """Return the Deployment in a file of ops/k8s, as it stands there."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all((MANIFESTS / file).read_text()))
    (found,) = (each for each in documents if each["kind"] == "Deployment")
    return found


def grace_seconds(file: str) -> float:
    """Return how long the Deployment in a file of ops/k8s lets its processes take to end."""
    return float(deployment(file)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])


def drain_seconds(file: str) -> float:
    """Return how long the Deployment in a file of ops/k8s lets passes take to end."""
    (container,) = deployment(file)["spec"]["template"]["spec"]["containers"]
    (text,) = (each["value"] for each in container["env"] if each["name"] == "IRONFLOW_DRAIN_TIMEOUT")
    return parse_duration(text) / 1000
