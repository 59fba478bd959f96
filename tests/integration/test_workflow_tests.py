"""What users test their workflows with: in this process, without a server, in virtual time."""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import ironflow
from examples import approval
from ironflow import Context, DefinitionError, LimitError, Retry, RunFailedError
from ironflow.broker.local.virtual_time import StuckError
from ironflow.limits import Limits
from ironflow_testing import Environment, workflow_test

ORDER = {"orderId": "o-1", "total": 120_000, "buyer": "ada"}
charged: list[str] = []
begun: list[str] = []


@pytest.fixture(autouse=True)
def nothing_charged() -> None:
    charged.clear()


@ironflow.function(id="charge", queue="payments", retry=Retry(initial_delay="1h", max_delay="1h", jitter=0))
async def charge(ctx: Context[str]) -> int:
    return await ctx.step.run("charge", charge_card, ctx.event.data)


def charge_card(card: str) -> int:
    charged.append(card)
    if card == "slow" and len(charged) < 3:
        raise ConnectionError
    if card == "lost":
        raise ironflow.NonRetryableError("the card was reported lost")
    return len(charged)


@ironflow.function(id="order", queue="orders", triggers=["order.paid"])
async def order(ctx: Context[str]) -> int:
    await ctx.step.sleep("cool-off", "24h")
    return await ctx.step.invoke(charge, ctx.event.data)


@workflow_test(order, charge)
async def test_a_run_returns_what_it_does_in_production(env: Environment) -> None:
    assert await env.run(order, "good") == 1
    assert charged == ["good"]


@ironflow.function(id="counts-itself")
async def counts_itself(ctx: Context) -> int:
    begun.append("pass")
    await ctx.step.wait_for_event("go", event="go")
    return len(begun)


@workflow_test(counts_itself)
async def test_a_handler_is_run_from_the_top_behind_each_wait(env: Environment) -> None:
    begun.clear()
    run = await env.client.start(counts_itself)
    await env.sleep("1s")
    await env.publish("go")
    assert await run.result() == 2


@workflow_test(order, charge)
async def test_time_passes_by_the_clock_of_the_environment_and_not_by_ours(env: Environment) -> None:
    began, really_began = env.now, time.monotonic()
    assert await env.run(order, "slow") == 3
    assert timedelta(hours=26) <= env.now - began <= timedelta(hours=26, seconds=5)
    assert time.monotonic() - really_began < 60


async def test_in_a_loop_of_ones_own_time_passes_as_it_does_there() -> None:
    async with Environment(two_steps) as env:
        run = await env.client.start(two_steps)
        assert (await run.state()).status in ("queued", "running", "waiting")
        assert abs(env.now - datetime.now(UTC)) < timedelta(minutes=1)


@workflow_test(order, charge)
async def test_a_failure_is_raised_with_its_reason(env: Environment) -> None:
    with pytest.raises(RunFailedError, match="the card was reported lost"):
        await env.run(order, "lost")


@ironflow.function(id="packs")
async def packs(ctx: Context) -> None:
    await ctx.step.run("pack", lambda: {"boxes": [1, 2], "weight": 2**70})
    await ctx.step.sleep("rest", "1h")
    await ctx.step.wait_for_event("go", event="go")


@workflow_test(packs)
async def test_what_steps_have_returned_can_be_compared(env: Environment) -> None:
    run = await env.client.start(packs)
    await env.sleep("2h")
    assert [(step.name, step.result) for step in await run.steps()] == [
        ("pack", {"boxes": [1, 2], "weight": 2**70}),
        ("rest", None),
        ("go", None),
    ]


@workflow_test(order, charge)
async def test_an_event_returns_the_runs_that_it_starts(env: Environment) -> None:
    (run,) = await env.publish("order.paid", "good", id="o-1")
    await env.sleep("1h")
    assert (await run.state()).status == "waiting"
    await env.sleep("25h")
    assert (await run.state()).status == "completed"
    assert [again.id for again in await env.publish("order.paid", "good", id="o-1")] == [run.id]
    assert await env.publish("order.sent") == []


@workflow_test(approval.approve_order, begins_at="2026-01-01T00:00:00Z")
async def test_nobody_decides_for_three_days(env: Environment) -> None:
    (run,) = await env.publish("order.placed", ORDER)
    await env.sleep("36h")
    assert [step.name for step in await run.steps()][:3] == ["ask", "decision", "remind"]
    assert await run.result() == "ada: refused, since nobody has decided"
    assert env.now >= datetime.fromisoformat("2026-01-04T00:00:00Z")


@ironflow.function(id="two-steps")
async def two_steps(ctx: Context) -> list[int]:
    async def body(name: str) -> int:
        charged.append(name)
        return len(charged)

    first = await ctx.step.run("first", body, "first")
    await ctx.step.sleep("pause", "1h")
    return [first, await ctx.step.run("second", body, "second")]


@workflow_test(two_steps)
async def test_a_worker_that_crashes_runs_no_recorded_step_again(env: Environment) -> None:
    run = await env.client.start(two_steps)
    await env.sleep("30m")
    await env.crash()
    assert await run.result() == [1, 2]
    assert charged == ["first", "second"]


@pytest.mark.parametrize("number", [1, 2])
@workflow_test(two_steps)
async def test_fixtures_and_parameters_come_as_in_any_test(
    env: Environment, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDER", str(number))
    assert number in (1, 2)
    assert abs(env.now - datetime.now(UTC)) < timedelta(minutes=1)


@workflow_test(order, charge)
@mock.patch(f"{__name__}.charge_card")
async def test_what_a_patch_puts_in_place_comes_behind_the_environment(
    env: Environment, charge_it: mock.Mock, tmp_path: Path
) -> None:
    charge_it.return_value = 7
    assert await env.run(order, "good") == 7
    assert tmp_path.name


@mock.patch(f"{__name__}.begun")
@workflow_test(order, charge)
@mock.patch(f"{__name__}.charge_card")
async def test_patches_may_stand_on_either_side(
    env: Environment, charge_it: mock.Mock, noted: mock.Mock, tmp_path: Path
) -> None:
    assert (charge_card, begun) == (charge_it, noted)
    assert tmp_path.name


def test_a_test_is_known_by_where_it_stands() -> None:
    assert inspect.unwrap(test_nobody_decides_for_three_days).__code__.co_filename == __file__


def test_a_test_is_a_plain_function_without_the_environment() -> None:
    assert not inspect.iscoroutinefunction(test_nobody_decides_for_three_days)
    assert list(inspect.signature(test_nobody_decides_for_three_days).parameters) == []
    assert test_nobody_decides_for_three_days.__name__ == "test_nobody_decides_for_three_days"


class TestInAClass:
    number = 3

    @pytest.mark.parametrize("by", [1, 2])
    @workflow_test(two_steps)
    async def test_a_test_may_be_a_method_with_fixtures_and_parameters(
        self, env: Environment, by: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.number * by == by * 3
        monkeypatch.setenv("ORDER", str(by))
        assert await env.run(two_steps) == [1, 2]


async def takes_nothing() -> None: ...


@pytest.mark.parametrize(
    ("functions", "test", "complaint"),
    [
        ((takes_nothing,), takes_nothing, "made by @ironflow.function; got <function takes_nothing"),
        ((), takes_nothing, "got none"),
        ((two_steps,), charge_card, "must be an async function; 'charge_card' is not one"),
        ((two_steps,), takes_nothing, "'takes_nothing' has no parameter for its environment"),
    ],
    ids=["without functions", "without any", "plain", "without the environment"],
)
def test_what_is_no_workflow_test_is_refused_where_it_stands(functions: Any, test: Any, complaint: str) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        workflow_test(*functions)(test)


def test_what_fails_within_fails_the_test() -> None:
    @workflow_test(two_steps)
    async def fails(env: Environment) -> None:
        assert await env.run(two_steps) == []

    with pytest.raises(AssertionError):
        fails()


def test_what_fails_within_is_shown_from_the_tests_own_line_on() -> None:
    @workflow_test(order, charge)
    async def fails(env: Environment) -> None:
        assert await run_it(env) == 0

    async def run_it(env: Environment) -> int:
        return await env.run(order, "lost")

    with pytest.raises(RunFailedError) as caught:
        fails()
    ours = "test_what_fails_within_is_shown_from_the_tests_own_line_on"
    assert [line.name for line in traceback.extract_tb(caught.value.__traceback__)] == [ours, "fails", "run_it"]


def test_what_fails_outside_of_the_test_is_shown_whole() -> None:
    @workflow_test(two_steps, begins_at="soon")
    async def never_begins(env: Environment) -> None: ...

    with pytest.raises(DefinitionError) as caught:
        never_begins()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "_to_datetime"


def test_a_test_that_waits_for_what_never_comes_is_told_where() -> None:
    @workflow_test(two_steps, patience="1d")
    async def stuck(env: Environment) -> None:
        await env.sleep("1h")
        await asyncio.Event().wait()

    with pytest.raises(StuckError, match=r"stuck \(.*test_workflow_tests\.py"):
        stuck()


with_this_id = ironflow.function(id="two-steps")
another_two_steps = with_this_id(two_steps.handler)


@pytest.mark.parametrize(
    ("functions", "complaint"),
    [
        ((), "needs the functions that it shall execute, made by @ironflow.function; got none"),
        ((two_steps, charge_card), "got <function charge_card"),
        ((two_steps, another_two_steps), "two functions have the id 'two-steps'"),
    ],
)
def test_an_environment_says_what_it_needs(functions: tuple[ironflow.Function[None, int], ...], complaint: str) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        Environment(*functions)


async def test_one_that_is_not_entered_has_no_worker() -> None:
    with pytest.raises(DefinitionError, match="async with"):
        await Environment(two_steps).crash()


def test_limits_are_those_that_are_given() -> None:
    @workflow_test(two_steps, limits=Limits(payload_bytes=10))
    async def too_large(env: Environment) -> None:
        await env.publish("order.placed", "x" * 11)

    with pytest.raises(LimitError):
        too_large()


@workflow_test(order)
async def test_a_function_that_it_was_not_given_is_asked_for_by_what_to_do(env: Environment) -> None:
    advice = "no function 'charge' is registered; pass it to the environment of the test"
    with pytest.raises(RunFailedError, match=advice):
        await env.run(charge, "good")
    with pytest.raises(RunFailedError, match=advice):
        await env.run(order, "good")  # which invokes it


def test_its_functions_may_be_on_any_number_of_queues() -> None:
    async def handler(ctx: Context) -> str:
        return ctx.run.function_id

    functions = [ironflow.function(id=f"f{number}", queue=f"q{number}")(handler) for number in range(120)]

    @workflow_test(*functions)
    async def test(env: Environment) -> None:
        assert await env.run(functions[-1]) == "f119"

    test()
