"""What is asked of an engine comes in as many answers as the server has it take."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import ironflow
from ironflow import Context, Retry, RunHandle, Step
from ironflow.broker.local import LocalServer
from ironflow.codec import decode_record, encode_record
from ironflow.errors import IronflowError
from ironflow.messages import GetSteps, Reply, StepsPage, StepView
from ironflow.records import FunctionRecord
from ironflow.retry import RetryPolicy
from tests.support.eventually import eventually
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

MAX_PAYLOAD = 64 * 1024
"""So that what fills several answers is soon there."""
ITEMS = 300


async def nothing() -> None:
    pass


@ironflow.function(id="sleeps")
async def sleeps(ctx: Context) -> None:
    async def branch(_: None, step: Step, index: int) -> None:
        await step.run("begun", nothing)
        await step.sleep("nap", "2h" if index % 2 else "1h")

    await ctx.step.map("all", [None] * ITEMS, branch)


@ironflow.function(id="fails", retry=Retry(max_attempts=1))
async def fails(_: Context) -> None:
    raise ValueError("予" * 10_000)


async def with_all_open(system: System) -> RunHandle[None]:
    """Start a run, and wait until all of its branches sleep."""
    run = await system.client.start(sleeps)

    async def all_sleep() -> None:
        assert len(await system.subjects("wait", run)) == ITEMS

    await eventually(all_sleep, within=60.0)
    return run


def counted(steps: list[StepView]) -> Counter[str]:
    assert len({(step.scope, step.name) for step in steps}) == len(steps) == 2 * ITEMS
    return Counter(step.status for step in steps)


async def test_a_run_with_very_many_open_steps_shows_each_once() -> None:
    async with running_system(sleeps, server=LocalServer(max_payload=MAX_PAYLOAD)) as system:
        run = await with_all_open(system)
        steps = await run.steps()
        assert counted(steps) == {"completed": ITEMS, "sleeping": ITEMS}
        assert [step.scope[1] for step in steps if step.name == "nap"] == list(range(ITEMS))


async def test_steps_that_end_while_they_are_asked_for_are_shown_once_as_well() -> None:
    async with running_system(sleeps, server=LocalServer(max_payload=MAX_PAYLOAD)) as system:
        run = await with_all_open(system)
        steps: list[StepView] = []
        request: GetSteps | None = GetSteps(id=run.id)
        while request is not None and not any(step.name == "nap" for step in steps):
            steps, request = await add_page(system, steps, request)
        shown = sum(step.name == "nap" for step in steps)
        assert shown < ITEMS
        await asyncio.sleep(1.5 * 3600)
        while request is not None:
            steps, request = await add_page(system, steps, request)
        # Of those that had not been shown yet every other one has ended by then.
        assert counted(steps)["sleeping"] == shown + (ITEMS - shown) // 2


async def add_page(system: System, steps: list[StepView], request: GetSteps) -> tuple[list[StepView], GetSteps | None]:
    reply = await system.broker.request(system.names.api("runs.steps"), encode_record(request), 5)
    page = decode_record(StepsPage, decode_record(Reply, reply).result)
    following = None if page.next is None else GetSteps(id=request.id, after=page.next, after_open=page.next_open)
    return [*steps, *page.steps], following


async def test_runs_whose_errors_are_long_are_listed_in_as_many_answers_as_they_need() -> None:
    async with running_system(fails, server=LocalServer(max_payload=MAX_PAYLOAD)) as system:
        started = [await system.client.start(fails) for _ in range(20)]
        for run in started:
            assert (await run.wait("1m")).status == "failed"
        listed = [run async for run in system.client.engine.runs(status="failed")]
        assert sorted(run.id for run in listed) == sorted(run.id for run in started)
        assert listed == sorted(listed, key=lambda run: (run.started_at, run.id), reverse=True)
        assert all(run.error is not None and len(run.error.message) > 8_000 for run in listed)
        assert [run async for run in system.client.engine.runs(limit=7)] == listed[:7]


async def test_events_with_much_metadata_are_listed_in_as_many_answers_as_they_need() -> None:
    async with running_system(workers=0, server=LocalServer(max_payload=MAX_PAYLOAD)) as system:
        for number in range(30):
            await system.client.publish("order.placed", number, metadata={"note": "予" * 2_000})
        listed = [event async for event in system.client.events()]
        assert [bytes(event.data) for event in listed] == [b"%d" % number for number in reversed(range(30))]
        assert len([event async for event in system.client.events(limit=7)]) == 7


async def test_who_asks_for_what_does_not_fit_into_one_answer_is_told_so_and_others_are_answered() -> None:
    async with running_system(workers=0, server=LocalServer(max_payload=MAX_PAYLOAD)) as system:
        for begin in range(0, 300, 50):
            many = [
                FunctionRecord(id=f"f{number}", queue="q", triggers=("x" * 250,), retry=RetryPolicy())
                for number in range(begin, begin + 50)
            ]
            await system.client.engine.register(tuple(many))
        with pytest.raises(IronflowError, match=r"'functions.list' is too large: .* takes at most 65,536"):
            await system.client.engine.functions()
        assert (await system.client.engine.status()).problems == ()
