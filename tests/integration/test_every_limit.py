"""Every limit: what is just within it is taken, and what is one past it is refused before anything of it is stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest

import ironflow
from ironflow import Context, Step
from ironflow.errors import LimitError, PayloadTooLargeError
from ironflow.limits import Limits
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

LIMITS = Limits(
    payload_bytes=1000,
    event_name_bytes=100,
    step_name_bytes=200,
    id_bytes=100,
    source_bytes=100,
    metadata_bytes=300,
    steps_per_run=30,
    map_items_per_run=30,
    open_waits_per_run=10,
    waits_per_run=25,
    child_depth=4,
    match_bytes=300,
)
ODD = "f"

Handler: TypeAlias = Callable[[Step, int], Awaitable[Any]]
Call: TypeAlias = Callable[[ironflow.Client, int], Awaitable[Any]]


def text(size: int) -> str:
    """Return what is so long as JSON."""
    return "x" * (size - 2)


async def result(step: Step, size: int) -> None:
    await step.run("odd", text, size)


async def output(_: Step, size: int) -> str:
    return text(size)


async def published_data(step: Step, size: int) -> None:
    await step.publish("other", text(size))


async def published_name(step: Step, size: int) -> None:
    await step.publish("x" * size, name="short")


async def published_id(step: Step, size: int) -> None:
    await step.publish("other", id="x" * size)


async def invoked_data(step: Step, size: int) -> None:
    await step.invoke("idle-child", text(size))


async def started_data(step: Step, size: int) -> None:
    await step.invoke_async("idle-child", text(size))


async def awaited_name(step: Step, size: int) -> None:
    await step.wait_for_event("odd", event="x" * size, timeout=1, on_timeout="none")


async def awaited_value(step: Step, size: int) -> None:
    # The path to it counts as well, and so do the quotes.
    await step.wait_for_event(
        "odd", event="other", match="k", value=text(size - len("k")), timeout=1, on_timeout="none"
    )


async def step_name(step: Step, size: int) -> None:
    await step.run("x" * size, int)


async def group_name(step: Step, size: int) -> None:
    await step.parallel("x" * size, [])


async def undo_name(step: Step, size: int) -> None:
    await step.run("x" * size, int)
    step.compensate("x" * size, int)


async def steps(step: Step, count: int) -> None:
    for number in range(count):
        await step.run(str(number), int)


async def steps_of_all_kinds(step: Step, count: int) -> None:
    await step.sleep("nap", 1)
    await step.publish("other")
    await step.parallel("all", [_one_step] * (count - 2))


async def _one_step(step: Step) -> None:
    await step.run("work", int)


async def items(step: Step, count: int) -> None:
    await step.map("some", range(count // 2), _of_item)
    await step.map("others", range(count - count // 2), _of_item)


async def _of_item(item: int, _step: Step, _index: int) -> int:
    return item


async def steps_of_items(step: Step, count: int) -> None:
    async def several(times: int, own: Step, _index: int) -> None:
        for number in range(times):
            await own.run(str(number), int)

    await step.map("items", [count - 5, 5], several)


async def open_waits(step: Step, count: int) -> None:
    async def wait(own: Step) -> None:
        await own.wait_for_event("odd", event="other", timeout=1, on_timeout="none")

    # Those that are over do not count.
    for name in ("first", "second"):
        await step.parallel(name, [wait] * count)


async def waits(step: Step, count: int) -> None:
    for number in range(count):
        await step.wait_for_event(str(number), event="other", timeout=1, on_timeout="none")


async def depth(step: Step, levels: int) -> None:
    await step.invoke("nested", levels - 1)


@dataclass(frozen=True)
class Case:
    """What reaches a limit."""

    field: str
    reach: Handler
    error: str = "LimitError"
    stored: int | None = 0
    """How many steps stand in the journal once it was refused; None where those before it do."""


IN_RUNS = [
    Case("payload_bytes", result, "PayloadTooLargeError", stored=None),
    Case("payload_bytes", output, "PayloadTooLargeError"),
    Case("payload_bytes", published_data, "PayloadTooLargeError"),
    Case("payload_bytes", invoked_data, "PayloadTooLargeError"),
    Case("payload_bytes", started_data, "PayloadTooLargeError"),
    Case("event_name_bytes", published_name),
    Case("event_name_bytes", awaited_name),
    Case("id_bytes", published_id),
    Case("match_bytes", awaited_value),
    Case("step_name_bytes", step_name),
    Case("step_name_bytes", group_name),
    Case("step_name_bytes", undo_name),
    Case("steps_per_run", steps, stored=LIMITS.steps_per_run),
    Case("steps_per_run", steps_of_all_kinds, stored=None),
    Case("map_items_per_run", items),
    Case("map_items_per_run", steps_of_items, stored=None),
    Case("open_waits_per_run", open_waits, stored=None),
    Case("waits_per_run", waits, stored=LIMITS.waits_per_run),
    Case("child_depth", depth, stored=None),
]


async def publish_data(client: ironflow.Client, size: int) -> None:
    await client.publish("other", text(size))


async def publish_name(client: ironflow.Client, size: int) -> None:
    await client.publish("x" * size)


async def publish_id(client: ironflow.Client, size: int) -> None:
    await client.publish("other", id="x" * size)


async def publish_source(client: ironflow.Client, size: int) -> None:
    await client.publish("other", source="x" * size)


async def publish_metadata(client: ironflow.Client, size: int) -> None:
    await client.publish("other", metadata={"a": "x" * 100, "b" * 20: "x" * (size - 121)})


async def start_data(client: ironflow.Client, size: int) -> None:
    await client.start("idle-child", text(size))


async def start_id(client: ironflow.Client, size: int) -> None:
    await client.start("idle-child", id="x" * size)


OF_CLIENTS: list[tuple[str, Call, type[Exception]]] = [
    ("payload_bytes", publish_data, PayloadTooLargeError),
    ("payload_bytes", start_data, PayloadTooLargeError),
    ("event_name_bytes", publish_name, LimitError),
    ("id_bytes", publish_id, LimitError),
    ("id_bytes", start_id, LimitError),
    ("source_bytes", publish_source, LimitError),
    ("metadata_bytes", publish_metadata, LimitError),
]


@ironflow.function(id="idle-child")
async def idle_child(ctx: Context) -> None: ...


@ironflow.function(id="nested")
async def nested(ctx: Context[int]) -> None:
    if ctx.event.data:
        await ctx.step.invoke("nested", ctx.event.data - 1)


@pytest.mark.parametrize("case", IN_RUNS, ids=lambda case: case.reach.__name__)
@pytest.mark.parametrize("past", [False, True], ids=["at", "past"])
async def test_in_a_run_the_limit_itself_is_taken_and_one_more_is_refused(case: Case, *, past: bool) -> None:
    @ironflow.function(id=ODD)
    async def odd(ctx: Context[int]) -> Any:
        return await case.reach(ctx.step, ctx.event.data)

    async with running_system(odd, idle_child, nested, limits=LIMITS) as system:
        run = await system.run(odd, getattr(LIMITS, case.field) + past)
        if not past:
            assert (run.status, run.error) == ("completed", None)
            return
        assert run.error is not None
        # A parent says what its child failed with.
        assert case.error in (run.error.type, *run.error.message.split(": "))
        if case.stored is not None:
            assert len(await system.client.run(run.id).steps()) == case.stored


@pytest.mark.parametrize(("field", "call", "error"), OF_CLIENTS, ids=[call.__name__ for _, call, _ in OF_CLIENTS])
async def test_of_a_client_the_limit_itself_is_taken_and_one_more_is_refused(
    field: str, call: Call, error: type[Exception]
) -> None:
    async with running_system(idle_child) as system:
        client = ironflow.Client(system.broker, system.names, LIMITS)
        with pytest.raises(error):
            await call(client, getattr(LIMITS, field) + 1)
        assert (await system.broker.stream_state(system.names.events)).last_sequence == 0
        await call(client, getattr(LIMITS, field))
        assert (await system.broker.stream_state(system.names.events)).last_sequence == 1


def test_no_limit_is_left_out() -> None:
    assert {case.field for case in IN_RUNS} | {field for field, _, _ in OF_CLIENTS} == set(Limits.__struct_fields__)
