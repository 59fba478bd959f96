"""Tasks of dead workers go to others long before their leases end, on a virtual clock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.local import LocalServer, Stage
from ironflow.broker.protocol import BrokerError, Unavailable
from ironflow_worker.worker import Worker
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

LEASE_SECONDS = 10.0


class Bodies:
    """A function whose only step takes a while, and when its body began and where it ended."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.begun: list[float] = []
        self.ended: list[float] = []
        self._begins = asyncio.Condition()
        self._seconds = seconds

        @ironflow.function(id="f")
        async def f(ctx: Context) -> str:
            return await ctx.step.run("work", self.work)

        self.function = f

    async def work(self) -> str:
        clock = asyncio.get_running_loop()
        async with self._begins:
            self.begun.append(clock.time())
            self._begins.notify_all()
        await asyncio.sleep(self._seconds)
        self.ended.append(clock.time())
        return "done"

    async def until_begun(self, times: int) -> None:
        """Return once so many bodies have begun."""
        async with self._begins:
            await self._begins.wait_for(lambda: len(self.begun) >= times)


async def started(system: System, bodies: Bodies, runs: int = 1) -> list[Any]:
    """Start runs and return once the body of each has begun."""
    handles = [await system.client.start(bodies.function) for _ in range(runs)]
    await bodies.until_begun(runs)
    return handles


def only(system: System) -> Worker:
    (worker,) = system.workers
    return worker


async def test_a_task_goes_to_another_worker_within_half_a_second_of_its_workers_death() -> None:
    bodies = Bodies()
    async with running_system(bodies.function) as system:
        (run,) = await started(system, bodies)
        victim = only(system)
        await system.add_worker()
        died = asyncio.get_running_loop().time()
        await system.kill(victim)
        assert await run.result("1m") == "done"
        assert len(bodies.begun) == 2
        assert bodies.begun[1] - died <= 0.5


async def test_all_tasks_of_a_dead_worker_are_handed_on_and_no_others() -> None:
    bodies = Bodies()
    async with running_system(bodies.function, workers=2, concurrency=10) as system:
        runs = await started(system, bodies, 20)
        await system.kill(next(iter(system.workers)))
        await system.add_worker()
        assert [await run.result("1m") for run in runs] == ["done"] * 20
        assert len(bodies.begun) == 30


async def test_a_worker_that_leaves_in_good_order_is_not_taken_for_dead() -> None:
    bodies = Bodies()
    async with running_system(bodies.function) as system:
        (engine,) = system.engines
        (run,) = await started(system, bodies)
        leaving = only(system)
        await leaving.drain()
        await system.workers.pop(leaving).close()
        assert await run.result("1m") == "done"
        await asyncio.sleep(5.0)  # time in which nothing must happen
        assert engine.metrics.registry.get_sample_value("ironflow_engine_lost_workers_total") == 0


async def test_two_engines_hand_a_task_on_once() -> None:
    bodies = Bodies()
    async with running_system(bodies.function, engines=2) as system:
        (run,) = await started(system, bodies)
        victim = only(system)
        await system.add_worker()
        await system.kill(victim)
        assert await run.result("1m") == "done"
        assert len(bodies.begun) == 2


async def test_an_engine_that_comes_later_asks_what_workers_have() -> None:
    bodies = Bodies(seconds=20)
    async with running_system(bodies.function) as system:
        (run,) = await started(system, bodies)
        victim = only(system)
        for engine in tuple(system.engines):
            await system.kill(engine)
        await system.add_engine()
        await asyncio.sleep(4)  # the dead engine's duty ends
        await system.add_worker()
        died = asyncio.get_running_loop().time()
        await system.kill(victim)
        assert await run.result("1m") == "done"
        assert bodies.begun[1] - died <= 1.5


async def test_a_restart_of_the_server_makes_no_worker_dead() -> None:
    bodies = Bodies(seconds=8)
    server = LocalServer()
    async with running_system(bodies.function, server=server) as system:
        (run,) = await started(system, bodies)
        for _ in range(5):
            await asyncio.sleep(0.35)
            server.restart(keep_delivery_counts=True)
        assert await run.result("1m") == "done"
        # What the server had given out comes back after its restart; no engine hands anything on besides.
        assert len(bodies.begun) <= 1 + 5


async def test_a_task_that_was_handed_back_is_not_taken_from_who_has_it_then() -> None:
    bodies = Bodies()
    async with running_system(bodies.function) as system:
        (run,) = await started(system, bodies)
        first = only(system)
        await system.add_worker()
        await first.stop()  # hands its task back, and goes
        system.cut_off(first)
        assert await run.result("1m") == "done"
        assert len(bodies.begun) == 2
        assert len(bodies.ended) == 1


async def test_without_an_engine_a_task_waits_for_the_end_of_its_lease() -> None:
    bodies = Bodies()
    async with running_system(bodies.function) as system:
        (run,) = await started(system, bodies)
        victim = only(system)
        await system.add_worker()
        (engine,) = system.engines
        await system.kill(engine)
        died = asyncio.get_running_loop().time()
        await system.kill(victim)
        await bodies.until_begun(2)
        assert LEASE_SECONDS * 2 / 3 - 0.5 <= bodies.begun[1] - died <= LEASE_SECONDS + 1
        await system.add_engine()
        assert await run.result("1m") == "done"


async def test_nobody_is_looked_at_while_nothing_is_at_work() -> None:
    bodies = Bodies()
    async with running_system(bodies.function) as system:
        asked: list[str] = []

        def listen(_stage: str, verb: str, subject: str) -> None:
            if verb == "request" and ".worker." in subject:
                asked.append(subject)

        system.server.interceptor = listen
        await asyncio.sleep(60)
        assert not asked
        (run,) = await started(system, bodies)
        await run.result("1m")
        assert asked
        await asyncio.sleep(1)
        asked.clear()
        await asyncio.sleep(60)
        assert not asked


class Lost:
    """Has chosen hints of workers about their tasks get lost, by their count from 1, and notes who is pinged."""

    def __init__(self, system: System, *hints: int) -> None:
        self.pinged: list[str] = []
        self._lost = hints
        self._hints = 0
        system.server.interceptor = self

    def __call__(self, stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if stage == "before" and verb == "notify" and ".claims." in subject:
            self._hints += 1
            return Unavailable("lost") if self._hints in self._lost else None
        if stage == "before" and verb == "request" and ".worker." in subject:
            self.pinged.append(subject)
        return None


@pytest.mark.parametrize("engines", [1, 2])
async def test_the_end_of_a_task_that_no_engine_heard_of_is_asked_for(engines: int) -> None:
    bodies = Bodies()
    async with running_system(bodies.function, engines=engines) as system:
        lost = Lost(system, 2)
        (run,) = await started(system, bodies)
        await run.result("1m")
        assert lost.pinged
        await asyncio.sleep(3 * LEASE_SECONDS)
        lost.pinged.clear()
        await asyncio.sleep(600)
        assert not lost.pinged


async def test_an_engine_that_was_cut_off_asks_what_workers_have_taken_meanwhile() -> None:
    bodies = Bodies(seconds=60)
    async with running_system(bodies.function) as system:
        Lost(system, 1)
        (run,) = await started(system, bodies)
        (connection,) = system.engines.values()
        connection.reconnected()
        await asyncio.sleep(2 * LEASE_SECONDS)
        victim = only(system)
        await system.add_worker()
        died = asyncio.get_running_loop().time()
        await system.kill(victim)
        assert await run.result("5m") == "done"
        assert bodies.begun[1] - died <= 1.5


async def test_an_engine_that_was_cut_off_forgets_what_it_knew() -> None:
    bodies = Bodies()
    async with running_system(bodies.function) as system:
        lost = Lost(system, 2)
        (run,) = await started(system, bodies)
        await run.result("1m")
        (connection,) = system.engines.values()
        connection.reconnected()
        await asyncio.sleep(1)
        lost.pinged.clear()
        await asyncio.sleep(LEASE_SECONDS / 2)
        assert not lost.pinged


async def test_a_worker_that_is_too_busy_to_say_what_it_has_is_looked_after_all_the_same() -> None:
    bodies = Bodies(seconds=60)
    async with running_system(bodies.function) as system:
        (run,) = await started(system, bodies)
        Lost(system, *range(1, 100))
        await asyncio.sleep(5 * LEASE_SECONDS)
        victim = only(system)
        await system.add_worker()
        died = asyncio.get_running_loop().time()
        await system.kill(victim)
        assert await run.result("5m") == "done"
        assert bodies.begun[1] - died <= 0.5
