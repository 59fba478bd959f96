"""Row 3: a crash before and after every durable write of engine and worker, over small flows.

In this process and on a virtual clock, where every write can be reached in no time. What is checked is what the
checker checks everywhere, and how much longer a run takes than it takes unharmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import msgspec

from ironflow import Function
from ironflow.broker.local import LocalServer, Stage
from ironflow.broker.protocol import BrokerError
from ironflow.errors import EngineUnavailableError, RunNotFoundError
from ironflow.function import forget_functions
from ironflow.names import run_id
from ironflow.records import TERMINAL
from tests.chaos.checker import Violation, check
from tests.chaos.collector import Collector
from tests.chaos.history import History, Submitted
from tests.chaos.programs import Map, Order, Parallel, Program, Publish, Sleep, Wait, Work, answer_key, harness_waits
from tests.chaos.witness import MemoryWitness
from tests.chaos.workflow import ANSWER, FUNCTION, START, program_function
from tests.support.inprocess import System, running_system

Victim = Literal["worker", "engine", "one of two engines"]
VICTIMS: tuple[Victim, ...] = ("worker", "engine", "one of two engines")
STAGES: tuple[Stage, ...] = ("before", "after")
EVENT_ID = "order-1"
LONGEST_SECONDS = 60 * 60.0
USED_UP_SECONDS = 60.0
LOOK_SECONDS = 0.05

FLOWS: dict[str, Program] = {
    "linear": (Work("a"), Work("b", failures=1), Work("c")),
    "sleep": (Work("a"), Sleep("nap", 20_000), Work("b")),
    "wait": (Work("a"), Wait("asked"), Work("b")),
    "wait that times out": (Work("a"), Wait("unanswered", answered=False, timeout_milliseconds=20_000), Work("b")),
    "wait that is answered at once": (Publish("tell", answers="told"), Wait("told", by_harness=False), Work("b")),
    "parallel": (
        Parallel("all", ((Work("a"),), (Sleep("nap", 5_000), Work("b")), (Work("c", failures=1),))),
        Work("d"),
    ),
    "map": (Map("items", 3, (Work("item"),)), Work("after")),
    "cancel": (Work("a"), Sleep("nap", 60_000), Work("b")),
    # A saga and a child run take their places here.
}


class CrashedRun(msgspec.Struct, frozen=True):
    """What came of one crash.

    Attributes:
        writes: how many writes there were, of all processes.
        seconds: from the event to the end of the run.

    """

    writes: int
    seconds: float
    violations: tuple[Violation, ...]


class CrashAt(msgspec.Struct, frozen=True):
    """Where a process dies. Number 0 is nowhere."""

    victim: Victim = "worker"
    number: int = 0
    stage: Stage = "before"


class _Crash:
    """Counts the writes of all processes, and lets one die at a chosen one."""

    def __init__(self, system: System, at: CrashAt) -> None:
        self.writes = 0
        self._system = system
        self._at = at
        self._done = at.number == 0

    def __call__(self, stage: Stage, verb: str, _: str) -> BrokerError | None:
        if verb not in ("publish", "purge"):
            return None
        self.writes += stage == "before"
        if not self._done and self.writes == self._at.number and stage == self._at.stage:
            self._done = True
            self._kill()
        return None

    def _kill(self) -> None:
        system = self._system
        if self._at.victim == "worker":
            for worker in list(system.workers)[:1]:
                system.cut_off(worker)
                system.soon(system.kill(worker), system.add_worker())
        else:
            for engine in list(system.engines)[:1]:
                system.cut_off(engine)
                system.soon(system.kill(engine), system.add_engine())


async def crash(flow: str, at: CrashAt) -> CrashedRun:
    """Run a flow with a crash, and check what came of it."""
    order = Order(1, FLOWS[flow], answer_after=3.0)
    server = LocalServer()
    witness = MemoryWitness(lambda: server.clock.now_us() / 1000)
    with _function(witness) as function:
        engines = 2 if at.victim == "one of two engines" else 1
        async with running_system(function, server=server, engines=engines) as system:
            began = asyncio.get_running_loop().time()
            server.interceptor = crashing = _Crash(system, at)
            submitted = await _submit(system, flow, order)
            ended = await _ended(system, submitted[0].run)
            await _used_up(system)
            server.interceptor = None
            history = await _history(system, submitted, witness)
    violations = [*check(history)] if flow != "cancel" else [*_check_cancelled(history)]
    return CrashedRun(crashing.writes, ended - began, tuple(violations))


async def _submit(system: System, flow: str, order: Order) -> list[Submitted]:
    client = system.client
    published = await client.publish_record(START, order, id=EVENT_ID)
    submitted = [Submitted(EVENT_ID, published.sequence, system.now_ms(), order, run_id(FUNCTION, EVENT_ID))]
    await asyncio.sleep(order.answer_after)
    for wait in harness_waits(order.program):
        key = answer_key(order.number, wait)
        answer = await client.publish_record(ANSWER, {"key": key}, id=f"answer-{key}")
        submitted.append(Submitted(f"answer-{key}", answer.sequence, system.now_ms()))
    if flow == "cancel":
        await _cancel(system, submitted[0].run)
    return submitted


async def _cancel(system: System, run: str) -> None:
    """Cancel a run, however long it takes until an engine knows it and answers."""
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            try:
                await system.client.run(run).cancel("enough")
            except (RunNotFoundError, EngineUnavailableError):
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return


async def _ended(system: System, run: str) -> float:
    """Wait for the end of a run; return when it was seen, or raise TimeoutError."""
    collector = Collector(system.broker, system.names)
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            state = (await collector.states()).get(run)
            if state is not None and state.status in TERMINAL:
                return asyncio.get_running_loop().time()
            await asyncio.sleep(LOOK_SECONDS)


async def _used_up(system: System) -> None:
    """Let what is under way come to its end; what is left then is found by the checker."""
    collector = Collector(system.broker, system.names)
    for _ in range(round(USED_UP_SECONDS)):
        if not any((await collector.leftovers()).values()):
            return
        await asyncio.sleep(1.0)


async def _history(system: System, submitted: list[Submitted], witness: MemoryWitness) -> History:
    collector = Collector(system.broker, system.names)
    return History(
        submitted=submitted,
        events=await collector.events(),
        journal=await collector.journal(),
        states=await collector.states(),
        lines=witness.lines,
        leftovers=await collector.leftovers(),
        timers=await collector.timers(),
    )


def _check_cancelled(history: History) -> Iterator[Violation]:
    """Yield what is wrong with a run that was cancelled: all but what the model, which knows no cancel, expects."""
    for run, submitted in history.orders.items():
        ends = history.ends.get(run, [])
        if len(ends) != 1 or ends[0].record["status"] not in ("cancelled", "completed"):
            yield Violation("a cancelled run ends once", run, f"{[end.record['status'] for end in ends]}")
        if history.states[run].status != ends[0].record["status"]:
            yield Violation("a cancelled run ends once", run, f"its state is {history.states[run].status}")
        assert submitted.order is not None
    for violation in check(history):
        if violation.claim not in (
            "every run ends once, as the model says",
            "every step has one result, as the model says",
        ):
            yield violation


@contextmanager
def _function(witness: MemoryWitness) -> Iterator[Function[Any, Any]]:
    forget_functions()
    try:
        yield program_function(witness)
    finally:
        forget_functions()


CrashFigure: TypeAlias = tuple[CrashAt, CrashedRun]


async def sweep(flow: str, victim: Victim, *, both_stages: bool = True) -> list[CrashFigure]:
    """Crash at every write of a flow; return what came of each crash, and first of a run that is left unharmed.

    Args:
        flow: of FLOWS.
        victim: who dies.
        both_stages: before each write and after it; else in turns.

    """
    unharmed = await crash(flow, CrashAt(victim))
    found: list[CrashFigure] = [(CrashAt(victim), unharmed)]
    for number in range(1, unharmed.writes + 1):
        for stage in STAGES if both_stages else (STAGES[number % 2],):
            at = CrashAt(victim, number, stage)
            found.append((at, await crash(flow, at)))
    return found
