"""How a run is unwound, that is, how what it did is undone before it ends: pure.

An outcome "compensating" fixes how the run will end, and why. From then on the run has passes of another mode,
which undo; it stays "compensating" while they run and back off, until one of them records the end. Nothing else
that can happen to a run touches it any more: no event, no time-out, no cancel.
"""

from __future__ import annotations

from msgspec.structs import replace

from ironflow.records import TERMINAL, RunState, RunStatus
from ironflow_engine import children, epochs, event_waits
from ironflow_engine.facts import Command, Decision, Dispatch, OutcomeRecorded, StopRun, TryRecorded, WaitRecorded


def begin(state: RunState, fact: OutcomeRecorded) -> Decision:
    """Return what becomes of a run with a pass that ended in "compensating": the next pass undoes."""
    outcome = fact.record
    unwinding = replace(
        state,
        status="compensating",
        ending=outcome.ending,
        compensation="running",
        error=outcome.error,
        number=outcome.number + 1,
        live=True,
        due_ms=0,
        dispatched_for=fact.sequence,
        told="",
        hinted=(),
        # The pass must see that outcome: it says how the run ends.
        woken_by=max(state.woken_by, fact.sequence),
    )
    return Decision(unwinding, _commands(unwinding, fact, again=False))


def begin_again(state: RunState, fact: OutcomeRecorded) -> tuple[Command, ...]:
    """Return the commands of an outcome "compensating" that was folded before."""
    return _commands(state, fact, again=True) if state.live and state.dispatched_for == fact.sequence else ()


def status_while(state: RunState, otherwise: RunStatus) -> RunStatus:
    """Return the status of a run that goes on: what it would be otherwise, unless it is being unwound."""
    return otherwise if state.ending is None else "compensating"


def is_of_no_use(state: RunState, fact: WaitRecorded | TryRecorded) -> bool:
    """Tell whether nothing waits for the end of what a worker has recorded.

    While a run is unwound that is all but the back-offs of its undos; the rest comes from passes before.
    """
    if state.status in TERMINAL:
        return True
    return state.ending is not None and fact.record.kind != "compensate"


def stop(state: RunState, number: int | None = None, *, timers: bool = True) -> tuple[StopRun]:
    """Return what takes back the task and the timers of a run: nobody is left to wait for them.

    Args:
        state: the run.
        number: the pass that was ended; the newest one by default.
        timers: whether they go too; a run that is unwound has timers of its undos.

    """
    ended = state.number if number is None else number
    return (StopRun(run=state.id, queue=state.queue, number=ended, epoch=epochs.current(state), timers=timers),)


def _commands(state: RunState, fact: OutcomeRecorded, *, again: bool) -> tuple[Command, ...]:
    outcome = fact.record
    return (
        Dispatch(state=state, again=again),
        *(stop(state, outcome.number, timers=False) if outcome.imposed else ()),
        *event_waits.leave(state),
        *children.leave(state),
    )
