"""Code that type checkers must refuse: each line marked "refused" gets an error, and no other. Never run."""

from __future__ import annotations

import msgspec

import ironflow
from ironflow import Context, Retry, Step
from ironflow_testing import Environment, workflow_test


class OrderPlaced(msgspec.Struct):
    order_id: str


async def fetch(order_id: str) -> int:
    return len(order_id)


async def total(step: Step) -> int:
    return 3


def blocking(step: Step) -> int:
    return 3


async def length(item: str, step: Step, index: int) -> int:
    return len(item) + index


@ironflow.function(id="charge")
async def charge(ctx: Context[OrderPlaced]) -> int:
    return len(ctx.event.data.order_id)


@ironflow.function(id="process")
async def process(ctx: Context[OrderPlaced]) -> int:
    ctx.event.data.orderid  # refused
    await ctx.step.run("fetch", fetch, 3)  # refused
    await ctx.step.run("fetch", fetch, "a", "b")  # refused
    await ctx.step.run("fetch", fetch, timeout="5s", retry=3)  # refused
    await ctx.step.run(fetch, "a")  # refused
    await ctx.step.parallel("all", total)  # refused
    await ctx.step.parallel("all", [fetch])  # refused
    await ctx.step.parallel("all", [blocking])  # refused
    await ctx.step.parallel("all", [total(ctx.step)])  # refused
    await ctx.step.parallel("all", [total], on_error="allSettled")  # refused
    await ctx.step.parallel("all", [total], concurrency="2")  # refused
    pair: tuple[int, str] = await ctx.step.parallel("all", (total, total))  # refused
    await ctx.step.map("all", 3, length)  # refused
    await ctx.step.invoke(charge, {"order_id": "o-1"})  # refused
    await ctx.step.invoke(charge, OrderPlaced("o-1"), "name")  # refused
    await ctx.step.invoke(fetch, "o-1")  # refused
    await ctx.step.invoke("charge", timeout=None, retry=3)  # refused
    paid: str = await ctx.step.invoke(charge, OrderPlaced("o-1"))  # refused
    await ctx.step.invoke_async(charge, 3)  # refused
    await ctx.step.invoke_async("charge", timeout="1h")  # refused
    await ctx.step.map("all", [3], length)  # refused
    await ctx.step.map("all", ["a"], total)  # refused
    lengths: list[str] = await ctx.step.map("all", ["a"], length)  # refused
    print(pair, lengths)
    text: str = await ctx.step.run("fetch", fetch, "a")  # refused
    await ctx.step.sleep("nap", None)  # refused
    await ctx.step.wait_for_event("a", "order.approved")  # refused
    await ctx.step.wait_for_event("b", event="x", on_timeout="ignore")  # refused
    await ctx.step.wait_for_event("c", event="x", match=5)  # refused
    (await ctx.step.wait_for_event("d", event="x", on_timeout="none")).data  # refused
    (await ctx.step.wait_for_event("e", event="x", type=OrderPlaced)).data.orderid  # refused
    ctx.step.compensate("fetch", fetch, 3)  # refused
    ctx.step.compensate("fetch", fetch)  # refused
    ctx.step.compensate("fetch", fetch, order="a")  # refused
    ctx.step.compensate(fetch, "a")  # refused
    ctx.step.compensate("fetch", fetch("a"))  # refused
    await ctx.step.compensate("fetch", fetch, "a")  # refused
    ctx.event.id = text  # refused
    return "no number"  # refused


@ironflow.function(id=3)  # refused
async def wrong_id(ctx: Context) -> None: ...


@ironflow.function(id="plain")  # refused
def plain(ctx: Context) -> None: ...


@ironflow.function(id="retry", retry=3)  # refused
async def wrong_retry(ctx: Context) -> None: ...


Retry(attempts=3)  # refused


async def client() -> None:
    async with ironflow.connect() as connected:
        await connected.start(process, {"order_id": "o-1"})  # refused
        run = await connected.start(process, OrderPlaced("o-1"))
        wrong: str = await run.result()  # refused
        connected.runs(status="done")  # refused
        print(wrong)


@workflow_test(process)
async def in_process(env: Environment) -> None:
    await env.run(process, {"order_id": "o-1"})  # refused
    await env.sleep(None)  # refused


workflow_test("process")  # refused
in_process(1)  # refused
