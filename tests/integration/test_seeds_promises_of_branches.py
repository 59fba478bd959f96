"""The promises about parallel, map, names and publish, where no other test is about them alone.

``tests/conformance/seeds.md`` has all of them, each with its test.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Literal

import msgspec
import pytest

import ironflow
from ironflow import Context, NonRetryableError, Retry, Step, StepError
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

ONCE = Retry(max_attempts=1)
USERS = ["user_1", "user_2", "user_3"]


class User(msgspec.Struct):
    id: str


class Placed(msgspec.Struct):
    id: str
    total: int


class AtWork:
    """Bodies of a second each; it knows how many were at work at once."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.most = 0
        self._now = 0

    async def work(self, item: Any) -> Any:
        self.begun.append(item)
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await asyncio.sleep(1)
        finally:
            self._now -= 1
        self.ended.append(item)
        return item


def now() -> float:
    return asyncio.get_running_loop().time()


async def refuse(what: str) -> str:
    raise NonRetryableError(what)


# Parallel


async def test_branches_run_beside_each_other_and_their_results_are_taken_apart_with_their_types() -> None:
    async def fetch_user(user_id: str) -> User:
        await asyncio.sleep(30)
        return User(user_id)

    async def fetch_order(order_id: str) -> Placed:
        await asyncio.sleep(20)
        return Placed(order_id, 120)

    async def check_inventory(_sku: str) -> bool:
        await asyncio.sleep(10)
        return True

    @ironflow.function(id="f")
    async def f(ctx: Context) -> list[Any]:
        async def user_branch(step: Step) -> User:
            return await step.run("fetch-user", fetch_user, "u-1")

        async def order_branch(step: Step) -> Placed:
            return await step.run("fetch-order", fetch_order, "o-1")

        async def inventory_branch(step: Step) -> bool:
            return await step.run("check-inventory", check_inventory, "MUG")

        branches = (user_branch, order_branch, inventory_branch)
        user, order, in_stock = await ctx.step.parallel("fetch-all-data", branches)
        return [user.id, order.total + 1, in_stock]

    async with running_system(f) as system:
        begun = now()
        assert await system.output(f) == ["u-1", 121, True]
        assert now() - begun == pytest.approx(30, abs=1)


async def test_each_branch_has_a_step_client_of_its_own_so_equal_names_are_memoized_apart() -> None:
    bodies: Counter[int] = Counter()

    async def body(index: int) -> int:
        bodies[index] += 1
        return index * 10

    def branch(index: int) -> Any:
        async def run(step: Step) -> list[int]:
            before = await step.run("fetch", body, index)
            await step.sleep("nap", "1h")
            return [before, await step.run("fetch-again", body, index)]

        return run

    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        return await ctx.step.parallel("all", [branch(index) for index in range(3)])

    async with running_system(f) as system:
        run = await system.client.start(f)
        assert await run.result("3h") == [[0, 0], [10, 10], [20, 20]]
        scopes = {step.scope for step in await run.steps() if step.name == "fetch"}
        assert scopes == {("all", 0), ("all", 1), ("all", 2)}
    assert bodies == {0: 2, 1: 2, 2: 2}


@pytest.mark.parametrize(("concurrency", "most"), [(2, 2), (5, 5), (None, 8)])
@pytest.mark.parametrize("kind", ["parallel", "map"])
async def test_no_more_than_concurrency_are_at_work_and_all_where_it_is_not_given(
    kind: str, concurrency: int | None, most: int
) -> None:
    at_work = AtWork()

    async def item(number: int, step: Step, _index: int) -> int:
        return await step.run("work", at_work.work, number)

    def branch(number: int) -> Any:
        return lambda step: item(number, step, number)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> Any:
        options: dict[str, Any] = {} if concurrency is None else {"concurrency": concurrency}
        if kind == "map":
            return await ctx.step.map("all", range(8), item, **options)
        return await ctx.step.parallel("all", [branch(number) for number in range(8)], **options)

    async with running_system(f) as system:
        assert await system.output(f) == list(range(8))
    assert at_work.most == most


@pytest.mark.parametrize("mode", [None, "fail_fast", "all_settled"])
@pytest.mark.parametrize("kind", ["parallel", "map"])
async def test_the_first_error_stops_the_others_unless_all_are_to_settle(
    kind: str, mode: Literal["fail_fast", "all_settled"] | None
) -> None:
    at_work = AtWork()

    async def item(number: int, step: Step, _index: int) -> int:
        if number == 1:
            return len(await step.run("fail", refuse, "no"))
        return await step.run("work", at_work.work, number)

    def branch(number: int) -> Any:
        return lambda step: item(number, step, number)

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> Any:
        options: dict[str, Any] = {} if mode is None else {"on_error": mode}
        try:
            if kind == "map":
                results = await ctx.step.map("all", range(4), item, **options)
            else:
                results = await ctx.step.parallel("all", [branch(number) for number in range(4)], **options)
        except StepError as error:
            return f"stopped by {error.message}"
        return [f"{each}" if isinstance(each, int) else type(each).__name__ for each in results]

    async with running_system(f) as system:
        output = await system.output(f)
    if mode == "all_settled":
        assert output == ["0", "StepError", "2", "3"]
        assert sorted(at_work.ended) == [0, 2, 3]
    else:
        assert output == "stopped by no"
        assert at_work.ended == []


# Map


async def test_a_map_hands_each_item_its_step_client_and_its_index_and_keeps_the_order() -> None:
    seconds = {"user_1": 30, "user_2": 10, "user_3": 20}

    async def fetch_user_details(user_id: str) -> User:
        await asyncio.sleep(seconds[user_id])
        return User(user_id)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> list[User]:
        async def fetch(user_id: str, step: Step, index: int) -> User:
            return await step.run(f"fetch-user-{index}", fetch_user_details, user_id)

        return await ctx.step.map("fetch-all-users", USERS, fetch, concurrency=5)

    async with running_system(f) as system:
        begun = now()
        run = await system.client.start(f)
        assert await run.result("1m") == [User(user) for user in USERS]
        assert now() - begun == pytest.approx(30, abs=1)
        assert {step.name for step in await run.steps()} == {"fetch-user-0", "fetch-user-1", "fetch-user-2"}


async def test_orders_are_processed_at_the_same_time_each_with_steps_of_its_own() -> None:
    placed = [{"id": f"o-{number}", "total": number} for number in range(5)]

    @ironflow.function(id="f")
    async def f(ctx: Context[list[Placed]]) -> list[str]:
        async def process(order: Placed, step: Step, _index: int) -> str:
            total = await step.run("charge", lambda: order.total * 2)
            await step.sleep("wait-for-parcel", "1h")
            return await step.run("tell", lambda: f"{order.id}: {total}")

        return await ctx.step.map("process-orders", ctx.event.data, process)

    async with running_system(f) as system:
        begun = now()
        assert await system.output(f, placed) == ["o-0: 0", "o-1: 2", "o-2: 4", "o-3: 6", "o-4: 8"]
        assert now() - begun < 3_605


# Names


async def test_descriptive_and_generic_names_work_as_long_as_they_differ() -> None:
    names = ["validate-order-items", "calculate-shipping-cost", "process-payment-stripe", "step1", "process"]

    @ironflow.function(id="f")
    async def f(ctx: Context) -> list[str]:
        return [await ctx.step.run(name, lambda: "done") for name in names]

    async with running_system(f) as system:
        run = await system.client.start(f)
        assert await run.result("1m") == ["done"] * 5
        assert [step.name for step in await run.steps()] == names


async def test_names_in_a_loop_are_unique_by_their_index() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> list[int]:
        return [await ctx.step.run(f"process-item-{index}", lambda: 1) for index in range(20)]

    async with running_system(f) as system:
        run = await system.client.start(f)
        assert await run.result("1m") == [1] * 20
        assert [step.name for step in await run.steps()] == [f"process-item-{index}" for index in range(20)]


async def test_a_second_step_of_the_same_name_is_an_error_and_its_body_does_not_run() -> None:
    ran: list[str] = []

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.run("process", lambda: ran.append("first"))
        await ctx.step.run("process", lambda: ran.append("second"))

    async with running_system(f) as system:
        view = await system.run(f)
    assert view.error is not None
    assert view.error.type == "DuplicateStepError"
    assert ran == ["first"]


# Publish


async def test_an_event_of_a_step_is_published_once_although_worker_and_server_die_behind_it() -> None:
    received: list[Any] = []

    @ironflow.function(id="seller", triggers=["order.placed"])
    async def seller(ctx: Context) -> str:
        event = await ctx.step.publish("order.sold", ctx.event.data)
        await ctx.step.sleep("nap", "1h")
        return event.id

    @ironflow.function(id="listener", triggers=["order.sold"])
    async def listener(ctx: Context) -> None:
        received.append(ctx.event.data)

    async with running_system(seller, listener) as system:
        run = await system.client.start(seller, {"n": 1})
        await asyncio.sleep(60)
        await system.kill(next(iter(system.workers)))
        system.server.stop()
        system.server.start()
        await system.add_worker()
        published = await run.result("3h")
        assert [event.id async for event in system.client.events(name="order.sold")] == [published]
    assert received == [{"n": 1}]
