"""A saga of five steps for the process tests. Each body and each undo writes a line to the file that WITNESS names."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec

import ironflow
from ironflow import Context, NonRetryableError, Retry


class Plan(msgspec.Struct):
    """What goes wrong.

    Attributes:
        failing_step: the number of the step that fails.
        failing_undo: the number of the step whose undo fails; 0 for none.
        killed_undo: the number of the step whose undo kills its worker, the first time; 0 for none.

    """

    failing_step: int
    failing_undo: int = 0
    killed_undo: int = 0


def witness(line: str) -> bool:
    """Append a line in one write; tell whether it was there before."""
    known = line in Path(os.environ["WITNESS"]).read_text().splitlines()
    handle = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, f"{line}\n".encode())
    finally:
        os.close(handle)
    return known


async def do(run: str, number: int, plan: Plan) -> int:
    """Do a step, or fail."""
    if number == plan.failing_step:
        msg = f"step {number} fails"
        raise NonRetryableError(msg)
    witness(f"{run} do {number}")
    return number


async def undo(run: str, number: int, plan: Plan) -> int:
    """Undo a step, or fail; or do it, and be killed before that is recorded."""
    known = witness(f"{run} undo {number}")
    if number == plan.killed_undo and not known:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == plan.failing_undo:
        msg = f"undo {number} fails"
        raise NonRetryableError(msg)
    return number


@ironflow.function(
    id="saga", queue="orders", triggers=["saga"], retry=Retry(max_attempts=2, initial_delay="100ms", jitter=0)
)
async def saga(ctx: Context[Plan]) -> None:
    """Do five steps, each with an undo."""
    for number in range(1, 6):
        await ctx.step.run(f"step-{number}", do, ctx.run.id, number, ctx.event.data)
        ctx.step.compensate(f"step-{number}", undo, ctx.run.id, number, ctx.event.data)
