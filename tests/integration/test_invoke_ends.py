"""Ends from outside, and branches: whose child goes on, and whose does not. On a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import ironflow
from ironflow import Context, Function, InvokeError, NonRetryableError, Step, StepError
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, Unavailable
from ironflow.handles import RunHandle
from ironflow.names import bucket_stream, invoke_event_id, run_id, step_token
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time


@ironflow.function(id="nap")
async def nap(ctx: Context) -> str:
    await ctx.step.sleep("nap", ctx.event.data)
    return f"slept {ctx.event.data}"


@ironflow.function(id="middle")
async def middle(ctx: Context) -> str:
    return await ctx.step.invoke(nap, ctx.event.data)


@ironflow.function(id="approval")
async def approval(ctx: Context) -> Any:
    return (await ctx.step.wait_for_event("approval", event="order.approved", timeout="2h")).data


def top(callee: Function[Any, Any], data: object = "5h", **options: Any) -> Function[Any, Any]:
    @ironflow.function(id="top", **options)
    async def top_run(ctx: Context) -> Any:
        return await ctx.step.invoke(callee, data)

    return top_run


async def states(system: System) -> dict[str, str]:
    """Return the status of each run, by its function, a while from now."""
    await asyncio.sleep(5)
    return {(state := await run.state()).function: state.status async for run in system.client.runs()}


async def the_run_of(system: System, function: str) -> RunHandle[Any]:
    (run,) = [run async for run in system.client.runs(function=function)]
    return run


def fail(message: str = "boom") -> None:
    raise NonRetryableError(message)


# The parent ends


async def test_a_cancel_takes_children_and_their_children_along() -> None:
    f = top(middle)
    async with running_system(f, middle, nap) as system:
        run = await system.client.start(f)
        assert await states(system) == {"top": "waiting", "middle": "waiting", "nap": "waiting"}
        assert await run.cancel("enough")
        assert await states(system) == {"top": "cancelled", "middle": "cancelled", "nap": "cancelled"}
        error = (await (await the_run_of(system, "nap")).state()).error
        assert error is not None
        assert (error.type, error.message) == ("Cancelled", "the run that waited for it has ended")
        # None of them told anyone of its end.
        assert await system.subjects("step") == []


async def test_a_cancel_of_a_child_takes_only_its_own_children_along() -> None:
    f = top(middle)
    async with running_system(f, middle, nap) as system:
        run = await system.client.start(f)
        await states(system)
        assert await (await the_run_of(system, "middle")).cancel()
        with pytest.raises(ironflow.RunFailedError, match="InvokeError"):
            await run.result("1m")
        assert await states(system) == {"top": "failed", "middle": "cancelled", "nap": "cancelled"}


async def test_a_timeout_of_a_parent_ends_its_child() -> None:
    f = top(middle, timeout="1h")
    async with running_system(f, middle, nap) as system:
        await system.run(f)
        assert await states(system) == {"top": "failed", "middle": "cancelled", "nap": "cancelled"}


async def test_a_child_that_waits_for_an_event_takes_none_once_its_parent_has_ended() -> None:
    f = top(approval)
    async with running_system(f, approval) as system:
        run = await system.client.start(f)
        await asyncio.sleep(60)
        assert await run.cancel()
        await states(system)
        await system.client.publish("order.approved")
        assert await states(system) == {"top": "cancelled", "approval": "cancelled"}


async def test_a_child_at_work_is_stopped_when_its_parent_is_cancelled() -> None:
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    @ironflow.function(id="worker")
    async def worker(ctx: Context) -> None:
        await ctx.step.run("work", work)

    f = top(worker)
    async with running_system(f, worker) as system:
        run = await system.client.start(f)
        await asyncio.sleep(60)
        assert await run.cancel()
        await asyncio.wait_for(stopped.wait(), 5)
        assert await states(system) == {"top": "cancelled", "worker": "cancelled"}


def child_of(run: RunHandle[Any], function: str) -> str:
    """Return the id of the first child of a run that it invokes without a name."""
    return run_id(function, invoke_event_id(run.id, step_token((), f"invoke:{function}")))


@pytest.mark.parametrize("held_back", ["its event", "its state"])
async def test_a_parent_that_ends_before_its_child_has_started_ends_it_all_the_same(held_back: str) -> None:
    f = top(nap)
    async with running_system(f, nap) as system:
        run = await system.client.start(f)
        child = child_of(run, "nap")
        subject = system.names.event("ironflow.invoked") if held_back == "its event" else system.names.run_key(child)
        ended = False

        def hold_back(stage: Stage, verb: str, what: str) -> BrokerError | None:
            refused = (stage, verb, what) == ("before", "publish", subject) and not ended
            return Unavailable("nobody there") if refused else None

        system.server.interceptor = hold_back
        await asyncio.sleep(60)
        assert await run.cancel()
        ended = True
        await asyncio.sleep(60)
        # What was not published yet never is; what was published is stored, and then ended.
        expected = {"top": "cancelled"} if held_back == "its event" else {"top": "cancelled", "nap": "cancelled"}
        assert await states(system) == expected
        assert await system.subjects("step") == []


async def test_a_parent_that_is_cancelled_at_any_moment_leaves_no_child() -> None:
    seen: set[tuple[str, ...]] = set()
    f = top(middle, 1)
    for writes in range(1, 40):
        async with running_system(f, middle, nap, engines=2) as system:
            run = await system.client.start(f)
            left = writes

            def count(stage: str, verb: str, _: str) -> None:
                nonlocal left
                if (stage, verb) == ("after", "publish"):
                    left -= 1
                    if not left:
                        system.soon(run.cancel())  # noqa: B023 - it is called in this round

            system.server.interceptor = count
            await run.wait("1h")
            system.server.interceptor = None
            ended = await states(system)
            assert "waiting" not in ended.values(), (writes, ended)
            assert "queued" not in ended.values(), (writes, ended)
            seen.add(tuple(ended.get(function, "-") for function in ("top", "middle", "nap")))
    assert {("cancelled", "cancelled", "cancelled"), ("completed", "completed", "completed")} <= seen


async def test_a_parent_that_fails_beside_its_child_ends_it() -> None:
    @ironflow.function(id="hasty")
    async def hasty(ctx: Context) -> None:
        await asyncio.gather(ctx.step.invoke(nap, "5h"), later(ctx.step))

    async def later(step: Step) -> None:
        await step.sleep("a while", "1m")
        await step.run("work", fail)

    async with running_system(hasty, nap) as system:
        assert (await system.run(hasty)).status == "failed"
        assert await states(system) == {"hasty": "failed", "nap": "cancelled"}


@pytest.mark.parametrize("ended_by", ["a cancel", "its timeout", "a wait", "a failure"])
async def test_a_parent_that_undoes_what_it_did_ends_its_child(ended_by: str) -> None:
    """The pass that undoes takes the place of the child's result, mostly before the child is ended."""

    @ironflow.function(id="saga", timeout="1m" if ended_by == "its timeout" else None)
    async def saga(ctx: Context) -> None:
        await ctx.step.run("reserve", str)
        ctx.step.compensate("reserve", str)
        await asyncio.gather(ctx.step.invoke(middle, "5h"), other(ctx.step))

    async def other(step: Step) -> None:
        if ended_by == "a wait":
            await step.wait_for_event("approval", event="never", timeout="1m")
        if ended_by == "a failure":
            await step.sleep("a while", "1m")
            await step.run("work", fail)

    async with running_system(saga, middle, nap) as system:
        run = await system.client.start(saga)
        await asyncio.sleep(30)
        if ended_by == "a cancel":
            assert await run.cancel(compensate=True)
        view = await run.wait("1h")
        assert (view.status, view.compensation) == ("cancelled" if ended_by == "a cancel" else "failed", "completed")
        assert await states(system) == {"saga": view.status, "middle": "cancelled", "nap": "cancelled"}


# Branches


async def test_a_parallel_of_sleep_wait_invoke_and_retry_completes_when_the_last_of_them_does() -> None:
    attempts: list[int] = []

    def flaky() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            msg = "not yet"
            raise ConnectionError(msg)
        return "worked"

    @ironflow.function(id="all")
    async def everything(ctx: Context) -> Any:
        async def sleep(step: Step) -> str:
            await step.sleep("nap", "1h")
            return "slept"

        async def wait(step: Step) -> Any:
            return (await step.wait_for_event("approval", event="order.approved")).data

        async def invoke(step: Step) -> str:
            return await step.invoke(nap, "2h")

        async def retry(step: Step) -> str:
            return await step.run("flaky", flaky, retry=ironflow.Retry(initial_delay="40m", max_delay="40m", jitter=0))

        return await ctx.step.parallel("all", [sleep, wait, invoke, retry])

    async with running_system(everything, nap) as system:
        began = system.now_ms()
        run = await system.client.start(everything)
        await asyncio.sleep(1800)
        await system.client.publish("order.approved", "yes")
        assert await run.result("9h") == ["slept", "yes", "slept 2h", "worked"]
        assert system.now_ms() - began == pytest.approx(2 * 3600 * 1000, abs=2_000)


async def test_a_map_invokes_a_child_for_each_item_at_the_same_time() -> None:
    @ironflow.function(id="each")
    async def each(ctx: Context) -> Any:
        async def one(item: int, step: Step, _: int) -> Any:
            return await step.invoke(nap, item)

        return await ctx.step.map("all", range(1, 41), one)

    async with running_system(each, nap) as system:
        began = system.now_ms()
        assert await system.output(each) == [f"slept {item}" for item in range(1, 41)]
        assert system.now_ms() - began < 42_000


@pytest.mark.parametrize("on_error", ["fail_fast", "all_settled"])
async def test_of_children_that_fail_in_branches_the_one_recorded_first_is_raised_in_every_pass(on_error: Any) -> None:
    raised: list[str] = []

    @ironflow.function(id="late-failure")
    async def late_failure(ctx: Context) -> None:
        await ctx.step.sleep("nap", ctx.event.data)
        fail(f"after {ctx.event.data}")

    @ironflow.function(id="branching")
    async def branching(ctx: Context) -> Any:
        async def one(item: int, step: Step, _: int) -> Any:
            return await step.invoke(late_failure, item)

        try:
            results: Any = await ctx.step.map("all", [30, 10, 20], one, on_error=on_error)
        except InvokeError as error:
            results = error.message
        raised.append(str(results))
        await ctx.step.sleep("afterwards", "1h")
        return str(results)

    async with running_system(branching, late_failure) as system:
        output = await system.output(branching)
        assert set(raised) == {output}
        statuses = sorted([(await run.state()).status async for run in system.client.runs(function="late-failure")])
    if on_error == "fail_fast":
        assert output == "after 10"
        assert statuses == ["cancelled", "cancelled", "failed"]
    else:
        assert [f"after {item}" in output for item in (10, 20, 30)] == [True] * 3
        assert statuses == ["failed"] * 3


# Branches that were cancelled


def left_behind(wait: Any, *, recorded: bool = True) -> Function[Any, Any]:
    """Return a function in which one branch waits and another one fails; it waits for the same afterwards."""

    @ironflow.function(id="f", triggers=["go"])
    async def f(ctx: Context) -> Any:
        async def waits(step: Step) -> Any:
            return await wait(step)

        async def fails(step: Step) -> None:
            await step.sleep("a while", "10m")
            if recorded:
                await step.run("work", fail)
            raise LookupError

        with contextlib.suppress(StepError, LookupError):
            await ctx.step.parallel("all", [waits, fails])
        event = await ctx.step.wait_for_event("again", event="order.approved", timeout="9h", on_timeout="none")
        return event and event.data

    return f


async def waits_found(system: System) -> int:
    """Return how many waits events find."""
    stream = bucket_stream(system.names.waits_bucket)
    pages = [page async for page in system.broker.read(stream, f"$KV.{system.names.waits_bucket}.*.*.*.*.*")]
    return sum(map(len, pages))


async def test_the_wait_of_a_cancelled_branch_takes_no_event() -> None:
    f = left_behind(lambda step: step.wait_for_event("first", event="order.approved", timeout="8h"))
    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(60)
        assert await waits_found(system) == 1
        await asyncio.sleep(600)
        assert await system.subjects("closed", run) == ["closed.all/0/first"]
        assert await waits_found(system) == 1  # the one that came after it
        await system.client.publish("order.approved", "yes")
        assert await run.result("1m") == "yes"
        await asyncio.sleep(1)  # what is over is taken away when the run has gone on
        assert await waits_found(system) == 0


async def test_the_timeout_of_a_cancelled_branch_does_not_end_the_run() -> None:
    f = left_behind(lambda step: step.wait_for_event("first", event="order.approved", timeout="1h"))
    async with running_system(f) as system:
        assert (await (await system.client.start(f)).wait("10h")).status == "completed"


async def test_the_child_of_a_cancelled_branch_is_cancelled_and_wakes_nobody() -> None:
    f = left_behind(lambda step: step.invoke(nap, "5h"))
    async with running_system(f, nap) as system:
        run = await system.client.start(f)
        await asyncio.sleep(700)
        child = await (await the_run_of(system, "nap")).state()
        assert (child.status, child.error and child.error.message) == (
            "cancelled",
            "the branch that waited for it was cancelled",
        )
        passes = len(await system.subjects("outcome", run))
        await asyncio.sleep(7 * 3600)
        assert len(await system.subjects("outcome", run)) == passes
        assert await run.result("3h") is None


async def test_a_wait_that_ended_before_its_branch_was_cancelled_keeps_its_end() -> None:
    f = left_behind(lambda step: step.wait_for_event("first", event="order.approved", timeout="8h"))
    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(60)
        await system.client.publish("order.approved", "first")
        await asyncio.sleep(700)
        assert await system.subjects("closed", run) == []
        await system.client.publish("order.approved", "second")
        assert await run.result("1m") == "second"


async def test_a_failure_that_is_not_recorded_closes_nothing_since_the_next_pass_may_not_see_it() -> None:
    f = left_behind(lambda step: step.wait_for_event("first", event="order.placed", timeout="8h"), recorded=False)
    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(700)
        assert await system.subjects("closed", run) == []


async def test_code_that_no_longer_fails_is_told_so_instead_of_waiting_for_ever() -> None:
    fails = True

    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        async def waits(step: Step) -> Any:
            return await step.wait_for_event("first", event="order.approved")

        async def breaks(step: Step) -> None:
            try:
                await step.run("work", fail)
            except StepError:
                if fails:
                    raise

        try:
            await ctx.step.parallel("all", [waits, breaks])
        except StepError:
            await ctx.step.sleep("afterwards", "1h")

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(60)
        fails = False
        view = await run.wait("2h")
        assert view.error is not None
        assert view.error.type == "NondeterminismError"
        assert "step 'first' waited in a branch that was cancelled" in view.error.message


async def test_nested_branches_leave_nothing_behind() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        async def inner(step: Step) -> Any:
            return await step.parallel("inner", [wait, child])

        async def wait(step: Step) -> Any:
            return await step.wait_for_event("first", event="order.approved")

        async def child(step: Step) -> Any:
            return await step.invoke(nap, "5h")

        async def fails(step: Step) -> None:
            await step.sleep("a while", "10m")
            await step.run("work", fail)

        try:
            await ctx.step.parallel("all", [inner, fails])
        except StepError as error:
            await ctx.step.sleep("afterwards", "9h")
            return error.message
        return "did not fail"

    async with running_system(f, nap) as system:
        run = await system.client.start(f)
        await asyncio.sleep(700)
        assert sorted(await system.subjects("closed", run)) == [
            "closed.all/0/inner/0/first",
            "closed.all/0/inner/1/invoke=3Anap",
        ]
        assert await waits_found(system) == 0
        assert await states(system) == {"f": "waiting", "nap": "cancelled"}
        assert await run.result("10h") == "boom"
