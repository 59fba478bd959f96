"""What becomes of finished runs once their time in NATS is over, on a virtual clock."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

import ironflow
from ironflow import Context
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, Unavailable
from ironflow.errors import DefinitionError, RunNotFoundError
from ironflow.journal import Appended, Journal
from ironflow.names import bucket_stream
from ironflow_engine.retention import LOOK_SECONDS
from tests.support.archives import Lagging
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

HOUR = 60 * 60


@pytest.fixture
def nap() -> Any:
    @ironflow.function(id="nap")
    async def nap(ctx: Context) -> str:
        await ctx.step.run("work", lambda: "done")
        await ctx.step.sleep("nap", ctx.event.data)
        return "awake"

    return nap


async def listed(system: System) -> list[str]:
    return [run.id async for run in system.client.runs()]


async def left_of(system: System, run: str) -> list[str]:
    """Return the subjects of everything that is stored of a run."""
    names = system.names
    found: list[str] = []
    for stream in (
        names.all_shards[0].tasks,
        names.all_shards[0].timers,
        names.all_shards[0].journal,
        bucket_stream(names.runs_bucket),
        f"KV_{names.waits_bucket}",
    ):
        async for page in system.broker.read(stream, ">"):
            found += [message.subject for message in page if f".{run}" in message.subject]
    return found


@pytest.mark.parametrize(("seconds", "told"), [(0, "for ever"), (60, "1m")])
async def test_an_engine_says_at_its_start_for_how_long_runs_are_kept(nap: Any, seconds: int, told: str) -> None:
    with capture_logs() as logs:
        async with running_system(nap, retention=seconds):
            pass
    assert [entry["retention"] for entry in logs if entry["event"] == "engine started"] == [told]


async def test_nothing_is_left_of_a_run_after_its_retention(nap: Any) -> None:
    async with running_system(nap, retention=HOUR) as system:
        run = await system.client.start(nap, 10)
        await run.wait("1m")
        await asyncio.sleep(HOUR - 100)
        assert await listed(system) == [run.id]
        assert await run.result() == "awake"
        await asyncio.sleep(200)
        assert await left_of(system, run.id) == []
        assert await listed(system) == []
        with pytest.raises(RunNotFoundError, match=f"no run {run.id}"):
            await run.state()


async def test_runs_are_kept_for_ever_unless_somebody_says_how_long(nap: Any) -> None:
    async with running_system(nap, sweep_seconds=3600) as system:
        run = await system.client.start(nap, 10)
        await run.wait("1m")
        await asyncio.sleep(100 * 24 * HOUR)
        assert await listed(system) == [run.id]


async def test_a_run_that_has_not_ended_stays_however_old_it_is(nap: Any) -> None:
    async with running_system(nap, retention=60) as system:
        run = await system.client.start(nap, 3600)
        await asyncio.sleep(3500)
        assert await listed(system) == [run.id]
        assert await run.result("5m") == "awake"


async def test_no_engine_lists_a_run_that_another_one_has_deleted(nap: Any) -> None:
    async with running_system(nap, engines=3, retention=60) as system:
        runs = [await system.client.start(nap, 1) for _ in range(250)]
        kept = await system.client.start(nap, 3600)
        for run in runs:
            await run.wait("1m")
        assert len(await listed(system)) == 251
        await asyncio.sleep(180)
        # Any of the engines may answer.
        assert [await listed(system) for _ in range(12)] == [[kept.id]] * 12


async def test_a_run_that_was_deleted_cannot_be_retried() -> None:
    @ironflow.function(id="fails")
    async def fails(ctx: Context) -> None:
        raise ironflow.NonRetryableError("no")

    async with running_system(fails, retention=60) as system:
        run = await system.client.start(fails)
        await run.wait("1m")
        await asyncio.sleep(120)
        with pytest.raises(RunNotFoundError):
            await run.retry()


async def test_an_event_takes_effect_again_once_its_run_is_deleted(nap: Any) -> None:
    async with running_system(nap, retention=600) as system:
        first = await system.client.start(nap, 1, id="one")
        await first.wait("1m")
        await asyncio.sleep(300)
        again = await system.client.start(nap, 1, id="one")
        assert (await again.wait("1m")).started_at == (await first.state()).started_at
        await asyncio.sleep(700)
        third = await system.client.start(nap, 1, id="one")
        assert third.id == first.id
        assert await third.result("1m") == "awake"
        assert await listed(system) == [first.id]


@pytest.mark.parametrize("part", ["journal", "$KV.test_runs", "=purged"])
async def test_an_engine_that_dies_half_way_leaves_it_to_another(nap: Any, part: str) -> None:
    async with running_system(nap, retention=60) as system:
        run = await system.client.start(nap, 1)
        await run.wait("1m")
        (engine,) = system.engines
        struck: list[str] = []

        def strike(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            wanted = verb == "purge" if part != "=purged" else part in subject
            stream = (
                system.names.all_shards[0].journal if part == "journal" else bucket_stream(system.names.runs_bucket)
            )
            if wanted and (part == "=purged" or subject == stream):
                system.server.interceptor = None
                struck.append(subject)
                system.cut_off(engine)
                system.soon(engine.stop(), system.add_engine())
            return None

        system.server.interceptor = strike
        await asyncio.sleep(400)
        assert struck
        assert await left_of(system, run.id) == []
        assert await listed(system) == []


async def test_what_the_archive_does_not_have_yet_is_not_deleted(nap: Any) -> None:
    lagging = Lagging()
    async with running_system(nap, retention=60, archive=lagging) as system:
        run = await system.client.start(nap, 1)
        await run.wait("1m")
        await asyncio.sleep(300)
        assert await listed(system) == [run.id]
        assert (await run.steps())[0].name == "work"
        lagging.has_all = True
        await asyncio.sleep(60)
        assert await left_of(system, run.id) == []


async def test_a_retry_after_the_end_of_the_retention_is_refused_while_the_run_is_being_deleted() -> None:
    @ironflow.function(id="fails")
    async def fails(ctx: Context) -> None:
        raise ironflow.NonRetryableError("no")

    async with running_system(fails, retention=60) as system:
        run = await system.client.start(fails)
        await run.wait("1m")
        refused: list[str] = []

        async def retry() -> None:
            with pytest.raises((DefinitionError, RunNotFoundError)) as caught:
                await run.retry()
            refused.append(str(caught.value))

        def strike(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            # It is marked, and its state is still there.
            if verb == "purge" and subject == system.names.all_shards[0].journal:
                system.server.interceptor = None
                system.soon(retry())
            return None

        system.server.interceptor = strike
        await asyncio.sleep(200)
        assert len(refused) == 1
        assert await left_of(system, run.id) == []


@pytest.mark.parametrize("found", ["marked", "gone"])
async def test_a_retry_that_retention_overtakes_says_so_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    @ironflow.function(id="fails")
    async def fails(ctx: Context) -> None:
        raise ironflow.NonRetryableError("no")

    overtaken = asyncio.Event()
    append = Journal.append

    async def held_up(self: Journal, subject: str, record: msgspec.Struct) -> Appended:
        if ".retry." in subject:
            await overtaken.wait()
        return await append(self, subject, record)

    monkeypatch.setattr(Journal, "append", held_up)
    async with running_system(fails, retention=60) as system:
        run = await system.client.start(fails)
        await run.wait("1m")
        states = bucket_stream(system.names.runs_bucket)

        def strike(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            if verb != "purge" or subject != (system.names.all_shards[0].journal if found == "marked" else states):
                return None
            if found == "gone" and stage == "before":
                return None
            system.server.interceptor = None
            overtaken.set()
            # The run stays marked until the next look.
            return Unavailable("not now") if found == "marked" else None

        await asyncio.sleep(3 * LOOK_SECONDS - 2)  # nobody waits for an engine's answer for long
        system.server.interceptor = strike
        with pytest.raises(ironflow.IronflowError, match=f"run {run.id} was deleted after its retention"):
            await run.retry()
        await asyncio.sleep(200)
        assert await left_of(system, run.id) == []
        assert await listed(system) == []
