"""Processes that stand still in the middle of what they do, while others do it, and then go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.protocol import BrokerError, Publication, Stored
from ironflow_worker.executor import Executor
from ironflow_worker.lingering import LONGEST_SECONDS
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


async def test_a_worker_that_stood_still_begins_no_body_for_an_event_that_others_have_gone_on_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bodies: list[str] = []
    unheard: list[Callable[[], None]] = []
    hear = Executor.hear
    monkeypatch.setattr(Executor, "hear", lambda *heard: unheard.append(partial(hear, *heard)))

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.wait_for_event("go", event="go", timeout="1h")
        await ctx.step.run("work", bodies.append, "work")

    async with running_system(f, lease_seconds=1.0) as system:
        run = await system.client.start(f)
        await asyncio.sleep(0.1)  # its pass lingers
        (standing,) = system.workers.values()
        standing.renew = _renew_too_late  # type: ignore[method-assign]
        await system.add_worker()
        await system.client.publish("go")
        await run.result("1m")
        await asyncio.sleep(0.5)
        assert asyncio.get_running_loop().time() < LONGEST_SECONDS  # it lingers still
        for each in unheard:
            each()
        await asyncio.sleep(LONGER_THAN_ANY_LEASE)
    assert len(unheard) == 1
    assert bodies == ["work"]


def _renew_nothing(lease: str) -> bool:
    """Be sent, and lost."""
    return True


def _renew_too_late(lease: str) -> bool:
    """Be sent by none who stands still."""
    return False
