"""Sagas that are cancelled at any moment, and whose engine, worker or server breaks while they are undone."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import ironflow
from ironflow import Context, Function, NonRetryableError, Retry, Step
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, Unavailable
from ironflow.function import forget_functions
from ironflow.handles import RunHandle
from tests.integration.sagas import Saga, check_unwound
from tests.support.eventually import eventually
from tests.support.inprocess import System, is_of_duties, running_system

pytestmark = pytest.mark.virtual_time

PATIENCE = "3h"
POLICY = Retry(max_attempts=2, initial_delay="5s", jitter=0)


class Journey:
    """A run that comes through all states there are, and knows what it did.

    Args:
        plain: whether its bodies are plain functions in threads.

    """

    def __init__(self, *, plain: bool) -> None:
        self.undone: list[str] = []
        self._plain = plain
        self._failures: Counter[str] = Counter()
        self.function: Function[Any, Any] = ironflow.function(id="journey", retry=POLICY)(self._handle)

    async def _handle(self, ctx: Context) -> str:
        await self._step(ctx.step, "works")
        await ctx.step.sleep("sleeps", "10s")
        await self._step(ctx.step, "backs-off")
        await ctx.step.wait_for_event("waits", event="never", timeout="10s", on_timeout="none")

        async def branch(index: int, step: Step) -> None:
            await self._step(step, f"branch-{index}")
            await step.sleep("naps", 3 + index)
            await self._step(step, f"branch-{index}-again")

        await ctx.step.parallel("all", [lambda step, index=index: branch(index, step) for index in range(2)])  # type: ignore[misc]  # the index is bound
        return "arrived"

    async def _step(self, step: Step, name: str) -> None:
        await step.run(name, self._plain_body if self._plain else self._body, name)
        step.compensate(name, self._undo, name)

    def _begin(self, name: str) -> None:
        self._failures[name] += 1
        if name == "backs-off" and self._failures[name] == 1:
            raise ConnectionError

    async def _body(self, name: str) -> str:
        self._begin(name)
        await asyncio.sleep(3)
        return name

    def _plain_body(self, name: str) -> str:
        self._begin(name)
        time.sleep(0.002)
        return name

    async def _undo(self, name: str) -> None:
        self.undone.append(name)
        await asyncio.sleep(1)


async def cancelled_at(seconds: float, *, plain: bool) -> str:
    """Cancel a journey at a moment of it, check that all it did is undone, and return how it ended."""
    journey = Journey(plain=plain)
    async with running_system(journey.function) as system:
        run = await system.client.start(journey.function)
        await asyncio.sleep(seconds)
        recorded = await run.cancel("changed my mind", compensate=True)
        view, steps = await run.wait(PATIENCE), await run.steps()
        done = [step.name for step in steps if step.kind == "run" and step.status == "completed"]
        if not recorded:
            assert (view.status, view.compensation, journey.undone) == ("completed", None, [])
            return "completed"
        assert view.status == "cancelled"
        assert view.error is not None
        assert view.error.message == "changed my mind"
        assert journey.undone == [*reversed(done)]
        assert view.compensation == ("completed" if done else None)
        assert [step.name for step in steps if step.kind == "compensate"] == [
            f"compensate:{name}" for name in journey.undone
        ]
        assert await pending(system, run) == []
        await asyncio.sleep(300)  # longer than anything of it could take: leases, sleeps, sweeps
        assert await run.steps() == steps
    forget_functions()
    return f"undid {len(done)}"


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_a_run_may_be_cancelled_at_any_moment_and_undoes_what_it_did(plain: bool) -> None:  # noqa: FBT001
    chance = random.Random(1)
    ends = Counter([await cancelled_at(chance.uniform(0, 45), plain=plain) for _ in range(60)])
    assert ends["completed"]
    assert sum(count > 0 for end, count in ends.items() if end.startswith("undid")) >= 4


async def pending(system: System, run: RunHandle[Any]) -> list[str]:
    """Return the subjects of a run's tasks and timers."""
    found: list[str] = []
    for stream, wanted in (
        (system.names.all_shards[0].tasks, system.names.tasks_of_run("*", run.id)),
        (system.names.all_shards[0].timers, system.names.timers_of_run(run.id)),
    ):
        async for page in system.broker.read(stream, wanted):
            found += [message.subject for message in page]
    return found


def slow_undo(**options: Any) -> Function[Any, Any]:
    @ironflow.function(id="f", **{"retry": POLICY, **options})
    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", asyncio.sleep, 60)
        raise NonRetryableError

    return f


async def until(run: RunHandle[Any], status: str) -> None:
    async def reached() -> None:
        assert (await run.state()).status == status

    await eventually(reached, within=60)


@pytest.mark.parametrize("compensate", [False, True])
async def test_a_run_that_compensates_is_not_cancelled(compensate: bool) -> None:  # noqa: FBT001
    f = slow_undo()
    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(5)
        await until(run, "compensating")
        answer = await system.client.engine.cancel(run.id, compensate=compensate)
        assert (answer.recorded, answer.status) == (False, "compensating")
        assert (await run.wait(PATIENCE)).status == "failed"
        assert await system.subjects("outcome", run) == ["outcome.0", "outcome.1"]


async def test_a_cancel_without_compensation_undoes_nothing() -> None:
    journey = Journey(plain=False)
    async with running_system(journey.function) as system:
        run = await system.client.start(journey.function)
        await asyncio.sleep(8)
        assert await run.cancel()
        view = await run.wait(PATIENCE)
        await asyncio.sleep(3600)
    assert (view.status, view.compensation, journey.undone) == ("cancelled", None, [])


async def test_a_queued_run_that_did_nothing_is_cancelled_at_once() -> None:
    journey = Journey(plain=False)
    async with running_system(journey.function) as system:
        await system.kill(next(iter(system.workers)))
        run = await system.client.start(journey.function)
        await asyncio.sleep(1)
        answer = await system.client.engine.cancel(run.id, compensate=True)
        assert (answer.recorded, answer.status) == (True, "cancelled")


class EngineKiller:
    """Kills the engine at one of its writes, and starts another one."""

    def __init__(self, system: System, number: int, stage: Stage) -> None:
        self._system = system
        self._left = number
        self._stage = stage
        self.killed = False

    def __call__(self, stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if stage != self._stage or verb not in ("publish", "purge") or is_of_duties(subject):
            return None
        engines_own = any(part in subject for part in ("$KV.", ".tasks.", ".timers.", ".due.", ".input"))
        if verb == "publish" and not engines_own and not (".outcome." in subject and self._imposed(subject)):
            return None
        self._left -= 1
        if self._left >= 0 or self.killed:
            return None
        self.killed = True
        for engine in list(self._system.engines):
            self._system.cut_off(engine)
            self._system.soon(engine.stop(), self._system.add_engine())
        return Unavailable("killed")

    def _imposed(self, subject: str) -> bool:
        return subject.endswith(".outcome.1")


def cancelled(ctx: Context) -> Any:
    return ctx.step.sleep("nap", "1h")


def timed_out(ctx: Context) -> Any:
    return ctx.step.wait_for_event("event", event="never", timeout="1m")


async def failing(ctx: Context) -> None:
    raise NonRetryableError


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("ends", [failing, timed_out, cancelled])
async def test_an_engine_may_die_at_each_write_of_the_unwinding(ends: Callable[[Context], Any], stage: Stage) -> None:
    for number in range(60):
        told: list[str] = []

        @ironflow.function(id="f", retry=POLICY, timeout="30m")
        async def f(ctx: Context) -> None:
            for name in "ab":
                await ctx.step.run(name, str)
                ctx.step.compensate(name, undo, name)
            await ends(ctx)

        async def undo(name: str) -> None:
            told.append(name)  # noqa: B023 - it does not outlive the round
            if told == ["b"]:  # noqa: B023 - likewise
                raise ConnectionError

        async with running_system(f) as system:
            system.server.interceptor = killer = EngineKiller(system, number, stage)
            run = await system.client.start(f)
            view = await run.wait(PATIENCE)
            assert (view.status, view.compensation) == ("failed", "completed"), number
            assert told == ["b", "b", "a"], number
        forget_functions()
        if not killer.killed:
            assert number >= 8
            return
    raise AssertionError("it writes without end")


async def test_two_workers_may_execute_one_pass_that_undoes() -> None:
    saga = Saga(5, failing_undo=3)
    saga.undo_seconds = 25.0
    async with running_system(saga.function, workers=2) as system:
        # Nobody keeps a lease, and so the task is handed out again while it is executed.
        system.server.interceptor = lambda _, verb, __: Unavailable() if verb == "renew" else None
        run = await system.client.start(saga.function)
        check_unwound(saga, await run.wait(PATIENCE), await run.steps())
    assert set(saga.undone) == {1, 2, 3, 4}
    assert len(saga.undone) > 5


@pytest.mark.parametrize("comes", ["before the fence", "after the fence"])
async def test_the_result_of_a_worker_that_was_cut_off_is_undone_or_refused(comes: str) -> None:
    told: list[str] = []
    begun = asyncio.Event()
    late = asyncio.Event()

    async def slow() -> str:
        begun.set()
        return "done"

    @ironflow.function(id="f", retry=POLICY)
    async def f(ctx: Context) -> None:
        await ctx.step.run("a", str)
        ctx.step.compensate("a", told.append, "a")
        await ctx.step.run("b", slow)
        ctx.step.compensate("b", told.append, "b")
        told.append("user code behind b")
        await ctx.step.sleep("c", "1h")

    async with running_system(f) as system:
        (worker,) = system.workers
        executor = worker._executor  # noqa: SLF001 - there is no other way to hold a record back
        append, held = executor._journal.append, "step.b"  # noqa: SLF001 - likewise

        async def slowly(subject: str, record: Any) -> Any:
            # The same worker may get the pass that undoes as well.
            if subject.endswith(held) and record.status == "completed":
                await late.wait()
            return await append(subject, record)

        executor._journal.append = slowly  # type: ignore[method-assign]  # noqa: SLF001 - likewise
        worker._cancellations._passes = Deaf()  # noqa: SLF001 - it hears no hints
        run = await system.client.start(f)
        await begun.wait()
        if comes == "before the fence":
            # It is stored before the other worker comes to it, though nobody has told the handler.
            assert await run.cancel(compensate=True)
            late.set()
            await asyncio.sleep(1)
            await system.add_worker()
        else:
            await system.add_worker()
            assert await run.cancel(compensate=True)
            await run.wait(PATIENCE)
            late.set()
        view, steps = await run.wait(PATIENCE), await run.steps()
        await asyncio.sleep(60)
    undone = [name for name in told if len(name) == 1]
    recorded = [step.name for step in steps if step.kind == "run"]
    assert (view.status, view.compensation) == ("cancelled", "completed")
    assert undone == [*reversed(recorded)]
    if comes == "after the fence":
        assert recorded == ["a"]
        assert "user code behind b" not in told


class Deaf(set[Any]):
    """A set of running passes in which none is found."""

    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize("stage", ["before", "after"])
async def test_a_worker_may_die_at_each_of_its_writes(stage: Stage) -> None:
    for number in range(60):
        journey = Journey(plain=False)
        async with running_system(journey.function) as system:
            system.server.interceptor = killer = WorkerKiller(system, number, stage)
            run = await system.client.start(journey.function)
            await asyncio.sleep(31)
            # The record of the cancel is the engine's.
            system.server.interceptor = None
            assert await run.cancel(compensate=True)
            system.server.interceptor = killer
            view, steps = await run.wait(PATIENCE), await run.steps()
        done = [step.name for step in steps if step.kind == "run" and step.status == "completed"]
        assert (view.status, view.compensation) == ("cancelled", "completed"), number
        assert list(dict.fromkeys(journey.undone)) == [*reversed(done)], number
        forget_functions()
        if not killer.killed:
            assert number >= 8
            return
    raise AssertionError("it writes without end")


class WorkerKiller:
    """Kills the worker at one of its writes to the journal, and starts another one."""

    def __init__(self, system: System, number: int, stage: Stage) -> None:
        self._system = system
        self._left = number
        self._stage = stage
        self.killed = False

    def __call__(self, stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if (stage, verb) != (self._stage, "publish") or ".journal." not in subject or ".due." in subject:
            return None
        self._left -= 1
        if self._left >= 0 or self.killed:
            return None
        self.killed = True
        for worker in list(self._system.workers):
            self._system.cut_off(worker)
            self._system.soon(self._system.kill(worker), self._system.add_worker())
        return Unavailable("killed")
