"""What a fact makes of a run: one pure function.

Facts may come twice, late, and in any order, and several engines decide at once. Three rules make that safe:

* A fact that was folded before changes nothing more and yields its commands again, since the engine that
  folded it may have died before it carried them out.
* A terminal state never changes, but for a run that has failed and is retried.
* A run has at most one live pass. What a pass must still see is one number, the newest journal sequence that
  has woken the run (``woken_by``): a pass that loads the journal sees everything up to what it loads, so the
  next pass is due exactly when ``woken_by`` is beyond what the last one had seen.
"""

from __future__ import annotations

from msgspec.structs import replace

from ironflow.names import mark, readable
from ironflow.records import TERMINAL, ErrorRecord, OutcomeRecord, RunState
from ironflow_engine import children, epochs, event_waits, retries, sleeps, timers, unwinding
from ironflow_engine.facts import (
    AnnounceEnd,
    Command,
    Decision,
    Dispatch,
    EventArrived,
    Fact,
    OutcomeRecorded,
    RunFact,
    RunRetried,
    RunStarted,
    SleepNearsEnd,
    SleptOut,
    StateReviewed,
    StepFact,
    TryRecorded,
    WaitClosed,
    WaitRecorded,
    WaitTimedOut,
    Woken,
)

_LONGEST_ID = 128
"""No function has a longer one, so what is longer need not be shown whole."""


def decide(state: RunState | None, fact: Fact) -> Decision:
    """Return the run's state after *fact*, and what is to be done.

    Args:
        state: the run's state; None where there is no such run.
        fact: what happened.

    """
    if state is not None and state.purged:
        return Decision(state)
    if isinstance(fact, RunStarted):
        return _start(fact) if state is None else _start_again(state, fact)
    # Nobody but the run's own queue may report on it.
    if state is not None and state.queue != fact.queue:
        return Decision(state)
    match fact:
        case EventArrived():
            return event_waits.arrive(state, fact)
        case WaitTimedOut():
            return event_waits.time_out(state, fact)
        case _:
            # A run that is gone has nothing left to decide.
            return Decision(state) if state is None else _go_on(state, fact)


def _go_on(state: RunState, fact: RunFact) -> Decision:
    match fact:
        case StateReviewed():
            return _review(state, fact)
        case OutcomeRecorded():
            return _end_pass(state, fact)
        case RunRetried():
            return retries.reopen(state, fact)
        case Woken() | SleepNearsEnd() | SleptOut():
            return _of_wake(state, fact)
        case WaitRecorded() | WaitClosed() | TryRecorded():
            return _of_step(state, fact)


def _of_wake(state: RunState, fact: Woken | SleepNearsEnd | SleptOut) -> Decision:
    match fact:
        case Woken():
            return _wake(state, fact)
        case SleepNearsEnd():
            return sleeps.near_end(state, fact)
        case SleptOut():
            return _sleep_out(state, fact)


def _of_step(state: RunState, fact: StepFact) -> Decision:
    match fact:
        case WaitRecorded():
            return _wait(state, fact)
        case WaitClosed():
            return _close(state, fact)
        case TryRecorded():
            return _back_off(state, fact)


def _start(fact: RunStarted) -> Decision:
    function = fact.function
    if fact.refusal is not None:
        return _refuse_start(fact, fact.event.target if function is None else function.id, fact.refusal)
    if function is None:
        name = fact.event.target
        shown = repr(name) if len(name) <= _LONGEST_ID else readable(name)
        return _refuse_start(
            fact,
            name,
            ErrorRecord(type="FunctionNotFound", message=f"no function {shown} is registered; {fact.advice}"),
        )
    state = RunState(
        id=fact.run,
        function=function.id,
        queue=function.queue,
        status="queued",
        started_at=fact.time_ms,
        event_id=fact.event.id,
        event_name=fact.event.name,
        event_sequence=fact.sequence,
        timeout_ms=function.timeout_ms or 0,
        parent=fact.event.parent,
        depth=fact.event.depth,
    )
    return Decision(state, (Dispatch(state=state, event=fact.event), *timers.of_run(state)))


def _refuse_start(fact: RunStarted, function: str, error: ErrorRecord) -> Decision:
    state = RunState(
        id=fact.run,
        function=function,
        queue="",
        status="failed",
        live=False,
        started_at=fact.time_ms,
        finished_at=fact.time_ms,
        event_id=fact.event.id,
        event_name=fact.event.name,
        event_sequence=fact.sequence,
        error=error,
        parent=fact.event.parent,
        depth=fact.event.depth,
    )
    return Decision(state, (AnnounceEnd(state=state), *children.report(state)))


def _start_again(state: RunState, fact: RunStarted) -> Decision:
    if state.status in TERMINAL:
        # What never had a function has no outcome that would come again.
        return Decision(state, () if state.queue else children.report(state))
    if state.live and state.number == 0:
        return Decision(state, (Dispatch(state=state, event=fact.event, again=True), *timers.of_run(state)))
    # The task may have been published, and the run may have gone on, without the timer having been set.
    return Decision(state, timers.of_run(state))


def _end_pass(state: RunState, fact: OutcomeRecorded) -> Decision:
    outcome = fact.record
    if state.status in TERMINAL:
        return Decision(state, _end_commands(state, fact) if state.ended_by == fact.sequence else ())
    if not _concludes(state, outcome):
        if outcome.status == "compensating":
            return Decision(state, unwinding.begin_again(state, fact))
        return Decision(state, _commands_again(state, fact.sequence))
    if outcome.status == "suspended":
        return _suspend(state, fact)
    if outcome.status == "compensating":
        return unwinding.begin(state, fact)
    ended = replace(
        state,
        status=outcome.status,
        number=outcome.number,
        live=False,
        finished_at=fact.time_ms,
        ended_by=fact.sequence,
        due_ms=0,
        error=outcome.error,
        compensation=outcome.compensation,
    )
    return Decision(ended, _end_commands(ended, fact))


def _concludes(state: RunState, outcome: OutcomeRecord) -> bool:
    """Tell whether an outcome is the one that the run comes to next."""
    if state.live:
        return outcome.number == state.number
    # A run that rests is ended from outside in place of its next pass: that pass, if it is dispatched at the
    # same time, finds its outcome in the journal.
    return outcome.number == state.number + 1 and outcome.status != "suspended"


def _end_commands(state: RunState, fact: OutcomeRecorded) -> tuple[Command, ...]:
    outcome = fact.record
    return (
        *(unwinding.stop(state) if outcome.imposed or state.ending else ()),
        AnnounceEnd(state=state, output=outcome.output),
        *event_waits.leave(state),
        *children.leave(state),
        *children.report(state, outcome.output),
    )


def _suspend(state: RunState, fact: OutcomeRecorded) -> Decision:
    state = replace(state, woken_by=max(state.woken_by, sleeps.unknown_to(state, fact.record.token)), slept_out={})
    if not _has_seen_all(state, fact.record):
        return _dispatch_next(state, fact.sequence)
    # A wake-up that the pass has seen may be folded after its outcome; it must not cause another pass.
    resting = replace(
        state,
        status=unwinding.status_while(state, "waiting"),
        due_ms=fact.record.due_ms,
        only_sleeps=fact.record.only_sleeps,
        rested_by=mark(fact.record.token),
    )
    return Decision(replace(resting, live=False, woken_by=max(state.woken_by, fact.record.seen)))


def _has_seen_all(state: RunState, outcome: OutcomeRecord) -> bool:
    """Tell whether a pass that has ended knew all that has woken its run by now."""
    if state.woken_by > outcome.seen or event_waits.has_missed(state, outcome):
        return False
    # A pass that was not told the end of the wait that it was there for may not have found it in the journal either.
    return outcome.told or not state.told


def _wake(state: RunState, fact: Woken | SleptOut) -> Decision:
    if state.status in TERMINAL:
        return Decision(state)
    if isinstance(fact, Woken) and event_waits.is_hinted(state, fact):
        return Decision(state)
    begun = sleeps.begun_again(state, fact) if isinstance(fact, Woken) else ()
    if fact.sequence <= state.woken_by:
        return Decision(state, begun or _commands_again(state, fact.sequence))
    woken = replace(state, woken_by=fact.sequence)
    if state.live:
        return Decision(sleeps.awake(woken), begun)
    return _dispatch_next(woken, fact.sequence)


def _sleep_out(state: RunState, fact: SleptOut) -> Decision:
    if state.status in TERMINAL:
        return Decision(state)
    after = sleeps.slept_out(state, fact)
    return Decision(after) if after is not None else _wake(state, fact)


def _dispatch_next(state: RunState, cause: int) -> Decision:
    status = unwinding.status_while(state, "queued")
    awake = replace(state, status=status, due_ms=0, only_sleeps=False, told="", hinted=())
    following = replace(awake, number=state.number + 1, live=True, dispatched_for=cause)
    return Decision(following, (Dispatch(state=following),))


def _commands_again(state: RunState, cause: int) -> tuple[Dispatch, ...]:
    return (Dispatch(state=state, again=True),) if state.live and state.dispatched_for == cause else ()


def _review(state: RunState, fact: StateReviewed) -> Decision:
    if state.status in TERMINAL:
        return Decision(state)
    again = _commands_again(state, state.dispatched_for) if state.number == fact.number else ()
    return Decision(state, (*again, *timers.of_run(state)))


def _wait(state: RunState, fact: WaitRecorded) -> Decision:
    kind = fact.record.kind
    if unwinding.is_of_no_use(state, fact) or (kind != "sleep" and epochs.is_past(state, fact.step)):
        return Decision(state, event_waits.too_late(fact))
    timer = timers.of_wait(state, fact)
    if kind == "invoke":
        return children.invoke(state, fact, timer.record)
    if kind != "wait_for_event":
        return Decision(state, (timer,))
    opened = event_waits.open_wait(state, fact)
    return Decision(opened.state, (*opened.commands, timer))


def _close(state: RunState, fact: WaitClosed) -> Decision:
    match fact.wait.kind:
        case "wait_for_event":
            return event_waits.close(state, fact)
        case "invoke":
            return children.close(state, fact)
        case _:
            # The timer of a sleep wakes the run for nothing, at the most.
            return Decision(state)


def _back_off(state: RunState, fact: TryRecorded) -> Decision:
    if unwinding.is_of_no_use(state, fact) or epochs.is_past(state, fact.step):
        return Decision(state)
    return Decision(state, (timers.of_back_off(state, fact),))
