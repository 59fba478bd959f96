"""What no worker can make anything of, or dies of: its run fails with a reason, and the queue flows on."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

import ironflow
from ironflow import Context
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, MessageTooLarge, Publication
from ironflow.codec import encode_record
from ironflow.handles import RunHandle
from ironflow.messages import ErrorView, RunView
from ironflow.names import ENGINE_CONSUMER, run_id, start_event_id
from ironflow.records import EventRecord
from tests.support import eventually
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

MOST = 10
SUSPICIOUS = 3
"""The first loss is not noted, and the second one may be by chance."""


async def failures(system: System) -> list[RunView]:
    return [await run.state() async for run in system.client.runs(status="failed")]


async def reason(run: RunHandle[Any]) -> ErrorView:
    """Return why a run has failed."""
    state = await run.wait("3h")
    assert state.status == "failed"
    assert state.error is not None
    return state.error


class Deadly:
    """A function whose body costs its worker its life, so many times."""

    def __init__(self, times: float = float("inf")) -> None:
        self.begun: list[float] = []
        self.system: System | None = None
        self._times = times

        @ironflow.function(id="deadly")
        async def deadly(ctx: Context) -> str:
            await ctx.step.run("fine", lambda: None)
            return await ctx.step.run("work", self.work)

        self.function = deadly

    async def is_suspicious(self) -> None:
        assert len(self.begun) >= SUSPICIOUS

    async def work(self) -> str:
        assert self.system is not None
        self.begun.append(asyncio.get_running_loop().time())
        if len(self.begun) > self._times:
            return "survived"
        (victim,) = self.system.workers
        self.system.cut_off(victim)
        self.system.soon(victim.stop(), self.system.add_worker())
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


@ironflow.function(id="healthy")
async def healthy(ctx: Context) -> str:
    return await ctx.step.run("work", lambda: "done")


async def test_a_run_that_costs_ten_workers_fails_and_names_the_reason() -> None:
    deadly = Deadly()
    async with running_system(deadly.function, healthy) as system:
        deadly.system = system
        run = await system.client.start(deadly.function)
        error = await reason(run)
        assert error.type == "WorkerLost"
        assert error.message.startswith("10 workers that had taken up this run were gone")
        # The first one is not known to have begun it more than once.
        assert len(deadly.begun) == 1 + MOST
        assert [view.id for view in await failures(system)] == [run.id]
        assert await system.output(healthy) == "done"


async def test_each_worker_that_takes_it_up_says_which_run_may_cost_it_its_life() -> None:
    deadly = Deadly()
    with capture_logs() as logs:
        async with running_system(deadly.function) as system:
            deadly.system = system
            run = await system.client.start(deadly.function)
            await reason(run)
    told = [
        (entry["run"], entry["workers"]) for entry in logs if entry["event"].startswith("a run that may have ended")
    ]
    assert told == [(run.id, lost) for lost in range(2, MOST)]


async def test_between_two_workers_that_it_costs_there_is_ever_more_time_for_others() -> None:
    deadly = Deadly()
    async with running_system(deadly.function) as system:
        deadly.system = system
        await reason(await system.client.start(deadly.function))
        pauses = [later - earlier for earlier, later in zip(deadly.begun[:-1], deadly.begun[1:], strict=True)]
        assert pauses[-1] >= 29
        assert all(later >= earlier - 0.5 for earlier, later in pairwise(pauses[2:]))


async def test_the_more_workers_a_run_has_cost_the_longer_must_one_have_served_before_it_begins_it() -> None:
    """Several such runs would else end each worker as soon as it has started."""
    served = defaultdict[str, list[float]](list)
    started = list[float]()

    async def one_more(system: System) -> None:
        started.append(asyncio.get_running_loop().time())
        await system.add_worker()

    @ironflow.function(id="deadly")
    async def deadly(ctx: Context) -> None:
        await ctx.step.run("work", work, ctx.run.id)

    async def work(run: str) -> None:
        served[run].append(round(asyncio.get_running_loop().time() - started[-1], 3))
        for victim in tuple(system.workers):  # none, where one that began beside this one has ended it
            system.cut_off(victim)
            system.soon(victim.stop(), one_more(system))
        await asyncio.Event().wait()

    async with running_system(deadly, workers=0) as system:
        await one_more(system)
        for run in [await system.client.start(deadly) for _ in range(5)]:
            await reason(run)
    assert len(served) == 5
    for seconds in served.values():
        needed = range(1, len(seconds[SUSPICIOUS:]) + 1)
        assert all(has >= needs for has, needs in zip(seconds[SUSPICIOUS:], needed, strict=True)), seconds


async def test_a_run_that_dies_with_its_neighbour_parts_from_it_and_completes() -> None:
    deadly, begun = Deadly(), list[int]()

    @ironflow.function(id="neighbour")
    async def neighbour(ctx: Context) -> str:
        return await ctx.step.run("work", work)

    async def work() -> str:
        begun.append(1)
        await asyncio.sleep(1)
        return "done"

    async with running_system(deadly.function, neighbour) as system:
        deadly.system = system
        # The worker gets both at once, each time, unless their pauses differ.
        run = await system.client.start(neighbour, id="1")
        harmful = await system.client.start(deadly.function, id="1")
        assert await run.result("3h") == "done"
        assert 1 < len(begun) < MOST
        await harmful.wait("3h")  # else it would go on with that while all is being stopped


async def test_a_run_that_has_cost_workers_takes_no_neighbours_with_it_any_more() -> None:
    deadly, begun = Deadly(), Counter[str]()

    @ironflow.function(id="neighbour")
    async def neighbour(ctx: Context) -> None:
        await ctx.step.run("work", work, ctx.run.id)

    async def work(run: str) -> None:
        begun[run] += 1
        await asyncio.sleep(0.8)

    async with running_system(deadly.function, neighbour) as system:
        deadly.system = system
        harmful = await system.client.start(deadly.function)
        await eventually(deadly.is_suspicious)
        neighbours: list[RunHandle[Any]] = []
        while (await harmful.state()).status != "failed":
            neighbours.append(await system.client.start(neighbour))
            await asyncio.sleep(1)
        for each in neighbours:
            await each.result("1m")
        assert len(deadly.begun) == 1 + MOST
        assert len(neighbours) > 100
        assert set(begun.values()) == {1}


async def test_a_run_that_costs_some_workers_and_then_none_completes() -> None:
    deadly = Deadly(times=5)
    async with running_system(deadly.function) as system:
        deadly.system = system
        assert await system.output(deadly.function) == "survived"


async def test_workers_that_hand_a_pass_back_are_no_losses() -> None:
    begun: list[int] = []
    begins = asyncio.Event()

    @ironflow.function(id="f")
    async def f(ctx: Context) -> int:
        return await ctx.step.run("work", work)

    async def work() -> int:
        begun.append(1)
        begins.set()
        await asyncio.sleep(3 if len(begun) <= 2 * MOST else 0)
        return len(begun)

    async with running_system(f) as system:
        run = await system.client.start(f)
        for _ in range(2 * MOST):
            await begins.wait()
            begins.clear()
            (worker,) = system.workers
            await worker.stop()
            system.cut_off(worker)
            await system.add_worker()
        assert await run.result("1h") == 2 * MOST + 1


async def test_a_run_that_is_given_up_undoes_what_it_did() -> None:
    deadly, undone = Deadly(), list[str]()

    @ironflow.function(id="trip")
    async def trip(ctx: Context) -> str:
        for name in ("flight", "hotel"):
            await ctx.step.run(name, str)
            ctx.step.compensate(name, undone.append, name)
        return await ctx.step.run("work", deadly.work)

    async with running_system(trip) as system:
        deadly.system = system
        run = await system.client.start(trip)
        assert (await reason(run)).type == "WorkerLost"
        assert (await run.state()).compensation == "completed"
        assert undone == ["hotel", "flight"]
        assert len(deadly.begun) == 1 + MOST


async def test_undos_that_cost_ten_workers_are_given_up_and_the_others_still_run() -> None:
    deadly, undone = Deadly(), list[str]()

    async def undo(name: str) -> None:
        undone.append(name)
        if name in ("hotel", "car"):
            await deadly.work()

    @ironflow.function(id="trip")
    async def trip(ctx: Context) -> None:
        for name in ("flight", "hotel", "car", "tickets"):
            await ctx.step.run(name, str)
            ctx.step.compensate(name, undo, name)
        await ctx.step.sleep("until then", "1d")

    async with running_system(trip) as system:
        deadly.system = system
        run = await system.client.start(trip)
        await asyncio.sleep(5)
        assert await run.cancel("changed my mind", compensate=True)
        view, steps = await run.wait("3h"), await run.steps()
        undos = {step.name: step for step in steps if step.kind == "compensate"}
    assert view.error is not None
    assert (view.status, view.error.message, view.compensation) == ("cancelled", "changed my mind", "failed")
    assert Counter(undone) == {"tickets": 1, "car": 1 + MOST, "hotel": 1 + MOST, "flight": 1}
    assert list(undos) == ["compensate:tickets", "compensate:car", "compensate:hotel", "compensate:flight"]
    assert [step.error and step.error.type for step in undos.values()] == [None, "WorkerLost", "WorkerLost", None]


async def test_a_run_whose_handler_costs_workers_also_while_it_is_undone_ends() -> None:
    deadly = Deadly()

    @ironflow.function(id="trip")
    async def trip(ctx: Context) -> None:
        await ctx.step.run("flight", str)
        ctx.step.compensate("flight", str)
        await deadly.work()

    async with running_system(trip) as system:
        deadly.system = system
        run = await system.client.start(trip)
        assert (await reason(run)).type == "WorkerLost"
        assert (await run.state()).compensation == "failed"


@pytest.mark.parametrize("trouble", ["no worker has its function", "no worker can read its task"])
async def test_a_run_whose_undos_nobody_can_execute_ends_as_it_was_to_end(trouble: str) -> None:
    @ironflow.function(id="trip")
    async def trip(ctx: Context) -> None:
        await ctx.step.run("flight", str)
        ctx.step.compensate("flight", str)
        await ctx.step.sleep("until then", "1d")

    async with running_system(trip, healthy) as system:
        run = await system.client.start(trip)
        await asyncio.sleep(5)
        (worker,) = system.workers
        await worker.stop()
        system.cut_off(worker)
        if trouble == "no worker can read its task":
            subject = system.names.task("default", run.id, 2)
            await system.broker.publish(Publication(subject=subject, payload=b'{"run": 5}'))
        assert await run.cancel("changed my mind", compensate=True)
        await system.add_worker(functions=("healthy",))
        view = await run.wait("3h")
    assert view.error is not None
    assert (view.status, view.error.message, view.compensation) == ("cancelled", "changed my mind", "failed")


async def test_a_function_that_no_worker_of_its_queue_has_fails_its_runs_after_enough_attempts() -> None:
    @ironflow.function(id="gone")
    async def gone(ctx: Context) -> None: ...

    async with running_system(gone, healthy) as system:
        (worker,) = system.workers
        await worker.stop()
        system.cut_off(worker)
        await system.add_worker(functions=("healthy",))
        run = await system.client.start(gone)
        assert await system.output(healthy) == "done"
        error = await reason(run)
        assert error.type == "FunctionNotFound"
        assert "none of the workers of queue 'default' that got it has the function 'gone'" in error.message
        assert await system.subjects("outcome", run) == ["outcome.0"]


async def test_a_task_that_no_worker_can_read_fails_its_run_after_enough_attempts() -> None:
    async with running_system(healthy, workers=0) as system:
        worker = await system.add_worker()
        await worker.stop()
        system.cut_off(worker)
        run = await system.client.start(healthy)
        await asyncio.sleep(1)
        await system.broker.purge(system.names.all_shards[0].tasks, ">")
        subject = system.names.task("default", run.id, 0)
        await system.broker.publish(Publication(subject=subject, payload=b'{"run": 5}'))
        await system.add_worker()
        other = await system.client.start(healthy)
        assert await other.result("1m") == "done"
        error = await reason(run)
        assert error.type == "TaskUnreadable"
        assert "handed out 20 times" in error.message


async def test_an_event_that_cannot_be_read_shows_as_a_failed_run_and_others_go_on() -> None:
    async with running_system(healthy) as system:
        subject = system.names.event("order.placed")
        await system.broker.publish(Publication(subject=subject, payload=b"{nonsense"))
        assert await system.output(healthy) == "done"
        (failed,) = await failures(system)
        assert failed.error is not None
        assert failed.error.type == "EventUnreadable"
        assert failed.event.name == "order.placed"
        assert (await system.client.run(failed.id).state()).id == failed.id
        assert await system.client.run(failed.id).steps() == []


def invoked(event: EventRecord) -> EventRecord:
    return replace(event, name="ironflow.invoked")


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        (EventRecord(id="x" * (2**20 - 120), name="order.placed", time=""), "its id is 1,048,456 bytes"),
        (EventRecord(id="e", name="x" * 1_000_000, time=""), "its name is 1,000,000 bytes"),
        (invoked(EventRecord(id="e", name="", time="", target="\x01" * 150_000)), "its target is 150,000 bytes"),
        (EventRecord(id="e", name="order.placed", time="", depth=10**30), "not a EventRecord: Expected `int`"),
    ],
    ids=["id", "name", "target", "depth"],
)
async def test_an_event_of_which_a_run_cannot_keep_what_it_must_shows_as_a_failed_run_and_is_done_with(
    event: EventRecord, complaint: str
) -> None:
    async with running_system(healthy) as system:
        subject = system.names.event("ironflow.invoked" if event.target else "order.placed")
        await system.broker.publish(Publication(subject=subject, payload=encode_record(event)))
        assert await system.output(healthy) == "done"
        (failed,) = await failures(system)
        assert failed.error is not None
        assert failed.error.type == "EventUnreadable"
        assert complaint in failed.error.message
        await eventually(lambda: all_events_are_done_with(system))


@pytest.mark.parametrize("target", ["x" * 4_096, "\x01" * 4_096, "ü" * 2_048])
async def test_a_function_that_nobody_has_shows_as_such_whatever_its_id(target: str) -> None:
    async with running_system(healthy) as system:
        event = invoked(EventRecord(id="e", name="", time="", target=target))
        await system.broker.publish(
            Publication(subject=system.names.event("ironflow.invoked"), payload=encode_record(event))
        )
        await eventually(lambda: all_events_are_done_with(system))
        run = await system.client.run(run_id(target, "e")).state()
        assert (run.status, run.function) == ("failed", target)
        assert run.error is not None
        assert run.error.type == "FunctionNotFound"
        assert f"({len(target):,} characters) is registered" in run.error.message
        assert len(run.error.message) < 400


async def test_an_event_whose_run_the_server_does_not_take_holds_no_other_event_up() -> None:
    async with running_system(healthy) as system:
        refused = system.names.run_key(run_id("healthy", start_event_id("healthy", "refused")))

        def strike(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            taken = (stage, verb, subject) != ("before", "publish", refused)
            return None if taken else MessageTooLarge("it is too large")

        system.server.interceptor = strike
        with capture_logs() as logs:
            run = await system.client.start(healthy, id="refused")
            assert await system.output(healthy) == "done"
            await eventually(lambda: all_events_are_done_with(system))
        told = [entry for entry in logs if entry["event"] == "a run cannot be started, and its event is done with"]
        assert [entry["run"] for entry in told] == [run.id]


async def all_events_are_done_with(system: System) -> None:
    state = await system.broker.consumer_state(system.names.events, ENGINE_CONSUMER)
    assert state.ack_floor == (await system.broker.stream_state(system.names.events)).last_sequence
