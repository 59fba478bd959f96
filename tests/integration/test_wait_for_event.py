"""What api.md says of waiting for events, from the outside: client, engine and worker on a virtual clock."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

import ironflow
from ironflow import Context, Function, Step
from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.broker.protocol import Publication, StoredMessage
from ironflow.codec import decode_record, encode_record, encode_value
from ironflow.handles import RunHandle
from ironflow.limits import Limits
from ironflow.names import bucket_stream
from ironflow.records import EventRecord, StepRecord, WaitEntry, WaitRecord
from ironflow_engine.wait_store import WaitStore
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

APPROVED = "order.approved"
MISSED = "step 'approval': no event 'order.approved' that it waits for came within 2h"
RAISED = f"WaitTimeoutError: {MISSED}"


def waiting(**options: Any) -> Function[Any, Any]:
    """Return a function that waits for one event and returns its data, or what came instead."""

    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> Any:
        try:
            event = await ctx.step.wait_for_event("approval", **{"event": APPROVED, **options})
        except ironflow.IronflowError as error:
            return f"{type(error).__name__}: {error}"
        return None if event is None else event.data

    return f


async def place(system: System, data: object = None) -> RunHandle[Any]:
    """Start a run by an event, and return once it waits."""
    (run,), _ = await system.client.runs_of(await system.client.publish_record("order.placed", data))
    await asyncio.sleep(1)
    return system.client.run(run)


async def store_again(system: System, event: EventRecord) -> None:
    """Store an event as a server does that has forgotten its id."""
    await system.broker.publish(Publication(subject=system.names.event(event.name), payload=encode_record(event)))


async def open_waits(system: System) -> list[str]:
    """Return the keys of the waits that events find."""
    await asyncio.sleep(1)
    stream = bucket_stream(system.names.waits_bucket)
    pages = [page async for page in system.broker.read(stream, f"$KV.{system.names.waits_bucket}.*.*.*.*.*")]
    return [message.subject for page in pages for message in page]


# Matching


@pytest.mark.parametrize(
    ("match", "trigger", "others", "wanted"),
    [
        ("data.orderId", {"orderId": "o-1"}, [{"orderId": "o-2"}, {}, None, {"orderId": 1}], {"orderId": "o-1"}),
        ("orderId", {"orderId": 1}, [{"orderId": "1"}, {"orderId": True}], {"orderId": 1.0}),
        ("items.1.sku", {"items": [0, {"sku": "b"}]}, [{"items": [{"sku": "b"}]}], {"items": [1, {"sku": "b"}]}),
        ("at", {"at": {"x": 1, "y": [None]}}, [{"at": {"x": 1}}], {"at": {"y": [None], "x": 1}}),
        ("none", {"none": None}, [{}, {"none": 0}], {"none": None}),
        ("data", "o-1", ["o-2", None], "o-1"),
    ],
    ids=["text", "number", "index", "object", "null", "all"],
)
async def test_the_awaited_event_has_at_the_path_what_the_trigger_has(
    match: str, trigger: Any, others: list[Any], wanted: Any
) -> None:
    f = waiting(match=match)
    async with running_system(f) as system:
        run = await place(system, trigger)
        for other in others:
            await system.client.publish(APPROVED, other)
            await system.client.publish("order.refused", wanted)
        await asyncio.sleep(60)
        assert (await run.state()).status == "waiting"
        await system.client.publish(APPROVED, wanted)
        assert await run.result("1m") == wanted
        assert await open_waits(system) == []


async def test_without_match_any_event_of_the_name_will_do() -> None:
    async with running_system(waiting()) as system:
        run = await place(system)
        await system.client.publish(APPROVED, "anything")
        assert await run.result("1m") == "anything"


async def test_value_takes_the_place_of_what_the_trigger_has() -> None:
    async with running_system(waiting(match="country", value="NL")) as system:
        run = await place(system, {"country": "FR"})
        await system.client.publish(APPROVED, {"country": "FR"})
        await asyncio.sleep(60)
        await system.client.publish(APPROVED, {"country": "NL"})
        assert await run.result("1m") == {"country": "NL"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"match": "orderId"}, "DefinitionError: match: the triggering event 'order.placed' has nothing at 'data.or"),
        ({"match": "a..b"}, "DefinitionError: match must be a path"),
        ({"value": 5}, "DefinitionError: value= says what"),
        ({"match": "x", "value": object()}, "SerializationError: value"),
        ({"match": "x", "value": float("nan")}, "SerializationError: value"),
        ({"match": "x", "value": "x" * 10_000}, "LimitError: match compares values of at most 8,192 bytes"),
        ({"event": "order.*"}, "DefinitionError: event name 'order.*' has a wildcard"),
        ({"event": "ironflow.invoked"}, "DefinitionError: event name"),
        ({"event": "x" * 257}, "LimitError: event name"),
        ({"timeout": 0}, "DefinitionError: timeout must be longer than zero"),
        ({"timeout": "367d"}, "LimitError: timeout"),
        ({"on_timeout": "explode"}, "DefinitionError: on_timeout must be one of 'fail', 'none', 'raise', got"),
        ({"type": 5}, "DefinitionError: type must be a type"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_makes_no_sense_is_refused_at_once_and_nothing_is_stored(
    options: dict[str, Any], expected: str
) -> None:
    async with running_system(waiting(**options)) as system:
        run = await place(system)
        assert (await run.result("1m")).startswith(expected)
        assert await system.subjects("wait") == []


@dataclasses.dataclass
class Approval:
    approved_by: str


async def test_the_data_is_decoded_into_the_type_on_every_pass() -> None:
    seen: list[Any] = []

    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> None:
        event = await ctx.step.wait_for_event("approval", event=APPROVED, type=Approval)
        seen.append((event.name, event.id, event.data))
        await ctx.step.sleep("nap", "1m")

    async with running_system(f) as system:
        run = await place(system)
        await system.client.publish(APPROVED, {"approved_by": "Ada"}, id="a-1")
        await run.result("1h")
    assert seen == [(APPROVED, "a-1", Approval("Ada"))] * 2


async def test_data_of_another_type_fails_the_run_and_names_the_place() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> None:
        await ctx.step.wait_for_event("approval", event=APPROVED, type=Approval)

    async with running_system(f) as system:
        run = await place(system)
        await system.client.publish(APPROVED, {"approved_by": 5})
        error = (await run.wait("1h")).error
    assert error is not None
    assert (error.type, error.path) == ("SerializationError", "data.approved_by")


# Time-outs


async def test_a_wait_that_times_out_fails_its_run_on_the_server() -> None:
    went_on: list[str] = []

    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> None:
        try:
            await ctx.step.wait_for_event("approval", event=APPROVED, timeout="2h")
        except Exception as error:  # noqa: BLE001 - what a user may write
            went_on.append(str(error))
        went_on.append("went on")

    async with running_system(f) as system:
        run = await place(system)
        view = await run.wait("3h")
        assert view.status == "failed"
        assert view.error is not None
        assert (view.error.type, view.error.message) == ("WaitTimeoutError", f"waitForEvent timed out: {MISSED}")
        assert view.error.step == "approval"
        (step,) = await run.steps()
        assert (step.kind, step.status) == ("wait_for_event", "failed")
        assert await open_waits(system) == []
        await system.client.publish(APPROVED)
        await asyncio.sleep(60)
        assert (await run.state()).status == "failed"
    assert went_on == []


async def test_a_wait_that_times_out_fails_its_run_although_no_worker_is_there() -> None:
    async with running_system(waiting(timeout="2h")) as system:
        run = await place(system)
        for worker in [*system.workers]:
            await worker.stop()
        assert (await run.wait("3h")).status == "failed"


async def test_a_wait_that_times_out_ends_its_run_although_another_branch_waits_too() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> None:
        await asyncio.gather(
            ctx.step.wait_for_event("short", event=APPROVED, timeout="1h"),
            ctx.step.wait_for_event("long", event=APPROVED, timeout="9h"),
        )

    async with running_system(f) as system:
        began = system.now_ms()
        run = await place(system)
        view = await run.wait("3h")
        assert view.error is not None
        assert view.error.step == "short"
        assert system.now_ms() - began < 3_660_000
        assert await open_waits(system) == []


@pytest.mark.parametrize(("mode", "came"), [("none", "None"), ("raise", RAISED)])
async def test_a_time_out_that_the_handler_sees_is_the_same_on_every_pass(mode: Any, came: str) -> None:
    seen: list[str] = []

    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> str:
        try:
            seen.append(str(await ctx.step.wait_for_event("approval", event=APPROVED, timeout="2h", on_timeout=mode)))
        except ironflow.WaitTimeoutError as error:
            seen.append(f"{type(error).__name__}: {error}")
        await ctx.step.sleep("nap", "1h")
        return "went on"

    async with running_system(f) as system:
        began = system.now_ms()
        run = await place(system)
        await asyncio.sleep(7_205)
        await system.client.publish(APPROVED)
        assert await run.result("3h") == "went on"
        assert 10_800_000 <= system.now_ms() - began < 10_802_000
    assert seen == [came] * 2


async def test_a_time_out_that_is_raised_and_not_caught_fails_the_run_at_once() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> None:
        await ctx.step.wait_for_event("approval", event=APPROVED, timeout="2h", on_timeout="raise")

    async with running_system(f) as system:
        error = (await (await place(system)).wait("3h")).error
    assert error is not None
    assert (error.type, error.attempts) == ("WaitTimeoutError", 1)


async def test_an_open_wait_is_shown_as_waiting() -> None:
    async with running_system(waiting()) as system:
        run = await place(system)
        assert (await run.state()).status == "waiting"
        (step,) = await run.steps()
        assert (step.name, step.kind, step.status) == ("approval", "wait_for_event", "waiting")


# Which event counts


async def test_an_event_that_came_before_the_wait_and_after_the_trigger_counts() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> Any:
        await ctx.step.sleep("nap", "1h")
        return (await ctx.step.wait_for_event("approval", event=APPROVED, match="orderId")).data

    async with running_system(f) as system:
        run = await place(system, {"orderId": 1})
        await system.client.publish(APPROVED, {"orderId": 2, "n": 0})
        await system.client.publish(APPROVED, {"orderId": 1, "n": 1})
        await system.client.publish(APPROVED, {"orderId": 1, "n": 2})
        assert (await run.result("2h"))["n"] == 1


async def test_an_event_before_the_trigger_does_not_count_nor_does_the_trigger_stored_once_more() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> Any:
        event = await ctx.step.wait_for_event("again", event="order.placed", timeout="1h", on_timeout="none")
        return event and event.data

    async with running_system(f) as system:
        await system.client.publish("order.placed", "earlier")
        await asyncio.sleep(3 * 60)
        published = await system.client.publish_record("order.placed", "trigger")
        (run,), _ = await system.client.runs_of(published)
        await asyncio.sleep(3 * 60)
        await store_again(system, published.record)
        assert await system.client.run(run).result("2h") is None


async def test_two_waits_for_one_event_need_one_each_in_the_order_recorded() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> list[Any]:
        events = await asyncio.gather(
            *(ctx.step.wait_for_event(name, event=APPROVED, timeout="1h", on_timeout="none") for name in "abc")
        )
        return [event and event.data for event in events]

    async with running_system(f) as system:
        run = await place(system)
        first = await system.client.publish_record(APPROVED, 1)
        await asyncio.sleep(3 * 60)
        await store_again(system, first.record)
        await asyncio.sleep(60)
        await system.client.publish(APPROVED, 2)
        assert await run.result("2h") == [1, 2, None]


@pytest.mark.parametrize("pause", [0.0, 30.0])
async def test_waits_one_after_the_other_take_one_event_each(pause: float) -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> list[Any]:
        return [(await ctx.step.wait_for_event(f"w{number}", event=APPROVED)).data for number in range(4)]

    async with running_system(f) as system:
        run = await place(system)
        for number in range(4):
            published = await system.client.publish_record(APPROVED, number)
            await store_again(system, published.record)
            await asyncio.sleep(pause)
        assert await run.result("2h") == [0, 1, 2, 3]


async def test_one_event_ends_the_waits_of_many_runs() -> None:
    async with running_system(waiting()) as system:
        runs = [await place(system) for _ in range(20)]
        await system.client.publish(APPROVED, "all")
        assert [await run.result("1m") for run in runs] == ["all"] * 20


async def test_an_event_behind_a_time_out_is_left_for_the_next_wait() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> Any:
        for number in range(50):
            event = await ctx.step.wait_for_event(f"w{number}", event=APPROVED, timeout="1s", on_timeout="none")
            if event is not None:
                return event.data
        return "lost"

    async with running_system(f, engines=2) as system:
        for milliseconds in range(-40, 40, 4):
            run = await place(system)
            await asyncio.sleep(4 + milliseconds / 1000)
            await system.client.publish(APPROVED, milliseconds)
            assert await run.result("2m") == milliseconds


async def test_one_wait_more_than_a_run_may_have_open_is_refused_before_it_is_stored() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context[int]) -> int:
        waits = (ctx.step.wait_for_event(f"w{number}", event=APPROVED) for number in range(ctx.event.data))
        return len(await asyncio.gather(*waits))

    async with running_system(f, limits=Limits(open_waits_per_run=3)) as system:
        run = await place(system, 3)
        for _ in range(3):
            await system.client.publish(APPROVED)
        assert await run.result("1m") == 3
        refused = await (await place(system, 4)).wait("1m")
        assert refused.error is not None
        assert refused.error.type == "LimitError"
        assert "at most 3 events at a time" in refused.error.message
        assert await open_waits(system) == []


async def test_one_wait_more_than_a_run_may_ever_make_is_refused_in_each_pass_and_those_before_in_none() -> None:
    passes: list[int] = []

    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context[int]) -> str:
        passes.append(1)
        for number in range(3):
            await ctx.step.wait_for_event(f"w{number}", event=APPROVED, timeout=1, on_timeout="none")
        refused: list[str] = []
        for number in range(2):
            try:
                await ctx.step.wait_for_event(f"more-{number}", event=APPROVED, timeout=1, on_timeout="none")
            except ironflow.LimitError as error:
                refused.append(str(error))
            await ctx.step.sleep(f"nap-{number}", "1h")
        return "\n".join(refused)

    async with running_system(f, limits=Limits(waits_per_run=3)) as system:
        run = await place(system, 0)
        first, second = (await run.result("3h")).splitlines()
        assert "at most 3 events in all its life" in first
        assert "'more-0' is one more" in first
        assert "'more-1' is one more" in second
        assert len(passes) >= 6
        assert len([step for step in await run.steps() if step.kind == "wait_for_event"]) == 3


async def test_a_run_makes_no_more_waits_than_its_state_can_keep_on_a_server_that_carries_little() -> None:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context[int]) -> None:
        async def wait(_: int, step: Step, _index: int) -> None:
            await step.wait_for_event("w", event=APPROVED, timeout=60, on_timeout="none")

        for wave in range(4):
            await ctx.step.map(f"wave-{wave}", range(100), wait)

    async with running_system(f, server=LocalServer(max_payload=16_384)) as system:
        run = await place(system, 0)
        ended = await run.wait("1h")
        assert ended.error is not None
        assert ended.error.type == "LimitError"
        assert "at most 327 events in all its life" in ended.error.message
        assert "16,384 bytes" in ended.error.message
        assert len((await system.run_state(run.id)).event_waits) == 327
        assert await open_waits(system) == []


# The race


@pytest.mark.parametrize("seed", range(4))
async def test_of_an_event_and_a_time_out_that_come_together_exactly_one_counts(seed: int) -> None:
    chance = random.Random(seed)
    f = waiting(match="n", timeout="60s", on_timeout="none")
    async with running_system(f, engines=2, workers=2) as system:
        events = [await system.client.publish_record("order.placed", {"n": number}) for number in range(100)]
        runs = [system.client.run((await system.client.runs_of(event))[0][0]) for event in events]
        await asyncio.sleep(58)

        async def approve(number: int) -> None:
            await asyncio.sleep(chance.uniform(1.85, 2.15))
            await system.client.publish(APPROVED, {"n": number})

        await asyncio.gather(*map(approve, range(100)))
        outputs = [await run.result("2m") for run in runs]
        came = sum(output is not None for output in outputs)
        assert 10 <= came <= 90
        for number, (run, output) in enumerate(zip(runs, outputs, strict=True)):
            assert output in (None, {"n": number})
            assert [step.output != b"null" for step in await run.steps()] == [True]
            assert await system.subjects("step", run) == ["step.approval"]


# What it costs


async def test_finding_the_waits_of_an_event_costs_what_matches() -> None:
    read: list[int] = []

    class Counting(LocalBroker):
        async def read(
            self, stream: str, subject_filter: str, after: int = 0, *, one_each: bool = False
        ) -> AsyncIterator[list[StoredMessage]]:
            assert one_each  # or the server looks at all that stands behind what matches
            async for page in super().read(stream, subject_filter, after, one_each=one_each):
                read.append(len(page))
                yield page

    def entry(number: int) -> WaitEntry:
        wait = WaitRecord(name="w", kind="wait_for_event", token="", event=APPROVED, path="orderId", value=str(number))
        return WaitEntry(run=f"r{number}", queue="q", step="w", wait=wait, sequence=number, time_ms=1)

    async with running_system(waiting()) as system:
        store = WaitStore(Counting(system.server, 15.0), system.names)
        assert set(await store.put_all([entry(number) for number in range(10_000)])) == {None}
        read.clear()
        event = EventRecord(id="e", name=APPROVED, time="", data=encode_value({"orderId": 77}, "data"))
        (found,) = await store.matching([event])
        assert [each.run for each in found] == ["r77"]
        assert sum(read) <= 2  # the one path, and the one wait
        read.clear()
        assert await store.matching([event] * 3) == [found] * 3
        assert sum(read) <= 1
        read.clear()
        of_another_engine = WaitStore(Counting(system.server, 15.0), system.names)
        assert await of_another_engine.matching([event]) == [found]
        assert sum(read) == 2


async def test_the_event_is_what_is_recorded_of_the_step() -> None:
    async with running_system(waiting()) as system:
        run = await place(system)
        published = await system.client.publish_record(APPROVED, {"n": 1})
        await run.result("1m")
        message = await system.broker.last(
            system.names.all_shards[0].journal, system.names.journal_step("default", run.id, "approval")
        )
        assert message is not None
        record = decode_record(StepRecord, message.payload)
        assert decode_record(EventRecord, bytes(record.output)) == published.record
        assert 900 <= record.duration_ms <= 1_100
