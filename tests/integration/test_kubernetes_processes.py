"""What the manifests start does its work, from the very values that stand there."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from ironflow.durations import parse_duration
from tests.integration.test_archive import rows
from tests.support import eventually
from tests.support.deployed import Deployed, deployed
from tests.support.manifests import environment_of, of_kind, pod_of
from tests.support.processes import functions_are_known
from tests.support.scrapes import get

RUNS = {"orders": ("ten-steps", 55), "mail": ("letter", "sent")}
"""A function of each queue, and what it returns."""


@pytest.mark.parametrize("overlay", ["single", "cluster"])
async def test_what_an_overlay_starts_becomes_ready_works_and_leaves_in_time(overlay: str, tmp_path: Path) -> None:
    async with deployed(overlay, tmp_path) as system:
        for queue in queues(system):
            await works(system, queue)
            await settles(system, queue)
        if overlay == "cluster":
            await loses_a_server(system)
        for pod in system.pods:
            grace = pod_of(of_kind(overlay, "Deployment")[pod.name])["terminationGracePeriodSeconds"]
            began = time.monotonic()
            assert await asyncio.to_thread(pod.process.terminate) == 0
            assert time.monotonic() - began < grace


async def test_an_overlay_with_the_archive_fills_it(tmp_path: Path, archive_url: str) -> None:
    async with deployed("single+archive", tmp_path, ironflow_archive={"url": archive_url}) as system:
        await works(system, "orders")

        async def archived() -> None:
            ended = "SELECT function FROM runs WHERE finished_at IS NOT NULL"
            assert await rows(archive_url, ended, schema="ironflow") == [("ten-steps",)]

        await eventually(archived, within=20.0)
        async with system.signed_in("operator") as client:
            assert (await client.engine.status()).retention_ms == parse_duration("30d")


def queues(system: Deployed) -> list[str]:
    """Return the queues that have workers."""
    return [queue for pod in system.pods if (queue := environment_of(system.overlay, pod.container).get("QUEUE"))]


async def works(system: Deployed, queue: str) -> None:
    function, result = RUNS[queue]
    async with system.signed_in("reader") as client:
        await functions_are_known(client, function)
    async with system.signed_in("publisher") as client:
        assert await (await client.start(function)).result(timeout=30) == result


async def settles(system: Deployed, queue: str) -> None:
    """Have nothing left to do: a run's result is there before its last task is acknowledged."""

    async def is_empty() -> None:
        assert await lag(system, queue) == 0

    await eventually(is_empty)


async def loses_a_server(system: Deployed) -> None:
    """Go on without one of three servers, and with it once it is back: a machine's end, or an upgrade."""
    lost = system.servers[0]
    lost.kill()
    for queue in queues(system):
        await works(system, queue)
    lost.start()
    await eventually(lost.probes_succeed, within=30.0)
    for pod in system.pods:
        await eventually(pod.probes_succeed, within=30.0)


async def lag(system: Deployed, queue: str) -> int:
    """Return the lag of a queue as KEDA finds it: at whichever server leads the queue's consumer."""
    triggers = [each["spec"]["triggers"][0]["metadata"] for each in of_kind(system.overlay, "ScaledObject").values()]
    (asked,) = (each for each in triggers if each["consumer"] == queue)
    for server in system.servers:
        path = f"/jsz?acc={asked['account']}&consumers=true&config=true"
        status, text = await get(server.monitor_port, path)
        assert status == 200
        for consumer in consumers(json.loads(text), asked["stream"]):
            leader = consumer.get("cluster", {}).get("leader", server.name)
            if consumer["name"] == queue and leader == server.name:
                return int(consumer["num_pending"] + consumer["num_ack_pending"])
    pytest.fail(f"no server leads the consumer of {queue}")


def consumers(answer: dict[str, Any], stream: str) -> list[dict[str, Any]]:
    return [
        consumer
        for account in answer["account_details"]
        for detail in account["stream_detail"]
        if detail["name"] == stream
        for consumer in detail.get("consumer_detail", ())
    ]
