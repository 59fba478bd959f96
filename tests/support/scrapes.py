"""Probing and scraping processes that serve health and metrics, as Kubernetes and Prometheus do."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.eventually import eventually
from tests.support.processes import Process

SERVED = ("--health-port", "0", "--log-format", "json")
"""Options of a process that is to be probed: on a port that is free, which it tells in its log."""


async def health_port(process: Process) -> int:
    """Return where a process that was started with SERVED answers."""

    def logged() -> int:
        lines = [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]
        ports = [line["port"] for line in lines if line["event"] == "health and metrics are served"]
        assert ports
        return int(ports[-1])

    return await eventually(logged, within=20.0)


async def get(port: int, path: str, seconds: float = 10.0, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Return the status and the text that a process answers with."""

    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def ready(port: int) -> None:
    """Wait until a process says that it is ready."""

    async def says_so() -> None:
        assert await get(port, "/readyz") == (200, "ok\n")

    await eventually(says_so, within=20.0)


async def scrape(port: int) -> dict[str, Metric]:
    """Return the metrics of a process by name."""
    status, text = await get(port, "/metrics")
    assert status == 200
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(metrics: dict[str, Metric], name: str, **labels: str) -> float:
    """Return the sum of the samples that have a name and, among others, these labels."""
    return sum(
        sample.value
        for family in metrics.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def series(metrics: dict[str, Metric]) -> int:
    """Return how many series there are."""
    return sum(len(family.samples) for family in metrics.values())
