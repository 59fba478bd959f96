"""Processes that stand still in the middle of what they do, while others do it, and then go on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.protocol import BrokerError, Publication, Stored
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

LONGER_THAN_ANY_LEASE = 20.0


def stand_still_before_tasks(system: System) -> asyncio.Event:
    """Have the first engine stand still once, before it publishes tasks; return what tells that it does."""
    broker = next(iter(system.engines.values()))
    publish_all = broker.publish_all
    standing = asyncio.Event()

    async def held(publications: Sequence[Publication]) -> list[Stored | BrokerError]:
        if any(".tasks." in publication.subject for publication in publications) and not standing.is_set():
            standing.set()
            await asyncio.sleep(LONGER_THAN_ANY_LEASE)
        return await publish_all(publications)

    # What stands still renews nothing either.
    broker.renew = _renew_nothing  # type: ignore[method-assign]
    broker.publish_all = held  # type: ignore[method-assign]
    return standing


async def test_a_task_that_an_engine_publishes_long_after_another_did_begins_no_recorded_body() -> None:
    bodies: list[str] = []

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.run("work", bodies.append, "work")
        await ctx.step.sleep("nap", 60)

    async with running_system(f) as system:
        await asyncio.sleep(1)  # workers trust no task of a run that is older than they are
        standing = stand_still_before_tasks(system)
        run = await system.client.start(f)
        await standing.wait()
        await system.add_engine()
        await run.result("5m")
    assert bodies == ["work"]


def _renew_nothing(lease: str) -> bool:
    """Be sent, and lost."""
    return True
