"""How a pass ends: what waits, what goes on, and what handlers may do about the signal, on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog

import ironflow
from ironflow import Context, Retry
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

ONCE = Retry(max_attempts=1)
THRICE = Retry(max_attempts=3, initial_delay="10s", backoff=2.0, jitter=0)

Handler = Callable[[Context[Any]], Awaitable[Any]]


class FailsFirst:
    """A body that fails at its first call."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls == 1:
            msg = "not yet"
            raise ValueError(msg)
        return self.calls


# The signal


async def swallow_base_exception(ctx: Context[Any]) -> str:
    with contextlib.suppress(BaseException):
        await ctx.step.sleep("nap", "1h")
    return "finished too early"


async def swallow_bare(ctx: Context[Any]) -> str:
    try:
        await ctx.step.sleep("nap", "1h")
    except:  # noqa: E722 - what a user may write
        return "finished too early"
    return "never comes here"


async def return_in_finally(ctx: Context[Any]) -> str:
    try:
        await ctx.step.sleep("nap", "1h")
    finally:
        return "finished too early"  # noqa: B012 - what a user may write


async def swallow_in_a_branch(ctx: Context[Any]) -> str:
    answers = await asyncio.gather(ctx.step.sleep("a", "1h"), ctx.step.sleep("b", "2h"), return_exceptions=True)
    return f"finished too early: {answers}"


go_on = False


async def swallow_for_ever(ctx: Context[Any]) -> str:
    number = 0
    while go_on:
        number += 1
        try:
            await ctx.step.sleep(f"nap {number}", "1h")
        except BaseException:  # noqa: BLE001, S112 - what a user may write
            continue
    return "at last"


@pytest.mark.parametrize(
    "handler",
    [swallow_base_exception, swallow_bare, return_in_finally, swallow_in_a_branch, swallow_for_ever],
    ids=lambda handler: handler.__name__,
)
async def test_a_handler_that_swallows_the_signal_fails_and_learns_why(
    handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.go_on", True)  # a loop that nothing stops would outlive the test
    f = ironflow.function(id="f", retry=THRICE)(handler)

    @ironflow.function(id="other")
    async def other(ctx: Context) -> str:
        await ctx.step.sleep("nap", "1m")
        return "done"

    async with running_system(f, other) as system:
        run = await system.client.start(f)
        assert await system.output(other) == "done"  # the worker goes on meanwhile
        view = await run.wait("10m")
        monkeypatch.setattr(f"{__name__}.go_on", False)
        await asyncio.sleep(2)
    assert view.error is not None
    assert view.error.type == "PassEndSwallowed"
    assert "catch Exception rather than BaseException" in view.error.message


async def races(ctx: Context[Any]) -> str:
    timer = asyncio.create_task(ctx.step.sleep("time is up", "1h"))
    event = asyncio.create_task(ctx.step.wait_for_event("paid", event="order.paid"))
    done, _ = await asyncio.wait({timer, event}, return_when=asyncio.FIRST_COMPLETED)
    _ = [task.exception() for task in done]
    return "expired" if timer in done else "paid"


async def gathers_what_is_tried_again(ctx: Context[Any]) -> str:
    async def flaky() -> None:
        raise ConnectionError

    results = await asyncio.gather(ctx.step.run("a", flaky), ctx.step.run("b", int), return_exceptions=True)
    return f"of these, {sum(isinstance(each, Exception) for each in results)} failed"


@pytest.mark.parametrize("handler", [races, gathers_what_is_tried_again], ids=lambda handler: handler.__name__)
async def test_a_handler_whose_asyncio_call_swallows_the_signal_learns_which_and_what_to_write(handler: Any) -> None:
    f = ironflow.function(id="f", retry=THRICE)(handler)
    async with running_system(f) as system:
        view = await system.run(f)
    assert view.error is not None
    assert view.error.type == "PassEndSwallowed"
    assert "asyncio.wait() and asyncio.gather(…, return_exceptions=True)" in view.error.message
    assert "step.parallel(…, on_error='all_settled')" in view.error.message
    assert "step.wait_for_event(…, timeout=…, on_timeout='none')" in view.error.message


async def test_except_exception_does_not_catch_the_signal() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.sleep("nap", "1h")
        except Exception:  # noqa: BLE001 - what a user may write
            return "caught"
        return "slept"

    async with running_system(f) as system:
        assert await system.output(f) == "slept"


async def test_a_finally_that_calls_a_step_starts_nothing_before_the_end() -> None:
    cleanups: list[float] = []

    async def clean_up() -> None:
        cleanups.append(asyncio.get_running_loop().time())

    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.sleep("nap", "1h")
        finally:
            await ctx.step.run("clean up", clean_up)
        return "done"

    async with running_system(f) as system:
        assert await system.output(f) == "done"
    assert len(cleanups) == 1
    assert cleanups[0] > 3600


async def test_a_cleanup_that_takes_its_time_does_not_fail_the_run() -> None:
    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.sleep("nap", "1h")
        finally:
            await asyncio.sleep(60)
        return "done"

    async with running_system(f) as system:
        assert await system.output(f) == "done"


async def test_a_cleanup_that_fails_is_retried_like_any_error_of_the_handler() -> None:
    closings: list[str] = []

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.sleep("nap", "1h")
        finally:
            closings.append("x")
            if len(closings) == 1:
                msg = "connection lost"
                raise OSError(msg)
        return "done"

    async with running_system(f) as system:
        assert await system.output(f) == "done"


# What goes on while something waits


@pytest.mark.parametrize("depth", [1, 3, 10, 40])
async def test_a_step_deep_within_gathers_runs_while_another_branch_sleeps(depth: int) -> None:
    async def nested(ctx: Context, level: int) -> int:
        await ctx.step.run(f"level {level}", lambda: level)
        if level:
            return (await asyncio.gather(nested(ctx, level - 1)))[0]
        return await ctx.step.run("innermost", innermost)

    async def nap(ctx: Context) -> None:
        await ctx.step.sleep("nap", "2h")

    innermost = FailsFirst()

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> int:
        _, result = await asyncio.gather(nap(ctx), nested(ctx, depth))
        return result

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(60)
        # The back-off is long over, and nothing in the way of the second attempt.
        assert innermost.calls == 2
        assert await run.result("3h") == 2


async def test_a_long_body_in_a_branch_is_not_cut_short_by_a_branch_that_waits() -> None:
    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> Any:
        async def work() -> str:
            await asyncio.sleep(60)
            return "worked"

        async def later() -> str:
            await asyncio.sleep(0)
            return await ctx.step.run("work", work)

        return await asyncio.gather(ctx.step.sleep("nap", "1s"), later())

    async with running_system(f) as system:
        assert await system.output(f) == [None, "worked"]


async def test_a_branch_that_still_works_when_the_handler_fails_is_recorded_and_leaves_nothing_behind() -> None:
    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> None:
        async def slow(result: str) -> str:
            await asyncio.sleep(5)
            if result == "fails":
                raise ValueError(result)
            return result

        async def fail() -> None:
            await asyncio.sleep(1)
            msg = "first"
            raise ironflow.NonRetryableError(msg)

        run = ctx.step.run
        await asyncio.gather(
            run("works", slow, "works"), run("fails", slow, "fails", retry=THRICE), ctx.step.sleep("nap", "1h"), fail()
        )

    async with running_system(f) as system:
        run = await system.client.start(f)
        view = await run.wait("1h")
        assert view.error is not None
        assert view.error.message == "first"
        assert sorted(await system.subjects(run=run)) == ["outcome.0", "step.works", "try.fails.1", "wait.nap"]
        assert [task for task in asyncio.all_tasks() if "StepClient" in repr(task)] == []


async def test_a_step_left_behind_by_a_finished_handler_ends_with_its_pass() -> None:
    left: list[asyncio.Task[Any]] = []

    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        left.append(asyncio.create_task(ctx.step.sleep("nap", "1h")))
        await ctx.step.run("work", lambda: None)
        return "done"

    async with running_system(f) as system:
        assert await system.output(f) == "done"
        assert left[0].cancelled()


async def test_a_race_of_a_step_and_a_sleep_may_leave_the_loser_behind() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        work = asyncio.create_task(ctx.step.run("work", lambda: "worked"))
        nap = asyncio.create_task(ctx.step.sleep("nap", "1h"))
        done, _ = await asyncio.wait({work, nap}, return_when=asyncio.FIRST_COMPLETED)
        assert done == {work}
        await ctx.step.run("after", lambda: None)
        return await work

    async with running_system(f) as system:
        began = system.now_ms()
        assert await system.output(f) == "worked"
        assert system.now_ms() - began < 1_000


# Errors outside of steps


async def test_an_error_outside_of_steps_repeats_the_pass_under_the_functions_retry() -> None:
    begun: list[float] = []
    bodies: Counter[str] = Counter()

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> int:
        begun.append(asyncio.get_running_loop().time())
        await ctx.step.run("work", lambda: bodies.update("x"))
        if len(begun) < 3:
            raise ConnectionError
        return len(begun)

    async with running_system(f) as system:
        assert await system.output(f) == 3
    assert bodies == {"x": 1}
    assert [round(later - earlier) for earlier, later in itertools.pairwise(begun)] == [10, 20]


async def test_an_error_outside_of_steps_fails_the_run_after_the_last_attempt() -> None:
    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> None:
        msg = "never"
        raise ConnectionError(msg)

    async with running_system(f) as system:
        view = await system.run(f)
    assert view.error is not None
    assert (view.error.type, view.error.message, view.error.attempts) == ("ConnectionError", "never", 3)


@pytest.mark.parametrize(
    "error",
    [
        ironflow.NonRetryableError("no"),
        ironflow.StepError("s", 1, "ValueError", "no"),
        ironflow.InvokeError("r", "ValueError", "no"),
        ExceptionGroup("both", [ValueError("x"), ironflow.NonRetryableError("no")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_that_is_final_fails_the_run_at_once(error: Exception) -> None:
    passes: list[str] = []

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> None:
        passes.append("x")
        raise error

    async with running_system(f) as system:
        view = await system.run(f)
    assert view.error is not None
    assert "no" in view.error.message
    assert len(passes) == 1


class Unusual(BaseException):
    """What no library should raise, and some do."""


@pytest.mark.parametrize(
    "error", [Unusual("odd"), asyncio.CancelledError("odd"), SystemExit("odd")], ids=lambda error: type(error).__name__
)
async def test_what_is_no_exception_fails_the_run_like_one(error: BaseException) -> None:
    passes: list[str] = []

    @ironflow.function(id="f", retry=Retry(max_attempts=2))
    async def f(ctx: Context) -> None:
        passes.append("x")
        raise error

    async with running_system(f) as system:
        assert (await system.run(f)).status == "failed"
    assert len(passes) == 2


# The log


async def test_the_log_is_silent_while_recorded_steps_are_replayed() -> None:
    with structlog.testing.capture_logs() as logs:

        @ironflow.function(id="f")
        async def f(ctx: Context) -> str:
            ctx.log.info("begins")
            await ctx.step.run("work", lambda: ctx.log.info("works"))
            ctx.log.info("worked", result=1)
            await ctx.step.sleep("nap", "1h")
            ctx.log.warning("slept")
            return ctx.run.id

        async with running_system(f) as system:
            run = await system.output(f)
    mine = [(entry["event"], entry["log_level"]) for entry in logs if entry.get("run") == run]
    wanted = {"begins", "works", "worked", "slept"}
    assert [entry for entry in mine if entry[0] in wanted] == [
        ("begins", "info"),
        ("works", "info"),
        ("worked", "info"),
        ("slept", "warning"),
    ]


async def test_a_handler_may_call_its_facts_as_it_likes_and_its_lines_say_of_which_run_they_are() -> None:
    facts = {"event": "order.placed", "run": "mine"}
    with structlog.testing.capture_logs() as logs:

        @ironflow.function(id="f")
        async def f(ctx: Context) -> str:
            ctx.log.info("placed", **facts)
            return ctx.run.id

        async with running_system(f) as system:
            run = await system.output(f)
    (placed,) = [entry for entry in logs if entry["event"] == "placed"]
    assert (placed["run"], placed["event_"], placed["run_"]) == (run, "order.placed", "mine")
