"""Passes that stay for a moment for an event, and what happens when they are told of it, and when they are not."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

import ironflow
from ironflow import Context, Step
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, Unavailable
from ironflow.handles import RunHandle
from ironflow_worker.lingering import LONGEST_SECONDS, MOST_EVENTS
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

BODIES: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _no_bodies_yet() -> None:
    BODIES.clear()


def body(name: str) -> str:
    BODIES[name] += 1
    return name


async def leave_word(name: str) -> str:
    return body(name)


@ironflow.function(id="waits")
async def waits(ctx: Context) -> object:
    await ctx.step.run("before", leave_word, f"before {ctx.event.data}")
    event = await ctx.step.wait_for_event("go", event="go", match="key", value=ctx.event.data, timeout="1h")
    await ctx.step.run("after", leave_word, f"after {ctx.event.data}")
    return event.data["key"]


@ironflow.function(id="waits-often")
async def waits_often(ctx: Context) -> list[object]:
    return [
        (await ctx.step.wait_for_event(f"go-{number}", event=f"go-{number}", timeout="1h")).data
        for number in range(ctx.event.data)
    ]


@ironflow.function(id="waits-and-sleeps")
async def waits_and_sleeps(ctx: Context) -> float:
    await ctx.step.wait_for_event("go", event="go", timeout="1h")
    began = asyncio.get_running_loop().time()
    await ctx.step.sleep("nap", "1m")
    return asyncio.get_running_loop().time() - began


@ironflow.function(id="waits-with-others")
async def waits_with_others(ctx: Context) -> list[object]:
    async def first(step: Step) -> object:
        return (await step.wait_for_event("go", event="go-0", timeout="1h")).data

    async def second(step: Step) -> object:
        return (await step.wait_for_event("go", event="go-1", timeout="1h")).data

    return await ctx.step.parallel("both", [first, second])


async def take_long(name: str) -> None:
    body(name)
    BODIES["at work"] += 1
    BODIES["most at work"] = max(BODIES["most at work"], BODIES["at work"])
    await asyncio.sleep(60)
    BODIES["at work"] -= 1


@ironflow.function(id="works-meanwhile")
async def works_meanwhile(ctx: Context) -> None:
    async def work() -> None:
        await asyncio.sleep(1)  # as a request would
        await ctx.step.run("work", take_long, f"work {ctx.event.data}")

    go = ctx.step.wait_for_event("go", event="go", match="key", value=ctx.event.data, timeout="1h")
    await asyncio.gather(go, work())


@ironflow.function(id="quick")
async def quick(ctx: Context) -> str:
    return await ctx.step.run("work", leave_word, "quick")


async def waiting(system: System, key: object) -> RunHandle[object]:
    """Start a run, and return once it waits, and its pass lingers."""
    run = await system.client.start(waits, key)
    await asyncio.sleep(0.1)
    return run


async def outcomes(system: System, run: RunHandle[Any]) -> int:
    """Return how many passes of a run have ended."""
    return len(await system.subjects("outcome", run))


async def test_a_run_goes_on_in_the_same_pass_where_its_event_comes_in_a_moment() -> None:
    async with running_system(waits) as system:
        run = await waiting(system, 1)
        await system.client.publish("go", {"key": 1})
        assert await run.result() == 1
        assert await outcomes(system, run) == 1
        assert BODIES == {"before 1": 1, "after 1": 1}
        assert [step.status for step in await run.steps()] == ["completed"] * 3


async def test_a_run_shows_as_waiting_while_its_pass_lingers_and_not_any_more_once_its_event_has_come() -> None:
    async with running_system(waits) as system:
        run = await waiting(system, 1)
        assert await outcomes(system, run) == 0
        assert (await run.state()).status == "waiting"
        assert [each.id async for each in system.client.runs(status="waiting")] == [run.id]
        await system.client.publish("go", {"key": 1})
        await run.result()
        assert (await run.state()).status == "completed"


async def test_a_run_goes_on_in_another_pass_where_its_event_comes_later() -> None:
    async with running_system(waits) as system:
        run = await waiting(system, 1)
        await asyncio.sleep(LONGEST_SECONDS)
        assert await outcomes(system, run) == 1
        assert (await run.state()).status == "waiting"
        await system.client.publish("go", {"key": 1})
        assert await run.result() == 1
        assert await outcomes(system, run) == 2
        assert BODIES == {"before 1": 1, "after 1": 1}


async def test_one_pass_takes_one_event_after_another() -> None:
    async with running_system(waits_often) as system:
        run = await system.client.start(waits_often, 5)
        for number in range(5):
            await asyncio.sleep(LONGEST_SECONDS - 1)
            await system.client.publish(f"go-{number}", number)
        assert await run.result() == [0, 1, 2, 3, 4]
        assert await outcomes(system, run) == 1


async def test_a_pass_goes_on_behind_a_hundred_events_and_then_another_begins() -> None:
    async with running_system(waits_often) as system:
        run = await system.client.start(waits_often, MOST_EVENTS + 10)
        for number in range(MOST_EVENTS + 10):
            await asyncio.sleep(0.5)
            await system.client.publish(f"go-{number}", number)
        assert await run.result() == list(range(MOST_EVENTS + 10))
        assert await outcomes(system, run) == 2


async def test_events_that_were_there_before_the_wait_are_heard_of_in_the_same_pass() -> None:
    async with running_system(waits_often) as system:
        run = await system.client.start(waits_often, 5)
        for number in range(5):
            await system.client.publish(f"go-{number}", number)
        began = asyncio.get_running_loop().time()
        assert await run.result() == [0, 1, 2, 3, 4]
        assert asyncio.get_running_loop().time() - began < LONGEST_SECONDS / 2
        assert await outcomes(system, run) == 1


async def test_behind_a_pass_that_has_heard_of_events_no_other_is_due() -> None:
    async with running_system(waits_often) as system:
        run = await system.client.start(waits_often, 3)
        for number in range(2):
            await asyncio.sleep(1)
            await system.client.publish(f"go-{number}", number)
        await asyncio.sleep(1_000)
        assert await outcomes(system, run) == 1
        state = await system.run_state(run.id)
        assert (state.number, state.live, state.status) == (0, False, "waiting")
        await system.client.publish("go-2", 2)
        assert await run.result() == [0, 1, 2]


async def test_a_hint_that_is_lost_costs_a_moment_and_nothing_else() -> None:
    async with running_system(waits) as system:
        run = await waiting(system, 1)

        def lose(at: Stage, verb: str, subject: str) -> BrokerError | None:
            return Unavailable("lost") if (at, verb) == ("before", "notify") and ".told." in subject else None

        system.server.interceptor = lose
        began = asyncio.get_running_loop().time()
        await system.client.publish("go", {"key": 1})
        assert await run.result() == 1
        assert asyncio.get_running_loop().time() - began < LONGEST_SECONDS
        assert await outcomes(system, run) == 2
        assert BODIES == {"before 1": 1, "after 1": 1}


@pytest.mark.parametrize("comes_first", [False, True])
async def test_an_event_too_large_to_be_told_holds_nothing_up(comes_first: bool) -> None:  # noqa: FBT001 - two cases
    async with running_system(waits) as system:
        run = await system.client.start(waits, 1)
        await asyncio.sleep(0 if comes_first else 0.1)
        began = asyncio.get_running_loop().time()
        await system.client.publish("go", {"key": 1, "more": "x" * 20_000})
        assert await run.result() == 1
        assert asyncio.get_running_loop().time() - began < LONGEST_SECONDS / 2
        assert await outcomes(system, run) == 2
        assert BODIES == {"before 1": 1, "after 1": 1}


@pytest.mark.parametrize("first", [0, 1])
async def test_a_run_that_waits_for_several_things_goes_on_as_soon(first: int) -> None:
    async with running_system(waits_with_others) as system:
        run = await system.client.start(waits_with_others)
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        await system.client.publish(f"go-{first}", first)
        await system.client.publish(f"go-{1 - first}", 1 - first)
        assert await run.result() == [0, 1]
        assert asyncio.get_running_loop().time() - began < LONGEST_SECONDS / 2


async def test_passes_that_linger_keep_no_other_from_its_turn() -> None:
    async with running_system(waits, quick, concurrency=1) as system:
        run = await waiting(system, 1)
        assert await outcomes(system, run) == 0
        began = asyncio.get_running_loop().time()
        assert await (await system.client.start(quick)).result() == "quick"
        assert asyncio.get_running_loop().time() - began < LONGEST_SECONDS / 2
        await system.client.publish("go", {"key": 1})
        assert await run.result() == 1
        assert await outcomes(system, run) == 1


async def test_as_many_linger_as_there_are_slots_and_the_oldest_makes_room() -> None:
    async with running_system(waits, concurrency=5) as system:
        runs = [await system.client.start(waits, key) for key in range(8)]
        await asyncio.sleep(0.5)
        assert sum([await outcomes(system, run) for run in runs]) == 3
        for key in range(8):
            await system.client.publish("go", {"key": key})
        assert [await run.result() for run in runs] == list(range(8))
        assert set(BODIES.values()) == {1}


async def test_a_cancelled_run_ends_at_once_although_its_pass_lingers() -> None:
    async with running_system(waits) as system:
        run = await waiting(system, 1)
        began = asyncio.get_running_loop().time()
        assert await run.cancel("no longer wanted")
        with pytest.raises(ironflow.RunCancelledError):
            await run.result()
        assert asyncio.get_running_loop().time() - began < LONGEST_SECONDS / 2
        assert BODIES == {"before 1": 1}


async def test_a_worker_that_drains_does_not_wait_for_passes_that_linger() -> None:
    async with running_system(waits) as system:
        run = await waiting(system, 1)
        (worker,) = system.workers
        began = asyncio.get_running_loop().time()
        await worker.drain()
        assert asyncio.get_running_loop().time() - began < LONGEST_SECONDS / 2
        assert await outcomes(system, run) == 1
        await system.add_worker()
        await system.client.publish("go", {"key": 1})
        assert await run.result() == 1
        assert BODIES == {"before 1": 1, "after 1": 1}


async def test_where_a_worker_dies_over_a_pass_that_lingers_another_goes_on_with_its_run() -> None:
    async with running_system(waits) as system:
        run = await waiting(system, 1)
        (worker,) = system.workers
        await system.kill(worker)
        await system.client.publish("go", {"key": 1})
        await system.add_worker()
        assert await run.result() == 1
        assert BODIES == {"before 1": 1, "after 1": 1}


async def test_a_sleep_behind_an_event_that_a_pass_has_heard_of_is_as_precise_as_others() -> None:
    async with running_system(waits_and_sleeps) as system:
        run = await system.client.start(waits_and_sleeps)
        await asyncio.sleep(1)
        await system.client.publish("go")
        await asyncio.sleep(1)
        state = await system.run_state(run.id)
        assert (state.live, state.only_sleeps) == (False, True)
        assert state.due_ms == pytest.approx(system.now_ms() + 59_000, abs=1_000)
        await run.result()


async def test_a_pass_that_lingers_has_a_slot_again_before_it_begins_a_body_beside() -> None:
    async with running_system(works_meanwhile, concurrency=2) as system:
        runs = [await system.client.start(works_meanwhile, key) for key in range(6)]
        await asyncio.sleep(LONGEST_SECONDS / 2)
        for key in range(6):
            await system.client.publish("go", {"key": key})
        for run in runs:
            await run.result("1h")
        assert BODIES["most at work"] == 2
        assert {BODIES[f"work {key}"] for key in range(6)} == {1}


async def test_no_body_is_run_again_where_the_end_of_a_wait_cannot_be_recorded_for_a_moment() -> None:
    async with running_system(works_meanwhile) as system:
        run = await system.client.start(works_meanwhile, 1)
        await asyncio.sleep(LONGEST_SECONDS / 2)
        assert BODIES["at work"] == 1

        def refuse(at: Stage, verb: str, subject: str) -> BrokerError | None:
            return Unavailable("gone") if (at, verb) == ("before", "publish") and ".step." in subject else None

        system.server.interceptor = refuse
        await system.client.publish("go", {"key": 1})
        await asyncio.sleep(1)
        system.server.interceptor = None
        await run.result("1h")
        assert BODIES["work 1"] == 1
        assert await outcomes(system, run) == 1
