"""Waiting for events in branches, and ends from outside meanwhile, on a virtual clock."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import Any, Literal

import pytest

import ironflow
from ironflow import Context, LimitError, Step, WaitTimeoutError
from ironflow.handles import RunHandle
from ironflow.limits import Limits
from ironflow.names import bucket_stream
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

PARTS = ("hotel", "flight", "car")


async def now() -> float:
    return asyncio.get_running_loop().time()


def trip(**options: Any) -> ironflow.Function[Any, Any]:
    """Return a function of three branches, each of which waits for an event of its own."""

    @ironflow.function(id="f", triggers=["trip.planned"], **options)
    async def f(ctx: Context) -> Any:
        def branch(part: str) -> Any:
            async def run(step: Step) -> Any:
                event = await step.wait_for_event("booked", event=f"{part}.booked")
                return await step.run("note", lambda: event.data)

            return run

        return await ctx.step.parallel("all", [branch(part) for part in PARTS])

    return f


async def plan(system: System) -> RunHandle[Any]:
    """Start a run by an event, and return once it waits."""
    (run,), _ = await system.client.runs_of(await system.client.publish_record("trip.planned", None))
    await asyncio.sleep(1)
    return system.client.run(run)


async def open_waits(system: System) -> int:
    """Return how many waits events find."""
    await asyncio.sleep(1)
    stream = bucket_stream(system.names.waits_bucket)
    pages = [page async for page in system.broker.read(stream, f"$KV.{system.names.waits_bucket}.*.*.*.*.*")]
    return sum(map(len, pages))


@pytest.mark.parametrize("order", [*permutations(PARTS)], ids=" ".join)
@pytest.mark.parametrize("seconds", [0, 60])
async def test_each_branch_gets_its_event_in_whichever_order_they_come(order: tuple[str, ...], seconds: int) -> None:
    async with running_system(trip(), engines=2, workers=2) as system:
        run = await plan(system)
        assert await open_waits(system) == len(PARTS)
        for part in order:
            await asyncio.sleep(seconds)
            await system.client.publish(f"{part}.booked", part)
        assert await run.result("1m") == list(PARTS)
        assert await open_waits(system) == 0


@pytest.mark.parametrize("ended_by", ["cancel", "timeout"])
async def test_a_run_that_is_ended_while_its_branches_wait_leaves_no_wait(
    ended_by: Literal["cancel", "timeout"],
) -> None:
    async with running_system(trip(timeout="1h")) as system:
        run = await plan(system)
        await system.client.publish("flight.booked", "flight")
        assert await open_waits(system) == len(PARTS) - 1
        if ended_by == "cancel":
            assert await run.cancel("too expensive")
        else:
            await asyncio.sleep(3600)
        with pytest.raises(ironflow.RunCancelledError if ended_by == "cancel" else ironflow.RunFailedError):
            await run.result("1m")
        assert await open_waits(system) == 0
        ended = await run.state()
        await system.client.publish("car.booked", "car")
        await asyncio.sleep(60)
        assert await run.state() == ended


async def test_a_sleep_beside_a_wait_overlaps_it() -> None:
    @ironflow.function(id="f", triggers=["trip.planned"])
    async def f(ctx: Context) -> Any:
        began = await ctx.step.run("began", now)

        async def wait(step: Step) -> Any:
            return (await step.wait_for_event("pause", event="hotel.booked")).data

        async def sleep(step: Step) -> str:
            await step.sleep("pause", "1h")
            return "slept"

        results = await ctx.step.parallel("both", (wait, sleep))
        return [*results, await ctx.step.run("ended", now) - began]

    async with running_system(f) as system:
        run = await plan(system)
        await asyncio.sleep(1800)
        await system.client.publish("hotel.booked", "hotel")
        *results, took = await run.result("2h")
        assert results == ["hotel", "slept"]
        assert took == pytest.approx(3600, abs=1)
        assert await open_waits(system) == 0


async def test_of_waits_that_time_out_in_branches_the_one_recorded_first_is_raised_in_every_pass() -> None:
    raised: list[str] = []

    @ironflow.function(id="f", triggers=["trip.planned"])
    async def f(ctx: Context) -> str:
        def branch(index: int, timeout: str) -> Any:
            async def run(step: Step) -> Any:
                return await step.wait_for_event(f"wait-{index}", event="x", timeout=timeout, on_timeout="raise")

            return run

        async def side(step: Step) -> str:
            await step.sleep("nap", "3h")
            return "slept"

        waits = [branch(0, "2h"), branch(1, "1h")]
        try:
            await ctx.step.parallel("all", [*waits, side])
        except WaitTimeoutError as error:
            raised.append(str(error).split(":")[0])
        await ctx.step.sleep("afterwards", "5h")
        return raised[-1]

    async with running_system(f) as system:
        run = await plan(system)
        assert await run.result("9h") == "step 'wait-1'"
        # The wait that the group has left behind ends in its time.
        assert await open_waits(system) == 0
    assert len(raised) > 1
    assert set(raised) == {"step 'wait-1'"}


async def test_open_waits_are_bounded_over_all_branches_of_a_run() -> None:
    async def wait(index: int, step: Step, _: int) -> Any:
        return (await step.wait_for_event("booked", event="x", match="n", value=index)).data["n"]

    @ironflow.function(id="f", triggers=["trip.planned"])
    async def f(ctx: Context) -> Any:
        # Two at a time never are too many, however many there are.
        few = await ctx.step.map("few", range(5), wait, concurrency=2)
        with pytest.raises(LimitError, match="at most 3 events at a time"):
            await ctx.step.map("many", range(5, 9), wait)
        return few

    async with running_system(f, limits=Limits(open_waits_per_run=3)) as system:
        run = await plan(system)
        for number in range(5):
            await asyncio.sleep(10)
            await system.client.publish("x", {"n": number})
        assert await run.result("1m") == list(range(5))
        assert await open_waits(system) == 0
