"""A large map on real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ironflow.broker.embedded import EmbeddedServer
from tests.bench.fan_out import killed_at_half, undisturbed
from tests.support.processes import Cluster, cluster

ITEMS = 1_000
WORKER_MIB = 150
"""Far more than the items need, and far less than if each were kept several times over."""


@pytest.fixture
def processes(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with cluster(nats_server.url, namespace, tmp_path) as made:
        yield made


async def test_the_results_of_a_large_map_are_in_order_and_its_worker_stays_small(processes: Cluster) -> None:
    found = await undisturbed(processes, ITEMS)
    assert found.violations() == []
    assert max(found.peaks.values()) < WORKER_MIB


async def test_when_the_worker_is_killed_at_half_another_repeats_few_bodies(processes: Cluster) -> None:
    found = await killed_at_half(processes, ITEMS)
    # With 100 at a time, as many may have begun and not been recorded; that is 5 % only from 2,000 items on.
    assert found.in_order
    assert found.workers == 2
    assert found.again <= 100
