"""What api.md says of branches and items that fail, on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from functools import partial
from typing import Any, Literal

import pytest

import ironflow
from ironflow import Context, NonRetryableError, Retry, Step, StepError
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, Unavailable
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

ONCE = Retry(max_attempts=1)
THRICE = Retry(max_attempts=3, initial_delay="10s", backoff=2.0, jitter=0)
MODES: tuple[Literal["fail_fast", "all_settled"], ...] = ("fail_fast", "all_settled")


async def refuse(reason: str = "no") -> int:
    raise NonRetryableError(reason)


def now() -> float:
    return asyncio.get_running_loop().time()


# Failures


@pytest.mark.parametrize("kind", ["parallel", "map"])
async def test_the_first_failure_cancels_what_has_begun_and_skips_what_has_not(kind: str) -> None:
    begun: list[int] = []
    stopped: list[int] = []

    async def hang(index: int) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.append(index)

    async def branch(index: int, step: Step) -> None:
        begun.append(index)
        if index == 1:
            await step.run("wait a little", asyncio.sleep, 5)
            await step.run("fail", refuse, "branch 1")
        await step.run("hang", hang, index)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        try:
            if kind == "map":
                await ctx.step.map("all", range(5), lambda _, step, index: branch(index, step), concurrency=3)
            else:
                await ctx.step.parallel("all", [partial(branch, index) for index in range(5)], concurrency=3)
        except StepError as error:
            return f"{error.step}: {error.message}"
        return ""

    async with running_system(f) as system:
        start = now()
        assert await system.output(f) == "fail: branch 1"
        assert now() - start < 10
    assert begun == [0, 1, 2]
    assert sorted(stopped) == [0, 2]


async def test_all_settled_finishes_all_and_gives_exceptions_in_their_places_in_every_pass() -> None:
    seen: list[Any] = []

    async def work(item: int, step: Step, index: int) -> int:
        if item == 1:
            await step.run("fail", refuse, "one")
        if item == 3:
            msg = "no step"
            raise KeyError(msg)
        await step.sleep("nap", item + 1)
        return await step.run("work", lambda: item)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        results = await ctx.step.map("all", range(5), work, on_error="all_settled")
        seen.append([repr(each) for each in results])
        await ctx.step.sleep("nap", "1h")

    async with running_system(f) as system:
        assert (await system.run(f)).status == "completed"
    first, again = seen
    assert first == again
    assert [first[index] for index in (0, 2, 4)] == ["0", "2", "4"]
    assert "StepError" in first[1]
    assert first[3] == "KeyError('no step')"


async def test_a_failed_parallel_starts_nothing_new_when_it_is_replayed() -> None:
    begun: Counter[str] = Counter()

    async def body(name: str) -> None:
        begun[name] += 1
        await asyncio.sleep(30)

    async def slow(step: Step) -> None:
        await step.run("quick", lambda: None)
        await step.run("slow", body, "slow")
        await step.run("never", body, "never")

    async def fails(step: Step) -> None:
        await step.run("wait", asyncio.sleep, 5)
        await step.run("fail", refuse)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.parallel("all", [slow, fails, slow])
        except StepError as error:
            await ctx.step.sleep("nap", "1h")
            await ctx.step.sleep("another nap", "1h")
            return error.step
        return ""

    async with running_system(f) as system:
        assert await system.output(f) == "fail"
    assert begun == {"slow": 2}


@pytest.mark.parametrize("seed", range(100))
async def test_of_several_failures_the_one_recorded_first_is_raised_in_every_pass(  # noqa: C901 - all kinds at once
    seed: int,
) -> None:
    chance = random.Random(seed)
    count = chance.choice([2, 3, 8])
    delays = [chance.choice([1, 1, 1, 2, 3]) for _ in range(count)]
    caught_first = [chance.random() < 0.4 for _ in range(count)]
    nested = [chance.random() < 0.4 for _ in range(count)]
    naps = [chance.random() < 0.3 for _ in range(count)]
    concurrency = chance.choice([None, 2])
    raised: list[str] = []
    bodies: Counter[str] = Counter()

    async def fail(name: str) -> None:
        bodies[name] += 1
        await asyncio.sleep(delays[int(name.rpartition(" ")[2])])
        raise NonRetryableError(name)

    async def branch(_: object, step: Step, index: int) -> None:
        if naps[index]:
            await step.sleep("nap", 1)
        if caught_first[index]:
            try:
                await step.run("caught", fail, f"caught {index}")
            except StepError:
                await asyncio.sleep(0.5)
                if index % 2:
                    raise
        if nested[index]:
            await step.parallel("inner", [lambda own: own.run("fail", fail, f"failure {index}"), hang])
        await step.run("fail", fail, f"failure {index}")

    async def hang(step: Step) -> None:
        await step.run("hang", asyncio.sleep, 60)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.map("all", range(count), branch, concurrency=concurrency)
        except StepError as error:
            raised.append(error.message)
            for number in range(3):
                await ctx.step.sleep(f"nap {number}", "10m")
                await ctx.step.run(f"work {number}", lambda: None)
            return error.message
        return ""

    async with running_system(f) as system:
        run = await system.client.start(f)
        output = await run.result("3h")
        failed = [step.error.message for step in await run.steps() if step.error is not None]
    swallowed = {f"caught {index}" for index in range(0, count, 2)}
    assert output == next(failure for failure in failed if failure not in swallowed)
    assert set(raised) == {output}
    assert len(raised) >= 4
    assert max(bodies.values()) == 1


async def test_a_worker_that_was_overtaken_raises_the_failure_that_the_other_recorded_first() -> None:
    seconds = {"a": [25, 60], "b": [60, 5]}
    seen: list[str] = []

    async def fail(name: str) -> None:
        await asyncio.sleep(seconds[name].pop(0))
        raise NonRetryableError(name)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        async def branch(name: str, step: Step) -> None:
            await step.run("fail", fail, name)

        try:
            await ctx.step.parallel("all", [partial(branch, name) for name in "ab"])
        except StepError as error:
            seen.append(error.message)
            await ctx.step.run("react", asyncio.sleep, 30)

    def no_renewals(_: str, verb: str, __: str) -> BrokerError | None:
        return Unavailable("lost") if verb == "renew" else None

    async with running_system(f, workers=2) as system:
        # Nobody keeps the lease, and so the second worker gets the task while the first executes it.
        system.server.interceptor = no_renewals
        assert (await system.run(f)).status == "completed"
        await asyncio.sleep(120)
    assert len(seen) > 1
    assert set(seen) == {"b"}


async def test_an_exception_raised_because_of_a_failed_step_counts_as_that_step() -> None:
    seen: list[str] = []

    async def first(step: Step) -> None:
        try:
            await step.run("fail", refuse, "first")
        except StepError as error:
            await asyncio.sleep(1)
            msg = "translated"
            raise KeyError(msg) from error

    async def second(step: Step) -> None:
        await step.run("wait", asyncio.sleep, 0.5)
        await step.run("fail", refuse, "second")

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.parallel("all", [second, first])
        except Exception as error:  # noqa: BLE001 - either of the two
            seen.append(repr(error))
            await ctx.step.sleep("nap", "1m")
        return "done"

    async with running_system(f) as system:
        assert await system.output(f) == "done"
    assert seen == ["KeyError('translated')"] * 2


async def test_a_failed_branch_that_waits_for_its_turn_is_replayed_before_anything_new_begins() -> None:
    begun: Counter[str] = Counter()

    async def body(name: str) -> None:
        begun[name] += 1
        await asyncio.sleep(20)

    async def branch(item: int, step: Step, index: int) -> None:
        await step.run("quick", asyncio.sleep, 1)
        if index == 4:
            await step.run("fail", refuse)
        if index in (3, 5):
            await step.run("slow", body, f"slow {index}")

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.map("all", range(6), branch, concurrency=2)
        except StepError as error:
            await ctx.step.sleep("nap", "1h")
            return error.step
        return ""

    async with running_system(f) as system:
        assert await system.output(f) == "fail"
    assert begun == {"slow 3": 1}


async def test_a_run_goes_on_although_the_code_now_lets_fewer_branches_run_at_once() -> None:
    concurrency = 4

    async def branch(item: int, step: Step, index: int) -> int:
        if index == 3:
            with contextlib.suppress(StepError):
                await step.run("fail", refuse)
        await step.sleep("nap", "1m")
        return await step.run("work", lambda: item)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> Any:
        return await ctx.step.map("all", range(4), branch, concurrency=concurrency)

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(30)
        concurrency = 1
        assert await run.result("3h") == [0, 1, 2, 3]


async def test_a_parallel_left_behind_by_a_finished_handler_ends_with_its_pass() -> None:
    left: list[asyncio.Task[Any]] = []

    async def nap(step: Step) -> None:
        await step.sleep("nap", "1h")

    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        left.append(asyncio.create_task(ctx.step.parallel("all", [nap, nap])))
        await ctx.step.run("work", asyncio.sleep, 1)
        return "done"

    async with running_system(f) as system:
        assert await system.output(f) == "done"
        await asyncio.sleep(1)
        assert left[0].cancelled()
        assert [task for task in asyncio.all_tasks() if "FanOut" in repr(task)] == []


async def test_a_branch_that_is_cancelled_while_it_records_is_recorded_before_the_failure_is_raised() -> None:
    recorded: list[list[str]] = []

    async def fails(step: Step) -> None:
        await step.run("fail", refuse)

    async def works(step: Step) -> None:
        await step.run("work", asyncio.sleep, 0)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        try:
            await ctx.step.parallel("all", [fails, works])
        except StepError:
            recorded.append(sorted(await system.subjects("step")))
            await ctx.step.sleep("nap", "1m")

    async with running_system(f) as system:
        first = True

        def hold_up(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            nonlocal first
            if stage == "after" and first and verb == "publish" and subject.endswith("all/1/work"):
                first = False
                return Unavailable("the answer was lost")
            return None

        system.server.interceptor = hold_up
        assert (await system.run(f)).status == "completed"
    assert recorded[0] == ["step.all/0/fail", "step.all/1/work"]


@pytest.mark.parametrize("trouble", ["before", "after"])
async def test_a_step_that_is_cancelled_while_it_records_is_recorded_when_it_ends(trouble: Stage) -> None:
    recorded: list[list[str]] = []
    is_recording = asyncio.Event()

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        step = asyncio.ensure_future(ctx.step.run("work", asyncio.sleep, 0))
        if not recorded:
            await is_recording.wait()
            step.cancel()
        await asyncio.wait([step])
        recorded.append(await system.subjects("step"))
        await ctx.step.sleep("nap", "1m")

    async with running_system(f) as system:

        def hold_up(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            if stage == trouble and verb == "publish" and subject.endswith("step.work") and not is_recording.is_set():
                is_recording.set()
                return Unavailable("the answer was lost")
            return None

        system.server.interceptor = hold_up
        assert (await system.run(f)).status == "completed"
    assert recorded[0] == ["step.work"]


# What is no failure of a branch


@pytest.mark.parametrize("on_error", MODES)
async def test_a_branch_that_calls_exit_fails_like_any_other(on_error: Literal["fail_fast", "all_settled"]) -> None:
    async def leave(step: Step) -> None:
        raise SystemExit(3)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        step: Any = ctx.step
        try:
            results = await step.parallel("all", [leave], on_error=on_error)
        except RuntimeError as error:
            results = [error]
        return str(results[0])

    async with running_system(f) as system:
        assert await system.output(f) == "a branch called sys.exit(3)"


async def test_a_time_limit_around_a_parallel_cancels_its_branches_and_leaves_the_run_in_order() -> None:
    stopped: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.append("x")

    async def waits(step: Step) -> None:
        await step.run("hang", hang)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            async with asyncio.timeout(10):
                await ctx.step.parallel("all", [waits, waits])
        except TimeoutError:
            return await ctx.step.run("give up", lambda: "gave up")
        return ""

    async with running_system(f) as system:
        assert await system.output(f) == "gave up"
    assert len(stopped) == 2


async def test_a_recorded_step_asked_for_as_another_kind_parks_the_run_also_in_all_settled() -> None:
    kind = "sleep"

    async def work(step: Step) -> None:
        if kind == "sleep":
            await step.sleep("work", "1h")
        else:
            await step.run("work", lambda: None)

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> None:
        await ctx.step.parallel("all", [work], on_error="all_settled")

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(10)
        kind = "run"
        view = await run.wait("2h")
    assert view.error is not None
    assert view.error.type == "NondeterminismError"
