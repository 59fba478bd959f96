"""Code that type checkers must accept. It is checked and never run."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import msgspec

import ironflow
from ironflow import Context, Event, Function, Retry, RunHandle, Step
from ironflow_testing import Environment, workflow_test


class OrderPlaced(msgspec.Struct):
    order_id: str


@dataclasses.dataclass
class Receipt:
    total: int


async def fetch(order_id: str, *, fast: bool = False) -> Receipt:
    return Receipt(len(order_id) + fast)


def plain(number: int) -> str:
    return str(number)


async def total(step: Step) -> int:
    return await step.run("total", len, "abc")


async def name(step: Step) -> str:
    await step.sleep("nap", "1s")
    return "name"


async def length(item: str, step: Step, index: int) -> int:
    return len(item) + index


async def plus(item: int, step: Step, index: int) -> float:
    return item + 0.5


@ironflow.function(id="charge")
async def charge(ctx: Context[OrderPlaced]) -> Receipt:
    return Receipt(len(ctx.event.data.order_id))


@ironflow.function(id="count")
async def count(ctx: Context) -> int:
    return len(ctx.event.data)


@ironflow.function(id="process", queue="orders", triggers=["order.placed", "order.*"], retry=Retry(max_attempts=5))
async def process(ctx: Context[OrderPlaced]) -> Receipt:
    assert_type(ctx.event, Event[OrderPlaced])
    assert_type(ctx.event.data.order_id, str)
    assert_type(ctx.run.attempt, int)
    assert_type(await ctx.step.run("fetch", fetch, "o-1", fast=True), Receipt)
    assert_type(await ctx.step.run("plain", plain, 3), str)
    assert_type(await ctx.step.run("slow", fetch, "o-1", timeout="5s"), Receipt)
    assert_type(await ctx.step.run("again", plain, 3, retry=Retry()), str)
    assert_type(await ctx.step.run("both", plain, 3, timeout=timedelta(seconds=1), retry=Retry()), str)
    assert_type(await ctx.step.run("lambda", lambda: fetch("o-1")), Receipt)
    assert_type(await ctx.step.sleep("nap", "1h30m"), None)
    await ctx.step.sleep("short", 0.5)
    await ctx.step.sleep_until("later", datetime.now(UTC) + timedelta(days=1))
    assert_type(await ctx.step.publish("order.done", {"id": 1}, id="x"), Event[Any])
    assert_type(await ctx.step.parallel("two", (total, name)), tuple[int, str])
    assert_type(await ctx.step.parallel("three", (total, name, total), concurrency=2), tuple[int, str, int])
    assert_type(await ctx.step.parallel("five", (total, name, total, name, total)), tuple[int, str, int, str, int])
    assert_type(
        await ctx.step.parallel("settled", (total, name), on_error="all_settled"),
        tuple[int | Exception, str | Exception],
    )
    assert_type(await ctx.step.parallel("list", [total, total]), list[int])
    assert_type(await ctx.step.parallel("list", [total], on_error="all_settled"), list[int | Exception])
    assert_type(await ctx.step.map("map", ["a", "b"], length), list[int])
    assert_type(await ctx.step.map("map", range(3), plus, concurrency=2, on_error="fail_fast"), list[float])
    assert_type(await ctx.step.map("map", ("a",), length, on_error="all_settled"), list[int | Exception])
    assert_type(await ctx.step.wait_for_event("a", event="order.approved", match="data.orderId"), Event[Any])
    assert_type(await ctx.step.wait_for_event("b", event="order.approved", match="n", value=None), Event[Any])
    assert_type(await ctx.step.wait_for_event("c", event="order.approved", type=Receipt), Event[Receipt])
    assert_type(await ctx.step.wait_for_event("d", event="x", on_timeout="raise", timeout=5), Event[Any])
    assert_type(await ctx.step.wait_for_event("e", event="x", on_timeout="none"), Event[Any] | None)
    assert_type(await ctx.step.wait_for_event("f", event="x", type=Receipt, on_timeout="none"), Event[Receipt] | None)
    assert_type(ctx.step.idempotency_key("charge"), str)
    assert_type(await ctx.step.invoke(charge, OrderPlaced("o-1")), Receipt)
    assert_type(await ctx.step.invoke(charge, OrderPlaced("o-1"), name="again", timeout="1h"), Receipt)
    assert_type(await ctx.step.invoke(count), int)
    assert_type(await ctx.step.invoke(count, {"any": "thing"}, timeout=5), int)
    assert_type(await ctx.step.invoke("charge", {"order_id": "o-1"}, timeout=timedelta(hours=1)), Any)
    assert_type(await ctx.step.invoke_async(charge, OrderPlaced("o-1")), str)
    assert_type(await ctx.step.invoke_async(count, name="start"), str)
    assert_type(await ctx.step.invoke_async("charge"), str)
    assert_type(ctx.step.compensate("fetch", fetch, "o-1", fast=True), None)
    ctx.step.compensate("plain", plain, 3)
    ctx.step.compensate("lambda", lambda: fetch("o-1"))
    ctx.log.info("done", total=3)
    return Receipt(3)


assert_type(process, Function[OrderPlaced, Receipt])


@ironflow.function(id="bare")
async def bare(ctx: Context) -> None:
    assert_type(ctx.event.data, Any)


async def client() -> None:
    async with ironflow.connect() as connected:
        run = await connected.start(process, OrderPlaced("o-1"), id="o-1")
        assert_type(run, RunHandle[Receipt])
        assert_type(await run.result(timeout="5m"), Receipt)
        assert_type(await run.retry(), bool)
        assert_type(await run.cancel("ordered twice"), bool)
        assert_type(await connected.start("process", {"order_id": "o-1"}), RunHandle[Any])
        await connected.publish("order.placed", {"orderId": "o-1"}, id="o-1", metadata={"tenant": "a"})
        async for each in connected.runs(status="failed", function="process"):
            assert_type(each.id, str)


@workflow_test(process, bare)
async def in_process(env: Environment, number: int) -> None:
    assert_type(await env.run(process, OrderPlaced("o-1")), Receipt)
    assert_type(await env.run(bare), None)
    assert_type(await env.publish("order.placed"), list[RunHandle[Any]])
    await env.sleep(timedelta(hours=number))


in_process(1)


class InAClass:
    @workflow_test(bare)
    async def in_process(self, env: Environment, number: int) -> None:
        await env.sleep(number)


InAClass().in_process(1)
