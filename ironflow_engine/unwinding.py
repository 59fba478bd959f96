"""How a run is unwound, that is, how what it did is undone before it ends: pure.

An outcome "compensating" fixes how the run will end, and why. From then on the run has passes of another mode,
which undo; it stays "compensating" while they run and back off, until one of them records the end. Nothing else
that can happen to a run touches it any more: no event, no time-out, no cancel.
"""

from __future__ import annotations

from msgspec.structs import replace

from ironflow.records import TERMINAL, RunState, RunStatus
from ironflow_engine import event_waits
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
        dispatched_for=fact.sequence,
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


def last_stop(state: RunState) -> tuple[Command, ...]:
    """Return what takes back the timers of a run that ends after it was unwound: nobody is left to wait for them."""
    return () if state.ending is None else (StopRun(run=state.id, queue=state.queue),)


def _commands(state: RunState, fact: OutcomeRecorded, *, again: bool) -> tuple[Command, ...]:
    outcome = fact.record
    stop = (StopRun(run=state.id, queue=state.queue, number=outcome.number),) if outcome.imposed else ()
    return (Dispatch(state=state, again=again), *stop, *event_waits.leave(state))
