"""A saga of five steps, each with an undo; any step and any undo can be made to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import ironflow
from ironflow import Context, NonRetryableError, Retry
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, Unavailable
from ironflow.function import forget_functions
from ironflow.messages import RunView, StepView
from tests.support.inprocess import System

STEPS = range(1, 6)


class Saga:
    """One saga.

    Args:
        failing_step: the number of the step that fails.
        failing_undo: the number of the step whose undo fails; None where none does.

    Attributes:
        done: the steps that were done, by number.
        undone: the undos that were run, by number.
        undo_seconds: how long each takes.

    """

    def __init__(self, failing_step: int, failing_undo: int | None = None) -> None:
        self.failing_step = failing_step
        self.failing_undo = failing_undo
        self.done: list[int] = []
        self.undone: list[int] = []
        self.undo_seconds = 0.0
        self.function = ironflow.function(id="saga", retry=Retry(max_attempts=2, initial_delay="5s", jitter=0))(
            self._handle
        )

    def expected_undos(self) -> list[int]:
        """Return the undos that are to run: of the steps before the one that fails, the newest first."""
        order = [*reversed(range(1, self.failing_step))]
        return [number for number in order for _ in range(2 if number == self.failing_undo else 1)]

    def forget(self) -> None:
        """Let the next saga have its name."""
        forget_functions()

    async def _handle(self, ctx: Context) -> None:
        for number in STEPS:
            await ctx.step.run(f"step-{number}", self._do, number)
            ctx.step.compensate(f"step-{number}", self._undo, number)

    async def _do(self, number: int) -> int:
        if number == self.failing_step:
            msg = f"step {number} fails"
            raise NonRetryableError(msg)
        self.done.append(number)
        return number

    async def _undo(self, number: int) -> int:
        self.undone.append(number)
        await asyncio.sleep(self.undo_seconds)
        if number == self.failing_undo:
            msg = f"undo {number} fails"
            raise ConnectionError(msg)
        return number


def check_unwound(saga: Saga, view: RunView, steps: Sequence[StepView]) -> None:
    """Check that a saga was undone in order, and that it says what failed."""
    undoable = [*reversed(range(1, saga.failing_step))]
    failed = saga.failing_undo if saga.failing_undo in undoable else None
    assert view.status == "failed"
    assert view.error is not None
    assert view.error.step == f"step-{saga.failing_step}"
    assert view.compensation == (None if not undoable else "failed" if failed else "completed")
    assert [(step.name, step.status) for step in steps if step.kind == "compensate"] == [
        (f"compensate:step-{number}", "failed" if number == failed else "completed") for number in undoable
    ]
    assert {step.name: step.status for step in steps if step.kind == "run"} == {
        **{f"step-{number}": "completed" for number in undoable},
        f"step-{saga.failing_step}": "failed",
    }


class Killer:
    """Kills the oldest worker at a write, once, and starts another.

    Args:
        system: whose worker it is.
        what: how the subject of the write ends.
        stage: before the write is stored, or after.

    """

    def __init__(self, system: System, what: str, stage: Stage) -> None:
        self._system = system
        self._what = what
        self._stage = stage
        self.killed = False

    def __call__(self, stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if self.killed or (stage, verb) != (self._stage, "publish") or not subject.endswith(self._what):
            return None
        self.killed = True
        for worker in list(self._system.workers)[:1]:
            self._system.cut_off(worker)
            self._system.soon(self._system.kill(worker), self._system.add_worker())
        return Unavailable("killed")


def kill_worker_at(system: System, what: str, stage: Stage) -> Killer:
    """Return what kills a worker at the write of a subject that ends like this."""
    return Killer(system, what, stage)
