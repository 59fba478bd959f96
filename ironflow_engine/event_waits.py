"""What events and time-outs make of a run that waits for events: pure.

The compare-and-set of the run's state decides how a wait ends, and the journal repeats it: so an event and a
time-out that come together, or one event and two waits, are settled in one place. Had the journal decided, an
event that lost against a time-out would be spent, although the run's next wait may be for that very event.

What has been decided and not yet recorded is recorded when its cause comes again, which is acknowledged only
then. So a wait stays where events find it until its end is recorded.
"""

from __future__ import annotations

from msgspec.structs import replace

from ironflow.codec import encode_raw
from ironflow.names import mark
from ironflow.records import TERMINAL, OutcomeRecord, RunState, StepRecord, WaitEnd, WaitEntry
from ironflow_engine import epochs, sleeps
from ironflow_engine.facts import (
    AppendStep,
    Command,
    Decision,
    Dispatch,
    EventArrived,
    ForgetWait,
    ForgetWaits,
    RegisterWait,
    TellPass,
    WaitClosed,
    WaitRecorded,
    WaitTimedOut,
    Woken,
)

OPEN = ""
TIMED_OUT = "timeout"
"""It is shorter than every hash of an event's id, as is what follows."""
CLOSED = "closed"
"""The branch that waited was cancelled."""

MOST_HINTED = 200
"""One pass is told so many ends by hints: the state notes each, and has to fit into a message."""
MOST_TOLD_BYTES = 16 * 1024
"""Of an event that goes into a task or a hint: larger ones are not stored twice, and may not fit a journal record."""


def open_wait(state: RunState, fact: WaitRecorded) -> Decision:
    """Return what a wait for an event calls for that a worker has recorded; the run goes on."""
    step = mark(fact.step)
    known = state.event_waits.get(step)
    if known in (TIMED_OUT, CLOSED):
        # It may have been registered by an engine that was held up.
        return Decision(state, too_late(fact))
    if known is None:
        after = _with(state, step, OPEN)
        if fact.record.worker and state.live and state.status == "queued":
            after = replace(after, status="waiting")  # its pass lingers
    else:
        after = state if state.waits_repeated else replace(state, waits_repeated=True)
    entry = WaitEntry(
        run=fact.run, queue=fact.queue, step=fact.step, wait=fact.record, sequence=fact.sequence, time_ms=fact.time_ms
    )
    return Decision(after, (_registration(after, entry),))


def too_late(fact: WaitRecorded) -> tuple[Command, ...]:
    """Return what is to be done about a wait that nothing waits for by now; it may have been registered before."""
    forget = ForgetWait(run=fact.run, step=fact.step, wait=fact.record)
    return (forget,) if fact.record.kind == "wait_for_event" else ()


def arrive(state: RunState | None, fact: EventArrived) -> Decision:
    """Return what becomes of a run and a wait of it that an event matches."""
    entry = fact.entry
    if state is None or has_ending(state) or epochs.is_past(state, entry.step):
        return Decision(state, (ForgetWait(run=fact.run, step=entry.step, wait=entry.wait),))
    step, event = mark(entry.step), mark(fact.event.id)
    ended_by = state.event_waits.get(step, OPEN)
    if ended_by == event:
        return Decision(state, _tell_again(state, fact))
    if ended_by in (TIMED_OUT, CLOSED):
        return Decision(state, (ForgetWait(run=fact.run, step=entry.step, wait=entry.wait),))
    if ended_by != OPEN or not _counts(state, fact) or (fact.hasty and _others_are_open(state, step)):
        return Decision(state)
    if event in state.event_waits.values():
        # Another wait was quicker to take it. Behind it may stand one that is left for this wait.
        return Decision(state, (_registration(state, entry),) if fact.looked_back else ())
    return _go_on(_with(state, step, event), fact)


def time_out(state: RunState | None, fact: WaitTimedOut) -> Decision:
    """Return what becomes of a run when the time of one of its waits is over."""
    if state is None or has_ending(state) or epochs.is_past(state, fact.step):
        return Decision(state, (ForgetWait(run=fact.run, step=fact.step, wait=fact.wait),))
    step = mark(fact.step)
    ended_by = state.event_waits.get(step, OPEN)
    if ended_by not in (OPEN, TIMED_OUT):
        return Decision(state)
    after = state if ended_by == TIMED_OUT else _with(state, step, TIMED_OUT)
    end = AppendStep(
        run=fact.run,
        queue=fact.queue,
        step=fact.step,
        wait=fact.wait,
        record=fact.record,
        # A run that fails for it does not go on.
        wakes=fact.wait.on_timeout != "fail",
    )
    return Decision(after, (end,))


def close(state: RunState, fact: WaitClosed) -> Decision:
    """Return what becomes of a run when a branch of it that waits was cancelled; what has ended the wait stays."""
    step = mark(fact.step)
    known = state.event_waits.get(step, OPEN)
    if has_ending(state) or known not in (OPEN, CLOSED):
        return Decision(state)
    after = state if known == CLOSED else _with(state, step, CLOSED)
    return Decision(after, (ForgetWait(run=fact.run, step=fact.step, wait=fact.wait),))


def has_timed_out(state: RunState, step: str) -> bool:
    """Tell whether a run that goes on has come to know that the time of a wait was over first."""
    return not has_ending(state) and state.event_waits.get(mark(step)) == TIMED_OUT


def has_ending(state: RunState) -> bool:
    """Tell whether it is known how a run ends: it has, or what it did is being undone."""
    return state.status in TERMINAL or state.ending is not None


def leave(state: RunState) -> tuple[Command, ...]:
    """Return what is left to do about the waits of a run that has ended, or will."""
    if OPEN not in state.event_waits.values() and not state.waits_repeated:
        return ()
    return (ForgetWaits(run=state.id, queue=state.queue, epoch=epochs.current(state)),)


def taken(state: RunState, ended: frozenset[str]) -> dict[str, str]:
    """Return what a retry leaves of the waits: those that an event has ended, and whose end is recorded.

    All others are begun anew, and may have the event that was meant for them: nobody has seen it.

    Args:
        state: the run.
        ended: short hashes of the steps that had an end in the journal when the run was retried.

    """
    return {step: end for step, end in state.event_waits.items() if end not in (OPEN, TIMED_OUT) and step in ended}


def _with(state: RunState, step: str, ended_by: str) -> RunState:
    return replace(state, event_waits={**state.event_waits, step: ended_by})


def _others_are_open(state: RunState, step: str) -> bool:
    """Tell whether a run waits for other events too: one may be for a wait that was recorded before."""
    return any(end == OPEN for other, end in state.event_waits.items() if other != step)


def _tell(state: RunState, fact: EventArrived, end: AppendStep) -> Decision:
    """Return what becomes of a run that rests when one of its waits ends: the pass that goes on behind it.

    It may begin before the journal has the end of the wait: its task says it. The state has decided it by then, and
    whoever executes the pass sees to it that the journal has it, too.
    """
    following = replace(
        state,
        status="queued",
        number=state.number + 1,
        live=True,
        dispatched_for=0,
        due_ms=0,
        only_sleeps=False,
        told=mark(fact.entry.step),
        hinted=(),
    )
    task = Dispatch(state=following, end=WaitEnd(step=end.step, record=end.record))
    return Decision(following, (task, replace(end, wakes=False)))


def _go_on(state: RunState, fact: EventArrived) -> Decision:
    """Return what becomes of a run when an event has ended one of its waits."""
    end = _event_end(fact)
    small = len(end.record.output) <= MOST_TOLD_BYTES
    if not state.live:
        return _tell(state, fact, end) if small else Decision(state, (end,))
    if not fact.entry.wait.worker:
        return Decision(state, (end,))
    if not small or len(state.hinted) >= MOST_HINTED:
        return Decision(state, (_hint_of(state, fact, None), end))
    return _hint(state, fact, end)


def _hint(state: RunState, fact: EventArrived, end: AppendStep) -> Decision:
    """Return what becomes of a run whose pass goes on when one of its waits ends, and may linger for that.

    The hint can be lost, or come when the pass is over. So the journal's end of the wait wakes the run as ever, unless
    the pass says in its outcome that it has heard of it.
    """
    hinted = replace(state, hinted=(*state.hinted, mark(fact.entry.step)))
    return Decision(sleeps.awake(hinted), (_hint_of(state, fact, end), end))


def _hint_of(state: RunState, fact: EventArrived, end: AppendStep | None) -> TellPass:
    return TellPass(
        run=fact.run,
        queue=fact.queue,
        number=state.number,
        worker=fact.entry.wait.worker,
        end=None if end is None else WaitEnd(step=end.step, record=end.record),
    )


def is_hinted(state: RunState, fact: Woken) -> bool:
    """Tell whether the newest pass was told of the end of a wait that the journal has now.

    Once the run rests, that pass has heard of it. One that goes on says in its outcome whether it has.
    """
    return fact.wait in state.hinted


def has_missed(state: RunState, outcome: OutcomeRecord) -> bool:
    """Tell whether a pass that has ended has not heard of the end of a wait that it was told."""
    return any(step not in outcome.heard for step in state.hinted)


def _tell_again(state: RunState, fact: EventArrived) -> tuple[Command, ...]:
    """Return what is left to do about a wait that an event has ended."""
    if state.live and mark(fact.entry.step) in state.hinted:
        end = _event_end(fact)
        return (_hint_of(state, fact, end), end)
    is_told = state.told == mark(fact.entry.step)
    end = _event_end(fact, wakes=not is_told)
    if not (is_told and state.live):
        return (end,)
    return (Dispatch(state=state, end=WaitEnd(step=end.step, record=end.record), again=True), end)


def _counts(state: RunState, fact: EventArrived) -> bool:
    """Tell whether an event came after the run's own trigger, and is not that one, stored once more."""
    return fact.sequence > state.event_sequence and fact.event.id != state.event_id


def _registration(state: RunState, entry: WaitEntry) -> RegisterWait:
    return RegisterWait(
        entry=entry,
        after=state.event_sequence,
        trigger=state.event_id,
        consumed=frozenset(state.event_waits.values()),
        ended_by=state.event_waits.get(mark(entry.step), OPEN),
    )


def _event_end(fact: EventArrived, *, wakes: bool = True) -> AppendStep:
    entry = fact.entry
    record = StepRecord(
        name=entry.wait.name,
        kind=entry.wait.kind,
        scope=entry.wait.scope,
        token="",  # whoever records it marks it
        output=encode_raw(fact.event),
        duration_ms=max(0, fact.time_ms - entry.time_ms),
    )
    return AppendStep(run=fact.run, queue=fact.queue, step=entry.step, wait=entry.wait, record=record, wakes=wakes)
