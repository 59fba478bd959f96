"""Runs are cancelled at random moments of their lives: each ends once, and begins nothing afterwards."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from ironflow.broker.embedded import EmbeddedServer
from tests.bench.cancels import measure
from tests.support.endings import MOMENTS, Sighting, cancel_at_random, endings, left_behind
from tests.support.inprocess import System, running_system
from tests.support.lives import life_of
from tests.support.processes import cluster

LONGER_THAN_A_LIFE_SECONDS = 5.5


async def test_on_real_processes_each_run_ends_once_and_begins_nothing_long_after_its_cancel(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(nats_server.url, namespace, tmp_path) as processes:
        found = await measure(processes, runs=40, starts_a_second=20, first_lives=10)
    assert found.violations() == []
    assert len(found.missed()) <= len(MOMENTS) // 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(1))
async def test_in_virtual_time_each_run_ends_once_and_begins_nothing_after_its_cancel(seed: int) -> None:
    sightings: list[Sighting] = []
    systems: list[System] = []

    def witness(run: str, body: str, what: Literal["begin", "end"]) -> None:
        sightings.append(Sighting(run, body, what, systems[0].now_ms()))

    chance, runs = random.Random(seed), 60
    async with running_system(life_of(witness, plain_seconds=0.03), engines=2, workers=2) as system:
        systems.append(system)

        async def one(number: int) -> tuple[str, bool]:
            await asyncio.sleep(number / 10)
            return await cancel_at_random(system.client, number, runs, LONGER_THAN_A_LIFE_SECONDS, chance)

        answers = await asyncio.gather(*(one(number) for number in range(runs)))
        await asyncio.sleep(60)
        found = await endings(system.client, system.names, answers, sightings)
        assert await left_behind(system.client, system.names, found) == []
    assert [ending for ending in found if not ending.is_consistent] == []
    assert {ending.status for ending in found} == {"completed", "cancelled"}
    assert max(after for ending in found for after in ending.begun_after_ms) <= 0
    moments = Counter(moment for ending in found for moment in ending.moments)
    # A run is queued for no virtual time at all, and a plain body takes real time, and little of it.
    assert moments.keys() >= MOMENTS - {"queued", "body plain"}, moments
