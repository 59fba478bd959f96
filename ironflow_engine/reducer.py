"""What a fact makes of a run: one pure function.

Facts may come twice, late, and in any order, and several engines decide at once. Three rules make that safe:

* A fact that was folded before changes nothing more and yields its commands again, since the engine that
  folded it may have died before it carried them out.
* A terminal state never changes.
* A run has at most one live pass. What a pass must still see is one number, the newest journal sequence that
  has woken the run (``woken_by``): a pass that loads the journal sees everything up to what it loads, so the
  next pass is due exactly when ``woken_by`` is beyond what the last one had seen.
"""

from __future__ import annotations

from msgspec.structs import replace

from ironflow.names import RUN_TIMER, try_timer, wait_timer
from ironflow.records import TERMINAL, ErrorRecord, OutcomeRecord, RunState, TimerRecord
from ironflow_engine import event_waits, unwinding
from ironflow_engine.facts import (
    AnnounceEnd,
    Command,
    Decision,
    Dispatch,
    EventArrived,
    Fact,
    OutcomeRecorded,
    RunStarted,
    SetTimer,
    StopRun,
    TryRecorded,
    WaitRecorded,
    WaitTimedOut,
    Woken,
)


def decide(state: RunState | None, fact: Fact) -> Decision:
    """Return the run's state after *fact*, and what is to be done.

    Args:
        state: the run's state; None where there is no such run.
        fact: what happened.

    """
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


def _go_on(state: RunState, fact: OutcomeRecorded | Woken | WaitRecorded | TryRecorded) -> Decision:
    match fact:
        case OutcomeRecorded():
            return _end_pass(state, fact)
        case Woken():
            return _wake(state, fact)
        case WaitRecorded():
            return _wait(state, fact)
        case TryRecorded():
            return _back_off(state, fact)


def _start(fact: RunStarted) -> Decision:
    function = fact.function
    if function is None:
        name = fact.event.target
        return _refuse_start(
            fact,
            name,
            ErrorRecord(
                type="FunctionNotFound",
                message=f"no function {name!r} is registered; start a worker that has it, then start the run again",
            ),
        )
    if fact.refusal is not None:
        return _refuse_start(fact, function.id, fact.refusal)
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
    )
    return Decision(state, (Dispatch(state=state, event=fact.event), *_run_timer(state)))


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
    )
    return Decision(state, (AnnounceEnd(run=state.id),))


def _start_again(state: RunState, fact: RunStarted) -> Decision:
    if state.status in TERMINAL:
        return Decision(state)
    if state.live and state.number == 0:
        return Decision(state, (Dispatch(state=state, event=fact.event, again=True), *_run_timer(state)))
    # The task may have been published, and the run may have gone on, without the timer having been set.
    return Decision(state, _run_timer(state))


def _run_timer(state: RunState) -> tuple[SetTimer, ...]:
    if not state.timeout_ms:
        return ()
    due = _after(state.started_at, state.timeout_ms)
    timer = TimerRecord(run=state.id, queue=state.queue, step="", due_ms=due, run_timeout_ms=state.timeout_ms)
    return (SetTimer(timer=RUN_TIMER, record=timer),)


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
    stop = (StopRun(run=state.id, queue=state.queue),) if fact.record.imposed else ()
    return (*stop, *unwinding.last_stop(state), AnnounceEnd(run=state.id), *event_waits.leave(state))


def _suspend(state: RunState, fact: OutcomeRecorded) -> Decision:
    if state.woken_by > fact.record.seen:
        return _dispatch_next(state, fact.sequence)
    # A wake-up that the pass has seen may be folded after its outcome; it must not cause another pass.
    rests = unwinding.status_while(state, "waiting")
    return Decision(replace(state, status=rests, live=False, woken_by=max(state.woken_by, fact.record.seen)))


def _wake(state: RunState, fact: Woken) -> Decision:
    if state.status in TERMINAL:
        return Decision(state)
    if fact.sequence <= state.woken_by:
        return Decision(state, _commands_again(state, fact.sequence))
    woken = replace(state, woken_by=fact.sequence)
    return Decision(woken) if state.live else _dispatch_next(woken, fact.sequence)


def _dispatch_next(state: RunState, cause: int) -> Decision:
    status = unwinding.status_while(state, "queued")
    following = replace(state, status=status, number=state.number + 1, live=True, dispatched_for=cause)
    return Decision(following, (Dispatch(state=following),))


def _commands_again(state: RunState, cause: int) -> tuple[Dispatch, ...]:
    return (Dispatch(state=state, again=True),) if state.live and state.dispatched_for == cause else ()


def _wait(state: RunState, fact: WaitRecorded) -> Decision:
    record = fact.record
    if unwinding.is_of_no_use(state, fact):
        return Decision(state)
    due = record.until_ms if record.until_ms is not None else _after(fact.time_ms, record.delay_ms or 0)
    timer = TimerRecord(
        run=state.id, queue=state.queue, step=fact.step, due_ms=due, wait=record, waiting_since_ms=fact.time_ms
    )
    set_timer = SetTimer(timer=wait_timer(fact.step), record=timer)
    if record.kind != "wait_for_event":
        return Decision(state, (set_timer,))
    opened = event_waits.open_wait(state, fact)
    return Decision(opened.state, (*opened.commands, set_timer))


def _back_off(state: RunState, fact: TryRecorded) -> Decision:
    if unwinding.is_of_no_use(state, fact):
        return Decision(state)
    attempt = fact.record.attempt
    due = _after(fact.time_ms, fact.record.delay_ms)
    timer = TimerRecord(run=state.id, queue=state.queue, step=fact.step, due_ms=due, attempt=attempt)
    return Decision(state, (SetTimer(timer=try_timer(fact.step, attempt), record=timer),))


def _after(stored_ms: int, delay_ms: int) -> int:
    # The time at which a record was stored comes rounded down to whole milliseconds.
    return stored_ms + 1 + delay_ms
