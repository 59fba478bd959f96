"""Row 3: a crash before and after every durable write of engine and worker, over small flows.

What is checked is what the checker checks everywhere, and how much longer a run takes than it takes unharmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, TypeAlias

import msgspec

from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError
from ironflow.errors import EngineUnavailableError, RunNotFoundError
from ironflow.names import COMPENSATE_PREFIX, step_token
from tests.chaos.checker import Violation, check
from tests.chaos.history import History, Submitted
from tests.chaos.in_process import LONGEST_SECONDS, LOOK_SECONDS, simulate
from tests.chaos.programs import Child, Map, Order, Parallel, Program, Publish, Saga, Sleep, Wait, Work
from tests.support.inprocess import System, is_of_duties

Victim = Literal["worker", "engine", "one of two engines"]
VICTIMS: tuple[Victim, ...] = ("worker", "engine", "one of two engines")
STAGES: tuple[Stage, ...] = ("before", "after")
LEASE_SECONDS = 1.0
"""That of the other rows. A worker that dies before it has announced a task leaves it to its lease."""
CANCEL = "cancel"
CANCEL_AND_UNDO = "cancel with compensation"
CANCELS = (CANCEL, CANCEL_AND_UNDO)

FLOWS: dict[str, Program] = {
    "linear": (Work("a"), Work("b", failures=1), Work("c")),
    "sleep": (Work("a"), Sleep("nap", 20_000), Work("b")),
    "wait": (Work("a"), Wait("asked"), Work("b")),
    "wait that times out": (Work("a"), Wait("unanswered", answered=False, timeout_milliseconds=20_000), Work("b")),
    "wait that is answered at once": (Publish("tell", answers="told"), Wait("told", by_harness=False), Work("b")),
    "waits, then undoes": (
        Wait("asked"),
        Wait("asked again"),
        Saga("trip", (Work("a"), Work("b", fatal=True)), undo_failures=1),
    ),
    "parallel": (
        Parallel("all", ((Work("a"),), (Sleep("nap", 5_000), Work("b")), (Work("c", failures=1),))),
        Work("d"),
    ),
    "map": (Map("items", 3, (Work("item"),)), Work("after")),
    CANCEL: (Work("a"), Sleep("nap", 60_000), Work("b")),
    CANCEL_AND_UNDO: (Saga("trip", (Work("a"), Work("b"))), Sleep("nap", 60_000), Work("c")),
    "saga": (Saga("trip", (Work("a"), Work("b"), Work("c", fatal=True)), undo_failures=1),),
    "child": (Work("a"), Child("small", (Work("b"), Sleep("nap", 1_000))), Work("c")),
    "child that fails": (Child("small", (Work("b", fatal=True),), caught=True), Work("c")),
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

    def __call__(self, stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if verb not in ("publish", "purge") or is_of_duties(subject):
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
    crashes: list[_Crash] = []

    def trouble(system: System) -> _Crash:
        crashes.append(_Crash(system, at))
        return crashes[0]

    engines = 2 if at.victim == "one of two engines" else 1
    order = Order(1, FLOWS[flow], answer_after=3.0)
    meanwhile = partial(_cancel, compensate=flow == CANCEL_AND_UNDO) if flow in CANCELS else None
    simulated = await simulate([order], trouble, engines=engines, lease=LEASE_SECONDS, meanwhile=meanwhile)
    violations = _check_cancelled(simulated.history) if flow in CANCELS else check(simulated.history)
    return CrashedRun(crashes[0].writes, simulated.seconds, tuple(violations))


async def _cancel(system: System, submitted: Sequence[Submitted], *, compensate: bool) -> None:
    """Cancel the run, however long it takes until an engine knows it and answers."""
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            try:
                await system.client.run(submitted[0].run).cancel("enough", compensate=compensate)
            except (RunNotFoundError, EngineUnavailableError):
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return


def _check_cancelled(history: History) -> Iterator[Violation]:
    """Yield what is wrong with a run that was cancelled: all but what the model, which knows no cancel, expects."""
    for run, submitted in history.orders.items():
        ends = history.ends.get(run, [])
        if len(ends) != 1 or ends[0].record["status"] not in ("cancelled", "completed"):
            yield Violation("a cancelled run ends once", run, f"{[end.record['status'] for end in ends]}")
        if history.states[run].status != ends[0].record["status"]:
            yield Violation("a cancelled run ends once", run, f"its state is {history.states[run].status}")
        assert submitted.order is not None
        yield from _check_undone(history, run)
    for violation in check(history):
        if violation.claim not in (
            "every run ends once, as the model says",
            "every step has one result, as the model says",
        ):
            yield violation


def _check_undone(history: History, run: str) -> Iterator[Violation]:
    """Yield the steps with an undo that a cancel with compensation has left."""
    order, steps = history.orders[run].order, history.steps_by_run.get(run, {})
    if order is None or order.program != FLOWS[CANCEL_AND_UNDO] or history.states[run].status == "completed":
        return
    for token, step in steps.items():
        undo = step_token((), COMPENSATE_PREFIX + step.record["name"])
        done = step.record["kind"] == "run" and step.record.get("status", "completed") == "completed"
        if done and undo not in steps:
            yield Violation("what a cancelled run did is undone", f"{run} {token}", "it is not")


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
