"""Runs of which something is recorded that this version cannot read, as a newer one may have written it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.protocol import Publication
from ironflow.handles import RunHandle
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

NEWER = b'{"name":"new","kind":"of a newer version","token":"t"}'


@ironflow.function(id="naps")
async def naps(ctx: Context) -> None:
    await ctx.step.run("before", lambda: 1)
    await ctx.step.sleep("nap", "1h")


async def test_a_run_is_shown_with_all_of_its_steps_that_can_be_read() -> None:
    async with running_system(naps) as system:
        run = await system.client.start(naps)
        await asyncio.sleep(60)
        for kind in ("step", "wait", "try"):
            await put(system, f"{kind}.new-{kind}{'.1' * (kind == 'try')}", run)
        assert [step.name for step in await run.steps()] == ["before", "nap"]
        assert (await system.end_of(run)).status == "failed"
        assert "before" in [step.name for step in await run.steps()]
        error = (await run.state()).error
        assert error is not None
        assert error.type == "TaskUnreadable"


@pytest.mark.parametrize("record", ["input", "outcome.0"])
async def test_a_run_whose_event_cannot_be_read_any_more_hides_no_other_from_the_lists(record: str) -> None:
    @ironflow.function(id="sleeps")
    async def sleeps(ctx: Context) -> None:
        # Its first pass goes on for as long as the body, so that nothing of its event is recorded.
        await ctx.step.run("long", asyncio.sleep, 300)

    async with running_system(naps, sleeps) as system:
        runs = [await system.client.start(naps), await system.client.start(sleeps)]
        await asyncio.sleep(60)
        await put(system, record, runs[1])
        await system.broker.purge(system.names.events, ">")
        assert {run.id async for run in system.client.runs()} == {run.id for run in runs}
        assert (await runs[1].state()).function == "sleeps"


async def put(system: System, record: str, run: RunHandle[Any]) -> None:
    subject = f"{system.names.journal_of_run('default', run.id).removesuffix('>')}{record}"
    await system.broker.publish(Publication(subject=subject, payload=NEWER))
