"""Waits for events while engines die, answers are lost and servers restart: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import ironflow
from ironflow import Context, Function
from ironflow.broker.local import Stage
from ironflow.broker.protocol import Ambiguous, BrokerError, StorageFull, Unavailable
from ironflow.names import bucket_stream
from ironflow_engine.facts import EventArrived, RegisterWait
from ironflow_engine.look_back import LookBack
from tests.support.inprocess import System, is_of_duties, running_system

pytestmark = pytest.mark.virtual_time

APPROVED = "order.approved"
ENGINE_WRITES = ("$KV.", ".tasks.", ".timers.", ".step.approval")


def approval() -> Function[Any, Any]:
    @ironflow.function(id="f", triggers=["order.placed"])
    async def f(ctx: Context) -> Any:
        event = await ctx.step.wait_for_event("approval", event=APPROVED, match="n", timeout="10m", on_timeout="none")
        return event and event.data["n"]

    return f


@pytest.fixture
def beside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an engine look back beside its batches, as it does where that takes long."""

    async def glance(_: LookBack, waits: Sequence[RegisterWait]) -> tuple[list[EventArrived], list[RegisterWait]]:
        return [], list(waits)

    if request.param:
        monkeypatch.setattr(LookBack, "glance", glance)


looks_back_in_both_ways = pytest.mark.parametrize("beside", [False, True], ids=["at once", "beside"], indirect=True)


class Killer:
    """Kills the engine at one of its writes, and starts another one.

    Args:
        system: whose engine it is.
        number: at which write.
        stage: whether the write still happens.

    """

    def __init__(self, system: System, number: int, stage: Stage) -> None:
        self._system = system
        self._left = number
        self._stage = stage
        self.killed = False

    def __call__(self, stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if stage != self._stage or verb not in ("publish", "purge") or is_of_duties(subject):
            return None
        if verb == "publish" and not any(part in subject for part in ENGINE_WRITES):
            return None
        self._left -= 1
        if self._left >= 0 or self.killed:
            return None
        self.killed = True
        (engine,) = self._system.engines
        self._system.cut_off(engine)
        self._system.soon(engine.stop(), self._system.add_engine())
        return Unavailable("killed")


async def early(system: System) -> None:
    """Publish the event right behind the trigger."""
    await system.client.publish("order.placed", {"n": 1}, id="trigger")
    await system.client.publish(APPROVED, {"n": 1})


async def late(system: System) -> None:
    """Publish the event when the run waits."""
    await system.client.publish("order.placed", {"n": 1}, id="trigger")
    await asyncio.sleep(30)
    await system.client.publish(APPROVED, {"n": 1})


async def never(system: System) -> None:
    """Publish another event."""
    await system.client.publish("order.placed", {"n": 1}, id="trigger")
    await system.client.publish(APPROVED, {"n": 2})


async def outcome_of(system: System) -> Any:
    """Return the output of the one run, which has one result recorded."""
    await asyncio.sleep(15 * 60)
    (run,) = [run async for run in system.client.runs()]
    output = await run.result("1h")
    assert await system.subjects("step", run) == ["step.approval"]
    return output


@looks_back_in_both_ways
@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize(("scenario", "expected"), [(early, 1), (late, 1), (never, None)], ids=lambda x: str(x)[:15])
async def test_an_engine_may_die_at_any_write(
    scenario: Callable[[System], Any], expected: int | None, stage: Stage
) -> None:
    f = approval()
    for number in range(40):
        async with running_system(f) as system:
            system.server.interceptor = killer = Killer(system, number, stage)
            await scenario(system)
            assert await outcome_of(system) == expected, number
        if not killer.killed:
            assert number >= 6
            return
    raise AssertionError("it writes without end")


TROUBLE: dict[str, Callable[[], BrokerError]] = {
    "full": lambda: StorageFull("no room"),
    "lost": lambda: Ambiguous("no answer"),
    "gone": lambda: Unavailable("nobody there"),
}
PLACES = [
    ("publish", "test_waits"),
    ("publish", "=paths"),
    ("publish", "test_runs"),
    ("publish", ".step.approval"),
    ("publish", ".wait.approval"),
    ("publish", ".timers."),
    ("purge", "test_waits"),
    ("read", "test_waits"),
    ("read", "TEST_EVENTS"),
    ("stream_state", "TEST_EVENTS"),
    ("stream_state", "test_waits"),
]


@pytest.mark.parametrize(
    ("trouble", "stage"), [("full", "before"), ("gone", "before"), ("lost", "before"), ("lost", "after")]
)
@pytest.mark.parametrize(("verb", "part"), PLACES)
async def test_a_broker_in_trouble_delays_a_wait_and_changes_nothing_else(
    verb: str, part: str, trouble: str, stage: Stage
) -> None:
    await bear_trouble(verb, part, trouble, stage, late)


@looks_back_in_both_ways
@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize(("verb", "part"), [("read", "TEST_EVENTS"), ("stream_state", "TEST_EVENTS")])
async def test_a_broker_in_trouble_delays_looking_back_and_changes_nothing_else(
    verb: str, part: str, stage: Stage
) -> None:
    await bear_trouble(verb, part, "gone", stage, early)


async def bear_trouble(verb: str, part: str, trouble: str, stage: Stage, scenario: Callable[[System], Any]) -> None:
    """Have the broker in trouble for a while, and see the run come to what it should."""
    async with running_system(approval()) as system:
        began = system.now_ms()

        def intercept(at: Stage, what: str, subject: str) -> BrokerError | None:
            in_trouble = system.now_ms() - began < 100_000
            return TROUBLE[trouble]() if in_trouble and (at, what) == (stage, verb) and part in subject else None

        system.server.interceptor = intercept
        await scenario(system)
        assert await outcome_of(system) == 1


async def test_a_wait_that_cannot_be_taken_away_at_first_is_taken_away_all_the_same() -> None:
    refusals = [Unavailable("no answer"), Ambiguous("no answer")]

    def intercept(stage: Stage, verb: str, subject: str) -> BrokerError | None:
        refuses = stage == "before" and verb == "purge" and "test_waits" in subject
        return refusals.pop() if refuses and refusals else None

    async with running_system(approval()) as system:
        system.server.interceptor = intercept
        await late(system)
        assert await outcome_of(system) == 1
        assert refusals == []
        bucket = system.names.waits_bucket
        subjects = [
            message.subject
            async for page in system.broker.read(bucket_stream(bucket), f"$KV.{bucket}.>")
            for message in page
        ]
    assert [subject for subject in subjects if "=paths" not in subject] == []


@looks_back_in_both_ways
@pytest.mark.usefixtures("beside")
async def test_two_engines_that_die_in_turn_lose_no_event() -> None:
    async with running_system(approval(), engines=2) as system:
        for number in range(60):
            await system.client.publish("order.placed", {"n": number})
        for number in range(60):
            await system.client.publish(APPROVED, {"n": number})
            if number % 10 == 5:
                await system.kill(next(iter(system.engines)))
                await system.add_engine()
            await asyncio.sleep(0.01)
        runs = [run async for run in system.client.runs()]
        assert sorted([await run.result("5m") for run in runs]) == [*range(60)]


@looks_back_in_both_ways
@pytest.mark.usefixtures("beside")
async def test_a_server_that_restarts_all_the_time_loses_no_event() -> None:
    async with running_system(approval()) as system:
        for number in range(40):
            await system.client.publish("order.placed", {"n": number}, id=f"trigger-{number}")
            if number % 4 == 0:
                system.server.restart()
            await system.client.publish(APPROVED, {"n": number}, id=f"approval-{number}")
        system.server.restart()
        runs = [run async for run in system.client.runs()]
        assert sorted([await run.result("5m") for run in runs]) == [*range(40)]
