"""Child runs while processes die, answers are lost, events come twice and events lie. On a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

import ironflow
from ironflow import Context, Function, InvokeError, Step, StepError
from ironflow.broker.local import Stage
from ironflow.broker.protocol import Ambiguous, BrokerError, Publication, StorageFull, Unavailable
from ironflow.codec import decode_record, encode_record, encode_value
from ironflow.names import detached_event_id, invoke_event_id, run_id, start_event_id
from ironflow.records import EventRecord, ParentLink
from ironflow.triggers import INVOKED
from tests.support.inprocess import System, is_of_duties, running_system

pytestmark = pytest.mark.virtual_time

STEP = "invoke=3Achild"


@ironflow.function(id="child")
async def child(ctx: Context) -> Any:
    await ctx.step.sleep("nap", "1m")
    if ctx.event.data == "fail":
        raise ironflow.NonRetryableError("boom")
    return ctx.event.data


def parent(data: object = 7, **options: Any) -> Function[Any, Any]:
    @ironflow.function(id="parent")
    async def parent_run(ctx: Context) -> Any:
        try:
            return await ctx.step.invoke(child, data, **options)
        except InvokeError as error:
            return [type(error).__name__, error.message]

    return parent_run


@ironflow.function(id="closes")
async def closes(ctx: Context) -> Any:
    async def waits(step: Step) -> Any:
        return await step.wait_for_event("event", event="x", timeout="5m")

    async def invokes(step: Step) -> Any:
        return await step.invoke(child, 7, name="child")

    async def fails(step: Step) -> None:
        await step.sleep("nap", "10s")
        await step.run("work", lambda: 1 / 0, retry=ironflow.Retry(max_attempts=1))

    try:
        await ctx.step.parallel("all", [waits, invokes, fails])
    except StepError:
        event = await ctx.step.wait_for_event("event", event="x", timeout="30m")
        return ["closed", event.data]


class Killer:
    """Kills a process at one of the writes of all, and starts another one.

    Args:
        system: whose it is.
        kind: which kind of process.
        number: at which write.
        stage: whether the write still happens.

    """

    def __init__(self, system: System, kind: str, number: int, stage: Stage) -> None:
        self._system = system
        self._kind = kind
        self._left = number
        self._stage = stage
        self.killed = False

    def __call__(self, stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if stage != self._stage or verb not in ("publish", "purge") or self.killed or is_of_duties(subject):
            return None
        self._left -= 1
        if self._left >= 0:
            return None
        self.killed = True
        if self._kind == "engine":
            engine = next(iter(self._system.engines))
            self._system.cut_off(engine)
            self._system.soon(engine.stop(), self._system.add_engine())
        else:
            worker = next(iter(self._system.workers))
            self._system.cut_off(worker)
            self._system.soon(self._system.kill(worker), self._system.add_worker())
        return None


TIMED_OUT = ["InvokeTimeoutError", "it did not end within 30s, and was cancelled"]
SCENARIOS: dict[str, tuple[Callable[[], Function[Any, Any]], Any, str]] = {
    "completes": (parent, 7, "completed"),
    "fails": (lambda: parent("fail"), ["InvokeError", "boom"], "failed"),
    "times out": (lambda: parent(timeout="30s"), TIMED_OUT, "cancelled"),
    "closes": (lambda: closes, ["closed", "late"], "cancelled"),
}


async def run_to_its_end(system: System, function: Function[Any, Any], expected: Any, ended: str) -> None:
    """Run a parent to its end, and check that all is as if nothing had happened."""
    run = await system.client.start(function, id="the-one")
    await asyncio.sleep(400)  # longer than the wait that is given up, shorter than the other one
    await system.client.publish("x", "late")
    assert await run.result("1h") == expected
    await asyncio.sleep(60)  # the engine that has told it may die before it has stored it
    children = [each async for each in system.client.runs(function="child")]
    assert [(await each.state()).status for each in children] == [ended]
    assert [each.status for each in await run.steps() if each.status not in ("completed", "failed")] == []


@pytest.mark.parametrize("kind", ["engine", "worker"])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_process_may_die_at_any_write(scenario: str, kind: str) -> None:
    make, expected, ended = SCENARIOS[scenario]
    function = make()
    for number in range(80):
        stage: Stage = "before" if number % 2 else "after"
        async with running_system(function, child) as system:
            system.server.interceptor = killer = Killer(system, kind, number, stage)
            await run_to_its_end(system, function, expected, ended)
        if not killer.killed:
            assert number >= 15
            return
    raise AssertionError("it writes without end")


@pytest.mark.parametrize("scenario", ["times out"])
async def test_one_of_two_engines_may_die_at_any_write(scenario: str) -> None:
    make, expected, ended = SCENARIOS[scenario]
    function = make()
    for number in range(80):
        async with running_system(function, child, engines=2) as system:
            system.server.interceptor = killer = Killer(system, "engine", number, "after")
            await run_to_its_end(system, function, expected, ended)
        if not killer.killed:
            return
    raise AssertionError("it writes without end")


TROUBLE: dict[str, Callable[[], BrokerError]] = {
    "full": lambda: StorageFull("no room"),
    "lost": lambda: Ambiguous("no answer"),
    "gone": lambda: Unavailable("nobody there"),
}
PLACES = [
    ("publish", ".events.ironflow.invoked"),
    ("publish", f".step.{STEP}"),
    ("publish", f".wait.{STEP}"),
    ("publish", "test_runs"),
    ("publish", ".timers."),
    ("last", ""),
    ("read", "TEST_JOURNAL"),
]


@pytest.mark.parametrize(
    ("trouble", "stage"), [("full", "before"), ("gone", "before"), ("lost", "before"), ("lost", "after")]
)
@pytest.mark.parametrize(("verb", "part"), PLACES)
async def test_a_broker_in_trouble_delays_a_child_and_changes_nothing_else(
    verb: str, part: str, trouble: str, stage: Stage
) -> None:
    function = parent()
    async with running_system(function, child) as system:
        run = await system.client.start(function)
        began = system.now_ms()

        def intercept(at: Stage, what: str, subject: str) -> BrokerError | None:
            in_trouble = 0 < system.now_ms() - began < 100_000
            return TROUBLE[trouble]() if in_trouble and (at, what) == (stage, verb) and part in subject else None

        system.server.interceptor = intercept
        await asyncio.sleep(600)
        assert await run.result("1m") == 7
        assert len([each async for each in system.client.runs(function="child")]) == 1


# Once


async def test_a_run_is_started_asynchronously_once_however_often_the_step_is_tried() -> None:
    for number in range(30):

        @ironflow.function(id="starter")
        async def starter(ctx: Context) -> str:
            return await ctx.step.invoke_async(child, 7)

        async with running_system(starter, child) as system:
            system.server.interceptor = killer = Killer(system, "worker", number, "after")
            output = await system.output(starter)
            await asyncio.sleep(600)
            runs = [run async for run in system.client.runs(function="child")]
            assert [run.id for run in runs] == [output]
            assert await runs[0].result("1m") == 7
        if not killer.killed:
            return


async def test_the_event_of_a_child_may_be_stored_twice() -> None:
    function = parent()
    async with running_system(function, child) as system:
        run = await system.client.start(function)
        await asyncio.sleep(10)
        event = await invoked(system, run.id)
        await store(system, event)
        assert await run.result("1h") == 7
        await store(system, event)
        await asyncio.sleep(600)
        assert len([each async for each in system.client.runs()]) == 2
        assert await system.subjects("step") == ["step.nap", f"step.{STEP}"]


async def invoked(system: System, run: str) -> EventRecord:
    """Return the event that starts the child of a run."""
    async for page in system.broker.read(system.names.events, system.names.event("ironflow.invoked")):
        for message in page:
            event = decode_record(EventRecord, message.payload)
            if event.parent is not None and event.parent.run == run:
                return event
    raise AssertionError("it has invoked none")


async def store(system: System, event: EventRecord) -> None:
    """Store an event as somebody does who may publish to NATS."""
    await system.broker.publish(Publication(subject=system.names.event(event.name), payload=encode_record(event)))


# Lies


LIES: dict[str, Callable[[EventRecord], EventRecord]] = {
    "another id": lambda event: msgspec.structs.replace(event, id="mine"),
    "another function": lambda event: msgspec.structs.replace(event, target="liar"),
    "other data": lambda event: msgspec.structs.replace(event, data=encode_value("a lie", "data")),
    "no parent": lambda event: msgspec.structs.replace(event, parent=None),
    "another queue": lambda event: msgspec.structs.replace(
        event, parent=ParentLink(run=link(event).run, queue="*", step=link(event).step)
    ),
    "any step": lambda event: msgspec.structs.replace(
        event,
        id=invoke_event_id(link(event).run, "*"),
        parent=ParentLink(run=link(event).run, queue="default", step="*"),
    ),
    "no subject": lambda event: msgspec.structs.replace(
        event, parent=ParentLink(run="a b", queue="\r\nPUB x 0", step="ü")
    ),
    "another step": lambda event: msgspec.structs.replace(
        event,
        id=invoke_event_id(link(event).run, "other"),
        parent=ParentLink(run=link(event).run, queue="default", step="other"),
    ),
}


def link(event: EventRecord) -> ParentLink:
    assert event.parent is not None
    return event.parent


@ironflow.function(id="liar")
async def liar(ctx: Context) -> str:
    return "a lie"


@pytest.mark.parametrize("lie", LIES)
async def test_an_event_that_claims_somebody_elses_step_changes_nothing(lie: str) -> None:
    function = parent()
    async with running_system(function, child, liar) as system:
        first = await system.client.start(function, id="first")
        await asyncio.sleep(10)
        truth = await invoked(system, first.id)
        # While the parent waits, and before it does.
        later = run_id("parent", "ironflow:start:parent:later")
        early = msgspec.structs.replace(
            truth,
            id=invoke_event_id(later, STEP),
            parent=ParentLink(run=later, queue="default", step=STEP),
        )
        await store(system, LIES[lie](truth))
        await store(system, LIES[lie](early))
        await asyncio.sleep(10)
        second = await system.client.start(function, id="later")
        assert second.id == later
        assert [await run.result("1h") for run in (first, second)] == [7, 7]
        assert len([run async for run in system.client.runs()]) == 4


@pytest.mark.parametrize(
    ("published_as", "event_id", "starts"),
    [
        ("ironflow.invoked", start_event_id("child", "mine"), True),
        ("ironflow.detached", detached_event_id("r", "s"), True),
        ("ironflow.detached", start_event_id("child", "mine"), False),
        ("ironflow.detached", "e-1", False),
        ("ironflow.other", detached_event_id("r", "s"), False),
        ("order.placed", detached_event_id("r", "s"), False),
        ("order.placed", start_event_id("child", "mine"), False),
    ],
)
async def test_only_under_names_of_ours_an_event_says_what_it_starts(
    published_as: str,
    event_id: str,
    starts: bool,  # noqa: FBT001
) -> None:
    event = EventRecord(id=event_id, name=INVOKED, time="", data=msgspec.Raw(b"7"), target="child")
    async with running_system(child) as system:
        await system.client.broker.publish(
            Publication(subject=system.names.event(published_as), payload=encode_record(event), message_id=event_id)
        )
        await asyncio.sleep(60)
        assert len([each async for each in system.client.runs()]) == starts


async def test_an_event_that_lies_about_what_it_starts_is_said_so_of_and_is_an_event_like_any_other() -> None:
    @ironflow.function(id="triggered", triggers=["order.placed"])
    async def triggered(ctx: Context) -> str:
        return "done"

    async with running_system(child, triggered) as system:
        with capture_logs() as logs:
            await store(
                system,
                EventRecord(
                    id="e-1", name="order.placed", time="2026-01-01T00:00:00Z", data=msgspec.Raw(b"7"), target="child"
                ),
            )
            await asyncio.sleep(60)
        assert [(await each.state()).function async for each in system.client.runs()] == ["triggered"]
    warned = [line for line in logs if line["log_level"] == "warning"]
    assert [line["event_id"] for line in warned] == ["e-1"]
    assert not [line for line in logs if line["log_level"] == "error"]


async def test_a_call_of_a_run_that_has_not_called_is_let_go_of_and_said_so() -> None:
    function = parent()
    async with running_system(function, child) as system:
        run = await system.client.start(function)
        await asyncio.sleep(10)
        lie = LIES["another function"](await invoked(system, run.id))
        with capture_logs() as logs:
            await store(system, lie)
            await asyncio.sleep(60)
    assert [line["event_id"] for line in logs if line["log_level"] == "warning"] == [lie.id]
    assert not [line for line in logs if line["log_level"] == "error"]


async def test_an_event_that_takes_the_place_of_one_without_a_parent_link_starts_nothing_twice() -> None:
    @ironflow.function(id="starter")
    async def starter(ctx: Context) -> str:
        return await ctx.step.invoke_async(child, 7)

    async with running_system(starter, child) as system:
        run = await system.client.start(starter)
        assert await run.result("1m") == run_id("child", detached_event_id(run.id, "invoke_async=3Achild"))
        await asyncio.sleep(600)
        assert len([each async for each in system.client.runs()]) == 2
