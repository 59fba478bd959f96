"""What it costs to learn how a run has ended, on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

import ironflow
from ironflow import Context, RunFailedError
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, Unavailable
from ironflow.names import run_id, start_event_id
from tests.support.eventually import eventually
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time


def questions(system: System) -> list[str]:
    """Return what is asked of engines, and of all workers together, from now on."""
    asked: list[str] = []

    def note(at: Stage, verb: str, subject: str) -> BrokerError | None:
        is_a_ping = subject.startswith("test.worker.")  # whether workers are alive is asked all the time
        if at == "before" and verb in {"request", "survey"} and not is_a_ping:
            asked.append(subject)
        return None

    system.server.interceptor = note
    return asked


def _count(asked: list[str], least: int) -> None:
    assert len(asked) >= least


@ironflow.function(id="three-steps")
async def three_steps(ctx: Context) -> str:
    for name in ("a", "b", "c"):
        await ctx.step.run(name, str, name)
    return str(ctx.event.data)


@ironflow.function(id="large")
async def large(ctx: Context) -> str:
    return "x" * int(ctx.event.data)


@ironflow.function(id="broken")
async def broken(ctx: Context) -> None:
    msg = "no money"
    raise ironflow.NonRetryableError(msg)


async def test_the_result_of_a_run_that_was_just_started_costs_no_question() -> None:
    async with running_system(three_steps) as system:
        asked = questions(system)
        assert await (await system.client.start(three_steps, "done")).result() == "done"
        assert asked == []


async def test_the_result_of_a_run_that_somebody_else_is_about_to_start_can_be_waited_for() -> None:
    async with running_system(three_steps) as system:
        asked = questions(system)
        run = system.client.run(run_id("three-steps", start_event_id("three-steps", "a")))
        result = asyncio.create_task(run.result())
        await eventually(lambda: _count(asked, 2))  # so the first has been answered: there is no such run
        await system.client.start(three_steps, "done", id="a")
        assert await result == "done"


async def test_a_run_that_nobody_starts_is_soon_known_not_to_be_there() -> None:
    async with running_system(three_steps) as system:
        before = asyncio.get_running_loop().time()
        with pytest.raises(ironflow.RunNotFoundError, match="no run NOBODY"):
            await system.client.run("NOBODY").result()
        assert asyncio.get_running_loop().time() - before < 1.0


async def test_a_run_whose_result_is_known_shows_as_ended() -> None:
    async with running_system(three_steps) as system:
        run = await system.client.start(three_steps, "done")
        await run.result()
        assert (await run.state()).status == "completed"


@pytest.mark.parametrize("engines", [1, 2])
async def test_a_run_whose_result_is_known_shows_as_ended_before_that_is_stored(engines: int) -> None:
    async with running_system(three_steps, engines=engines) as system:
        outcomes: list[str] = []

        def refuse(at: Stage, verb: str, subject: str) -> BrokerError | None:
            if verb == "publish" and ".outcome." in subject:
                outcomes.append(subject)
            is_state = (at, verb) == ("before", "publish") and subject.startswith(system.names.run_key(""))
            return Unavailable("not now") if is_state and outcomes else None

        system.server.interceptor = refuse
        run = await system.client.start(three_steps, "done")
        assert await run.result() == "done"
        shown = await system.client.run(run.id).state()
        assert (shown.status, bytes(shown.output), shown.finished_at is None) == ("completed", b'"done"', False)
        assert {step.status for step in await run.steps()} == {"completed"}
        assert not await run.retry()
        system.server.interceptor = None
        assert not await run.cancel()
        await asyncio.sleep(60)
        assert (await run.state()).finished_at == shown.finished_at


async def test_why_a_run_failed_costs_no_question() -> None:
    async with running_system(broken) as system:
        asked = questions(system)
        with pytest.raises(RunFailedError, match="no money"):
            await (await system.client.start(broken)).result()
        assert asked == []


async def test_a_result_too_large_for_a_hint_is_asked_for() -> None:
    async with running_system(large) as system:
        asked = questions(system)
        run = await system.client.start(large, 40_000)
        assert len(await run.result()) == 40_000
        assert asked == ["test.api.runs.part"]


async def test_to_wait_for_a_run_that_is_being_executed_asks_no_worker() -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    @ironflow.function(id="held")
    async def held(ctx: Context) -> int:
        begun.set()
        await release.wait()
        return 1

    async with running_system(held) as system:
        started = await system.client.start(held, {"n": 1})
        await begun.wait()
        asked = questions(system)
        view = asyncio.create_task(system.client.run(started.id).wait())
        await asyncio.sleep(10)
        release.set()
        assert bytes((await view).output) == b"1"
        assert bytes((await view).event.data) == b'{"n":1}'
        assert set(asked) == {"test.api.runs.get", "test.api.runs.part"}


async def test_a_lost_hint_costs_a_second_at_the_most() -> None:
    async with running_system(three_steps) as system:
        system.server.interceptor = lambda _, verb, subject: (
            Unavailable("lost") if verb == "notify" and ".ended." in subject else None
        )
        run = await system.client.start(three_steps, "done")
        began = asyncio.get_running_loop().time()
        assert await run.result() == "done"
        assert asyncio.get_running_loop().time() - began <= 1.0
