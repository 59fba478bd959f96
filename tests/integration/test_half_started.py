"""What fails to start, or is interrupted while it leaves, leaves nothing going on."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.local import LocalBroker
from ironflow.broker.protocol import Broker, Denied, Listener, Subscription
from ironflow.function import Function
from ironflow.messages import RunsOfEvent
from ironflow.names import Names
from ironflow_engine.engine import Engine
from ironflow_testing import Environment
from ironflow_worker.leases import InlineLeaseKeeper
from ironflow_worker.worker import Worker, WorkerSettings
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time


def idle(id: str = "idle", queue: str = "default") -> Function[Any, str]:
    @ironflow.function(id=id, queue=queue)
    async def handle(ctx: Context) -> str:
        return "done"

    return handle


class MayNotListen:
    """Has a connection refuse one subject, as permissions that do not allow it do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broker: LocalBroker, refused: str) -> None:
        self._listen = broker.listen
        self._refused = refused
        monkeypatch.setattr(broker, "listen", self.listen)

    async def listen(self, subject: str, listener: Listener, group: str = "", *, confirm: bool = True) -> Subscription:
        if subject == self._refused:
            raise Denied(subject)
        return await self._listen(subject, listener, group, confirm=confirm)


def new_worker(system: System, broker: Broker) -> Worker:
    return Worker(
        broker,
        system.names,
        system.functions,
        WorkerSettings(queues=("default",)),
        lambda leases, be_seen: InlineLeaseKeeper(leases, broker, be_seen),
        now_ms=system.now_ms,
        monotonic=asyncio.get_running_loop().time,
    )


async def test_an_engine_that_may_not_hear_something_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(idle()) as system:
        broker = system.server.connect()
        MayNotListen(monkeypatch, broker, system.names.every_cancel)
        engine = Engine(broker, system.names, monotonic=asyncio.get_running_loop().time)
        before = asyncio.all_tasks()
        with pytest.raises(Denied):
            await engine.start()
        assert asyncio.all_tasks() == before
        await broker.close()


async def test_a_worker_that_may_not_hear_something_ends_what_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_system(idle()) as system:
        broker = system.server.connect()
        MayNotListen(monkeypatch, broker, system.names.worker_census)
        worker = new_worker(system, broker)
        before = asyncio.all_tasks()
        with pytest.raises(Denied):
            await worker.start()
        assert asyncio.all_tasks() == before
        await broker.close()


async def test_a_worker_whose_stop_was_interrupted_can_be_stopped_again() -> None:
    async with running_system(idle()) as system:
        broker = system.server.connect()
        before = asyncio.all_tasks()
        worker = new_worker(system, broker)
        await worker.start()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait([stopping])
        await worker.stop()
        assert asyncio.all_tasks() == before
        await broker.close()


async def test_an_engine_that_leaves_answers_at_once_who_waits_for_an_event() -> None:
    function = idle()
    async with running_system(function) as system:
        not_stored_yet = RunsOfEvent(id="e-1", name="order.placed", sequence=1_000, wait_ms=10_000)
        asking = asyncio.create_task(system.client.engine.runs_of_event(not_stored_yet))
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        (engine,) = system.engines
        await engine.stop()
        assert asyncio.get_running_loop().time() - began < 1
        assert not (await asking).matched


async def turns(task: asyncio.Task[object], most: int) -> None:
    """Let a task go on for so many turns of the event loop, or until it has ended."""
    for _ in range(most):
        if task.done():
            return
        await asyncio.sleep(0)


async def stay_in(environment: Environment) -> None:
    async with environment:
        await asyncio.Event().wait()


@pytest.mark.parametrize("begins", range(1, 50, 3))
async def test_an_environment_that_is_given_up_while_it_begins_leaves_nothing(begins: int) -> None:
    before = asyncio.all_tasks()
    running = asyncio.create_task(stay_in(Environment(idle())))
    await turns(running, begins)
    running.cancel()
    await asyncio.wait([running])
    await asyncio.sleep(0.01)  # what was cancelled ends
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("leaves", [1, 2, 3, 5, 10])
async def test_an_environment_whose_end_is_interrupted_leaves_nothing(leaves: int) -> None:
    before = asyncio.all_tasks()
    running = asyncio.create_task(stay_in(Environment(idle())))
    await asyncio.sleep(1)
    running.cancel()
    await turns(running, leaves)
    running.cancel()
    await asyncio.wait([running])
    await asyncio.sleep(0.01)  # what was cancelled ends
    assert asyncio.all_tasks() == before


async def test_what_an_environment_has_stored_goes_with_it_although_something_was_to_happen_in_a_year() -> None:
    @ironflow.function(id="rests")
    async def rests(ctx: Context) -> None:
        await ctx.step.sleep("long", "300d")

    async with Environment(rests) as environment:
        await environment.client.start(rests)
        await asyncio.sleep(1)
        (shard,) = Names("test").all_shards
        timers = weakref.ref(environment._server.stream(shard.timers))  # noqa: SLF001 - it has all that is to fire
    del environment
    await asyncio.sleep(60)  # what has a bound of its own is over
    gc.collect()
    assert timers() is None
