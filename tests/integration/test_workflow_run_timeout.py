"""Run timeouts, from the outside: client, engine and worker on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

import ironflow
from ironflow.broker.protocol import Publication
from ironflow.names import RUN_TIMER
from tests.support.inprocess import running_system
from tests.support.interruptible import (
    Body,
    assert_ended_once,
    pending,
    sleeping,
    until_status,
    working,
)

pytestmark = pytest.mark.virtual_time


async def test_a_sleeping_run_fails_when_its_time_is_over() -> None:
    body = Body()
    f = sleeping(body, timeout="10m")
    async with running_system(f) as system:
        began = asyncio.get_running_loop().time()
        run = await system.client.start(f)
        with pytest.raises(ironflow.RunFailedError, match="the run took longer than its timeout of 600 s"):
            await run.result("3h")
        assert 600 <= asyncio.get_running_loop().time() - began <= 601
        view = await run.state()
        assert view.error is not None
        assert view.error.type == "RunTimeoutError"
        await asyncio.sleep(2 * 3600)
        await assert_ended_once(system, run, "failed")
    assert body.began == []


async def test_a_run_at_work_fails_when_its_time_is_over_and_its_body_is_cancelled() -> None:
    body = Body(3600)
    f = working(body, timeout="5s")
    async with running_system(f) as system:
        run = await system.client.start(f, {"order": 7})
        assert (await run.wait("1m")).status == "failed"
        await asyncio.sleep(3600)
        await assert_ended_once(system, run, "failed")
        outcome = await system.broker.last(
            system.names.all_shards[0].journal,
            system.names.journal_outcome(f.queue, run.id, (await system.run_state(run.id)).number),
        )
        assert outcome is not None
        assert b'"order":7' in outcome.payload  # so that it can be retried after EVENTS has forgotten the event
    assert len(body.cancelled) == 1


async def test_a_queued_run_fails_when_its_time_is_over() -> None:
    body = Body()
    f = working(body, timeout="1m")
    async with running_system(f) as system:
        await system.kill(next(iter(system.workers)))
        run = await system.client.start(f)
        assert (await run.wait("5m")).status == "failed"
        await system.add_worker()
        await asyncio.sleep(60)
        await assert_ended_once(system, run, "failed")
    assert body.began == []


async def test_a_run_that_ends_in_time_is_left_alone() -> None:
    f = working(Body(1), timeout="10s")
    async with running_system(f) as system:
        run = await system.client.start(f)
        assert await run.result("1m") == "finished"
        await asyncio.sleep(60)
        assert (await run.state()).status == "completed"
        await assert_ended_once(system, run, "completed")


async def test_a_timer_that_fires_twice_or_far_too_early_changes_nothing() -> None:
    f = sleeping(Body(), timeout="2h")
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_status(run, "waiting")
        timers = [subject async for subject in pending(system, run) if subject.endswith(f".{RUN_TIMER}")]
        timer = await system.broker.last(system.names.all_shards[0].timers, timers[0])
        assert timer is not None
        again = Publication(subject=system.names.fired(run.id, RUN_TIMER), payload=timer.payload)
        for _ in range(2):
            await system.broker.publish(again)
        await asyncio.sleep(60)
        assert (await run.state()).status == "waiting"
        assert await run.result("3h") == "done"
        await system.broker.publish(again)
        await asyncio.sleep(2 * 3600)
        assert (await run.state()).status == "completed"


async def test_a_timeout_outlives_restarts_of_everything() -> None:
    body = Body()
    f = sleeping(body, timeout="10m")
    async with running_system(f) as system:
        run = await system.client.start(f)
        await until_status(run, "waiting")
        await system.kill(next(iter(system.engines)))
        await system.kill(next(iter(system.workers)))
        system.server.stop()
        await asyncio.sleep(3600)
        system.server.start()
        await system.add_engine()
        await system.add_worker()
        assert (await run.wait("1m")).status == "failed"
        await asyncio.sleep(3600)
        await assert_ended_once(system, run, "failed")
    assert body.began == []
