"""The promises of the pages that say what steps are, one by one, where no other test is about them alone.

``tests/conformance/seeds.md`` has all of them, each with its test.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

import ironflow
from ironflow import Context, Event, Retry, StepError
from ironflow.function import Function
from ironflow.handles import RunHandle
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

HOUR = 3600.0
DAY = 24 * HOUR
ONCE = Retry(max_attempts=1)


class Calls:
    """Bodies that note when they begin, so that a second time is seen."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.times: list[float] = []

    def body(self, name: str, result: Any = None) -> Callable[[], Any]:
        async def body() -> Any:
            self.begun[name] += 1
            self.times.append(now())
            return result

        return body


class User(msgspec.Struct):
    id: str
    name: str


class Order(msgspec.Struct, rename="camel"):
    order_id: str
    user_id: str


class Approval(msgspec.Struct, rename="camel"):
    approved_by: str


def now() -> float:
    return asyncio.get_running_loop().time()


def find_user(user_id: str) -> User:
    return User(user_id, f"name of {user_id}")


async def place(system: System, data: object = None, event: str = "order.placed") -> RunHandle[Any]:
    (run,), _ = await system.client.runs_of(await system.client.publish_record(event, data))
    await asyncio.sleep(1)
    return system.client.run(run)


async def restart_everything(system: System, *, down: float) -> None:
    """Kill engine, worker and server, and start them again so many seconds later."""
    for engine in [*system.engines]:
        await system.kill(engine)
    for worker in [*system.workers]:
        await system.kill(worker)
    system.server.stop()
    await asyncio.sleep(down)
    system.server.start()
    await system.add_engine()
    await system.add_worker()


# Steps, and step.run


async def test_completed_steps_are_not_executed_again_when_the_workflow_starts_over() -> None:
    calls = Calls()

    @ironflow.function(id="f")
    async def f(ctx: Context) -> list[str]:
        calls.begun["handler"] += 1
        first = await ctx.step.run("first", calls.body("first", "one"))
        await ctx.step.sleep("nap", "1h")
        second = await ctx.step.run("second", calls.body("second", "two"))
        await ctx.step.sleep("another-nap", "1h")
        return [first, second]

    async with running_system(f) as system:
        assert await system.output(f) == ["one", "two"]
    assert calls.begun == {"handler": 3, "first": 1, "second": 1}


async def test_a_recorded_result_is_persisted_and_outlives_a_restart_of_everything() -> None:
    calls = Calls()

    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        result: str = await ctx.step.run("fetch", calls.body("fetch", "kept"))
        await ctx.step.sleep("nap", "1h")
        return result

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(60)
        await restart_everything(system, down=60)
        assert await run.result("3h") == "kept"
    assert calls.begun["fetch"] == 1


async def test_a_step_takes_what_the_event_says_and_gives_what_its_body_returns() -> None:
    seen: list[Any] = []

    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context[Order]) -> str:
        user = await ctx.step.run("fetch-user", find_user, ctx.event.data.user_id)
        seen.append(user)
        await ctx.step.sleep("nap", 1)
        return user.name

    async with running_system(f) as system:
        run = await place(system, {"orderId": "o-1", "userId": "u-7"})
        assert await run.result("1h") == "name of u-7"
    assert seen == [User("u-7", "name of u-7")] * 2


async def test_the_error_of_a_body_comes_to_the_handler() -> None:
    async def refuse() -> None:
        msg = "no such user"
        raise LookupError(msg)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.run("fetch-user", refuse)
        except StepError as error:
            return f"{error.step}: {error.cause_type}: {error.message}"
        return "no error"

    async with running_system(f) as system:
        assert await system.output(f) == "fetch-user: LookupError: no such user"


# Sleeps


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("30m", 1_800),
        ("1h", HOUR),
        ("2h", 2 * HOUR),
        ("24h", DAY),
        ("7d", 7 * DAY),
        (timedelta(seconds=30), 30),
        (timedelta(minutes=5), 300),
        (timedelta(hours=2), 2 * HOUR),
        (timedelta(days=7), 7 * DAY),
    ],
    ids=str,
)
async def test_a_sleep_lasts_as_long_as_it_says(duration: Any, seconds: float) -> None:
    calls = Calls()

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.run("before", calls.body("before"))
        await ctx.step.sleep("wait", duration)
        await ctx.step.run("after", calls.body("after"))

    async with running_system(f, sweep_seconds=HOUR) as system:
        await system.end_of(await started(system, f))
    before, after = calls.times
    assert seconds <= after - before < seconds + 0.6


async def started(system: System, function: Function[Any, Any], data: object = None) -> RunHandle[Any]:
    run = await system.client.start(function, data)
    await asyncio.sleep(1)
    return run


@pytest.mark.parametrize("kind", ["sleep", "sleep_until"])
@pytest.mark.parametrize(("restart_at", "down", "expected"), [(HOUR, HOUR, 10 * HOUR), (9 * HOUR, 3 * HOUR, 12 * HOUR)])
async def test_a_pause_outlives_restarts_and_only_the_rest_of_it_remains(
    kind: str, restart_at: float, down: float, expected: float
) -> None:
    calls = Calls()

    @ironflow.function(id="f")
    async def f(ctx: Context[str]) -> None:
        await ctx.step.run("before", calls.body("before"))
        if kind == "sleep":
            await ctx.step.sleep("wait", "10h")
        else:
            await ctx.step.sleep_until("wait", ctx.event.data)
        await ctx.step.run("after", calls.body("after"))

    async with running_system(f, sweep_seconds=HOUR) as system:
        target = datetime.fromtimestamp(system.now_ms() / 1000, UTC) + timedelta(hours=10)
        run = await started(system, f, target.isoformat())
        await asyncio.sleep(restart_at)
        await restart_everything(system, down=down)
        assert (await run.wait("24h")).status == "completed"
    before, after = calls.times
    assert expected - 2 <= after - before < expected + 15
    assert calls.begun == {"before": 1, "after": 1}


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda at: at.isoformat(), id="text with an offset"),
        pytest.param(lambda at: at.isoformat().replace("+00:00", "Z"), id="text with Z"),
        pytest.param(lambda at: at, id="datetime"),
        pytest.param(lambda at: at.astimezone(timezone(timedelta(hours=9))), id="datetime of another zone"),
    ],
)
async def test_sleep_until_takes_a_text_or_a_datetime(write: Callable[[datetime], Any]) -> None:
    woke: list[int] = []
    target: list[datetime] = []

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep_until("wait-24h", write(target[0]))
        woke.append(system.now_ms())

    async with running_system(f, sweep_seconds=HOUR) as system:
        target.append(datetime.fromtimestamp(system.now_ms() / 1000, UTC) + timedelta(days=1))
        await system.end_of(await started(system, f))
    assert 0 <= woke[0] - target[0].timestamp() * 1000 < 600


async def test_a_time_that_is_over_is_refused_where_it_is_asked_for_and_nothing_is_recorded() -> None:
    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.sleep_until("wait", datetime(2020, 1, 1, tzinfo=UTC))
        except ValueError as error:
            return str(error)
        return "went on"

    async with running_system(f) as system:
        assert "must be in the future" in await system.output(f)
        assert await system.subjects("wait") == []


async def test_a_sleep_until_that_is_over_is_memoized_and_neither_refused_nor_slept_again() -> None:
    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context[str]) -> float:
        await ctx.step.sleep_until("wait", ctx.event.data)
        await ctx.step.sleep("then", "1h")
        return now()

    async with running_system(f) as system:
        begun = now()
        target = datetime.fromtimestamp(system.now_ms() / 1000, UTC) + timedelta(hours=1)
        ended = await system.output(f, target.isoformat())
    assert 2 * HOUR - 2 <= ended - begun < 2 * HOUR + 2


# Waits


def waits_for_approval(went_on: list[str], **options: Any) -> Function[Any, Any]:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> Any:
        approval = await ctx.step.wait_for_event("wait-approval", event="order.approved", **options)
        went_on.append("went on")
        return approval.data

    return f


async def test_a_wait_goes_on_with_the_event_that_matches_and_only_with_that() -> None:
    went_on: list[str] = []
    async with running_system(waits_for_approval(went_on, match="data.orderId", timeout="7d")) as system:
        run = await place(system, {"orderId": "o-1"})
        await system.client.publish("order.approved", {"orderId": "o-2", "approvedBy": "alan"})
        await system.client.publish("order.refused", {"orderId": "o-1", "approvedBy": "alan"})
        await asyncio.sleep(HOUR)
        assert went_on == []
        assert (await run.state()).status == "waiting"
        await system.client.publish("order.approved", {"orderId": "o-1", "approvedBy": "grace"})
        assert await run.result("1m") == {"orderId": "o-1", "approvedBy": "grace"}


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 7 * DAY),
        ({"timeout": "7d"}, 7 * DAY),
        ({"timeout": "90m"}, 1.5 * HOUR),
        ({"timeout": 90}, 90),
        ({"timeout": timedelta(days=7)}, 7 * DAY),
    ],
    ids=str,
)
async def test_a_wait_that_gets_no_event_fails_its_run_after_its_timeout_and_never_goes_on(
    options: dict[str, Any], seconds: float
) -> None:
    went_on: list[str] = []
    async with running_system(waits_for_approval(went_on, **options), sweep_seconds=HOUR) as system:
        begun = now()
        view = await system.end_of(await place(system))
        ended = now() - begun
    assert view.error is not None
    assert (view.status, view.error.message.split(":")[0]) == ("failed", "waitForEvent timed out")
    assert seconds <= ended < seconds + 2
    assert went_on == []


async def test_an_event_that_comes_just_before_the_default_timeout_is_in_time() -> None:
    async with running_system(waits_for_approval([]), sweep_seconds=HOUR) as system:
        run = await place(system)
        await asyncio.sleep(7 * DAY - 60)
        await system.client.publish("order.approved", "in time")
        assert await run.result("1m") == "in time"


async def test_the_data_of_an_awaited_event_is_typed_where_a_type_is_given() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> str:
        approval: Event[Approval] = await ctx.step.wait_for_event(
            "wait-approval", event="order.approved", match="data.orderId", type=Approval
        )
        return f"{approval.name} by {approval.data.approved_by}"

    async with running_system(f) as system:
        run = await place(system, {"orderId": "o-1"})
        await system.client.publish("order.approved", {"orderId": "o-1", "approvedBy": "grace"})
        assert await run.result("1m") == "order.approved by grace"


async def test_a_wait_without_the_name_of_an_event_is_refused() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> None:
        wait: Any = ctx.step.wait_for_event
        await wait("wait-approval", match="data.orderId")

    async with running_system(f) as system:
        view = await system.end_of(await place(system, {"orderId": "o-1"}))
    assert view.error is not None
    assert "event" in view.error.message
