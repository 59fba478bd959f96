"""What api.md says of ``step.parallel`` and ``step.map``: order, overlap and concurrency, on a virtual clock."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest

import ironflow
from ironflow import Context, Retry, Step
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

THRICE = Retry(max_attempts=3, initial_delay="10s", backoff=2.0, jitter=0)


def now() -> float:
    return asyncio.get_running_loop().time()


async def one_item(item: object, step: Step, index: int) -> int:
    return 1


# Order and overlap


async def test_results_come_in_the_order_of_the_branches_whichever_ends_first() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        def branch(seconds: int) -> Any:
            async def run(step: Step) -> int:
                await step.sleep("nap", seconds)
                return await step.run("work", lambda: seconds)

            return run

        return await ctx.step.parallel("all", [branch(30), branch(10), branch(20)])

    async with running_system(f) as system:
        assert await system.output(f) == [30, 10, 20]


async def test_a_list_of_branches_gives_a_list_and_a_tuple_a_tuple() -> None:
    async def one(step: Step) -> int:
        return 1

    kinds: list[Any] = []

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        kinds.append(await ctx.step.parallel("list", [one, one]))
        kinds.append(await ctx.step.parallel("tuple", (one, one)))
        kinds.append(await ctx.step.parallel("none", []))
        kinds.append(await ctx.step.parallel("nothing", ()))
        kinds.append(await ctx.step.map("no items", [], one_item))

    async with running_system(f) as system:
        assert (await system.run(f)).status == "completed"
    assert kinds == [[1, 1], (1, 1), [], (), []]


async def test_three_branches_that_sleep_an_hour_take_an_hour() -> None:
    async def nap(step: Step) -> None:
        await step.sleep("nap", "1h")

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.parallel("naps", [nap, nap, nap])

    async with running_system(f) as system:
        begun = now()
        await system.output(f)
        assert 3600 <= now() - begun < 3602


async def test_a_retrying_branch_goes_on_beside_a_sleeping_one() -> None:
    times: list[float] = []

    async def flaky() -> int:
        times.append(now())
        if len(times) < 3:
            msg = "not yet"
            raise ValueError(msg)
        return len(times)

    async def nap(step: Step) -> None:
        await step.sleep("nap", "1h")

    async def work(step: Step) -> int:
        return await step.run("work", flaky)

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> Any:
        return await ctx.step.parallel("both", (nap, work))

    async with running_system(f) as system:
        assert await system.output(f) == [None, 3]
    assert [round(later - earlier) for earlier, later in pairwise(times)] == [10, 20]


async def test_a_wait_is_recorded_while_another_branch_still_works() -> None:
    woken: list[float] = []

    async def wake() -> None:
        woken.append(now())

    async def nap(step: Step) -> None:
        await step.sleep("nap", "1s")
        await step.run("woken", wake)

    async def work(step: Step) -> None:
        await step.run("work", asyncio.sleep, 10)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.parallel("both", [nap, work])

    async with running_system(f) as system:
        begun = now()
        run = await system.client.start(f)
        await asyncio.sleep(0.5)
        assert await system.subjects("wait", run) == ["wait.both/0/nap"]
        await run.result("1m")
        # Its second was over long before the body ended, and is not counted from there.
    assert woken[0] - begun < 10.9


@pytest.mark.parametrize(("seconds", "goes_on_after"), [(1, 10), (9.9, 10), (15, 15)])
async def test_a_sleep_counts_from_its_own_record_and_goes_on_when_no_body_is_at_work(
    seconds: float, goes_on_after: float
) -> None:
    """A branch that wakes while another one's body is at work goes on right after that body, as the docs say."""
    woken: list[float] = []

    async def wake() -> None:
        woken.append(now())

    async def nap(step: Step) -> None:
        await step.sleep("nap", seconds)
        await step.run("woken", wake)

    async def work(step: Step) -> None:
        await step.run("work", asyncio.sleep, 10)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.parallel("both", [nap, work])

    async with running_system(f) as system:
        begun_ms, begun = system.now_ms(), now()
        run = await system.client.start(f)
        await run.result("1m")
        subject = system.names.journal_step(f.queue, run.id, "both/0/nap")
        end = await system.broker.last(system.names.all_shards[0].journal, subject)
        assert end is not None
        assert (end.time_ms - begun_ms) / 1000 == pytest.approx(seconds, abs=0.3)
    assert len(woken) == 1
    assert woken[0] - begun == pytest.approx(goes_on_after, abs=0.3)


@pytest.mark.parametrize("last", ["sleep", "wait", "retry"])
async def test_a_parallel_of_a_sleep_a_wait_and_a_retrying_step_completes_when_the_last_of_them_does(last: str) -> None:
    takes = {"sleep": 20, "wait": 20, "retry": 20, last: 40}
    attempts: list[float] = []

    async def fail_once() -> str:
        attempts.append(now())
        if len(attempts) == 1:
            msg = "not yet"
            raise ValueError(msg)
        return "done"

    async def sleep(step: Step) -> str:
        await step.sleep("nap", takes["sleep"])
        return "slept"

    async def wait(step: Step) -> Any:
        return (await step.wait_for_event("call", event="called")).data

    async def work(step: Step) -> str:
        return await step.run("work", fail_once, retry=Retry(max_attempts=2, initial_delay=takes["retry"], jitter=0))

    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        return await ctx.step.parallel("all", (sleep, wait, work))

    async with running_system(f) as system:
        begun = now()
        run = await system.client.start(f)
        await asyncio.sleep(takes["wait"])
        await system.client.publish("called", "called")
        assert await run.result("1m") == ["slept", "called", "done"]
        assert now() - begun == pytest.approx(40, abs=1)
    assert attempts[1] - attempts[0] == pytest.approx(takes["retry"], abs=0.5)


async def test_what_a_branch_awaits_between_its_steps_is_not_cut_off_by_a_branch_that_sleeps() -> None:
    calls: list[str] = []

    async def nap(step: Step) -> None:
        await step.sleep("nap", "1s")

    async def work(step: Step) -> str:
        await step.run("first", lambda: None)
        calls.append("call")
        await asyncio.sleep(60)
        return await step.run("second", lambda: "worked")

    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        return await ctx.step.parallel("both", [nap, work])

    async with running_system(f) as system:
        assert await system.output(f) == [None, "worked"]
    assert len(calls) <= 2


async def test_a_gather_of_sleeps_in_a_branch_lets_the_pass_end() -> None:
    async def naps(step: Step) -> int:
        await asyncio.gather(step.sleep("a", "1h"), step.sleep("b", "1h"))
        return await step.run("after", lambda: 1)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        return await ctx.step.parallel("all", [naps, naps])

    async with running_system(f) as system:
        begun = now()
        run = await system.client.start(f)
        await asyncio.sleep(5)
        assert (await run.state()).status == "waiting"
        assert await run.result("3h") == [1, 1]
        assert now() - begun < 3602


async def test_parallels_and_maps_nest_and_their_waits_overlap() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        async def outer(step: Step) -> Any:
            async def inner(item: int, own: Step, index: int) -> int:
                await own.sleep("nap", "1h")
                return await own.run("work", lambda: item * 10 + index)

            return await step.map("inner", [1, 2], inner)

        return await ctx.step.parallel("outer", [outer, outer])

    async with running_system(f) as system:
        begun = now()
        run = await system.client.start(f)
        assert await run.result("3h") == [[10, 21], [10, 21]]
        assert now() - begun < 3602
        scopes = {(step.scope, step.name) for step in await run.steps()}
    assert scopes == {
        (("outer", one, "inner", two), name) for one in (0, 1) for two in (0, 1) for name in ("nap", "work")
    }


async def test_the_step_client_around_a_branch_still_works_in_it() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        async def branch(step: Step) -> list[int]:
            await ctx.step.sleep("nap", "1m")
            return [await ctx.step.run("outside", lambda: 1), await step.run("inside", lambda: 2)]

        return await ctx.step.parallel("all", [branch])

    async with running_system(f) as system:
        run = await system.client.start(f)
        assert await run.result("1h") == [[1, 2]]
        scopes = {step.name: step.scope for step in await run.steps()}
    assert scopes == {"nap": (), "outside": (), "inside": ("all", 0)}


# Concurrency


@pytest.mark.parametrize("concurrency", [1, 3, 7])
async def test_no_more_branches_run_at_once_than_allowed_and_a_sleeping_one_keeps_its_place(concurrency: int) -> None:
    inside: set[int] = set()
    most = 0
    begun: list[int] = []

    async def work(item: int, step: Step, index: int) -> int:
        nonlocal most
        if index not in begun:
            begun.append(index)
        inside.add(index)
        most = max(most, len(inside))
        try:
            await step.run("work", asyncio.sleep, 1)
            await step.sleep("nap", "10s")
        finally:
            inside.discard(index)
        return item

    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        return await ctx.step.map("all", range(20), work, concurrency=concurrency)

    async with running_system(f) as system:
        start = now()
        assert await system.output(f) == list(range(20))
        assert now() - start >= 11 * (20 / concurrency) - 11
    assert most == concurrency
    assert begun == list(range(20))


async def test_without_a_bound_all_branches_get_their_turn_although_the_first_ones_sleep() -> None:
    async def nap(item: int, step: Step, index: int) -> int:
        await step.sleep("nap", "1h")
        return item

    @ironflow.function(id="f")
    async def f(ctx: Context) -> int:
        return len(await ctx.step.map("naps", range(1_500), nap))

    async with running_system(f) as system:
        begun = now()
        assert await system.output(f) == 1_500
        assert now() - begun < 3610


async def test_a_map_of_10_000_items_keeps_order_and_begins_few_at_a_time() -> None:
    inside = most = 0

    async def work(item: int, step: Step, index: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        result = await step.run("work", double, item)
        inside -= 1
        return result

    async def double(number: int) -> int:
        return number * 2

    @ironflow.function(id="f")
    async def f(ctx: Context) -> bool:
        results = await ctx.step.map("all", range(10_000), work)
        return results == [number * 2 for number in range(10_000)]

    async with running_system(f) as system:
        begun = time.monotonic()
        assert await system.output(f) is True
        took = time.monotonic() - begun
    print(f"a map of 10,000 items, in process: {took:.1f} s, at most {most} at a time")  # noqa: T201 - a figure
    assert most <= 1_000
    assert took < 20
