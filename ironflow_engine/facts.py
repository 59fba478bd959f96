"""What can happen to a run (facts), and what is to be done about it (commands)."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ironflow.records import (
    NULL,
    ErrorRecord,
    EventRecord,
    FunctionRecord,
    OutcomeRecord,
    ParentLink,
    RunState,
    StepRecord,
    TimerRecord,
    TryRecord,
    WaitEnd,
    WaitEntry,
    WaitRecord,
)

START_A_WORKER = "start a worker that has it, then start the run again"


class RunStarted(msgspec.Struct, frozen=True, kw_only=True):
    """An event starts a run.

    Attributes:
        run: the id that follows from the event and the function.
        function: None where the event names a function that is not registered.
        refusal: why the run cannot be executed; None where it can.
        sequence: where the event stands in EVENTS.
        time_ms: when it was stored there.
        advice: what to do about a function that is not registered.

    """

    run: str
    event: EventRecord
    function: FunctionRecord | None
    sequence: int
    time_ms: int
    refusal: ErrorRecord | None = None
    advice: str = START_A_WORKER


class WaitRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """A worker has recorded that a step waits."""

    run: str
    queue: str
    step: str
    record: WaitRecord
    sequence: int
    time_ms: int


class WaitClosed(msgspec.Struct, frozen=True, kw_only=True):
    """A worker has recorded that nothing waits any more for a wait to end."""

    run: str
    queue: str
    step: str
    wait: WaitRecord


class TryRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """A worker has recorded an attempt that failed and is to be made again."""

    run: str
    queue: str
    step: str
    record: TryRecord
    sequence: int
    time_ms: int


class OutcomeRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """A pass has ended."""

    run: str
    queue: str
    record: OutcomeRecord
    sequence: int
    time_ms: int


class RunRetried(msgspec.Struct, frozen=True, kw_only=True):
    """A run that had failed is to go on. All of it follows from what stood in the journal before the retry.

    Attributes:
        epoch: how often the run has been retried now.
        sleeps: its sleeps that had no end by then; their timers may be gone.
        ended_waits: short hashes of the keys of the waits for events that had one.

    """

    run: str
    queue: str
    epoch: int
    sequence: int
    time_ms: int
    sleeps: tuple[WaitRecorded, ...] = ()
    ended_waits: frozenset[str] = frozenset()


class Woken(msgspec.Struct, frozen=True, kw_only=True):
    """The journal has a record, at *sequence*, that the run waits for.

    Attributes:
        sleep: where that is the end of a sleep: where its begin stands; 0 otherwise.
        wait: where that is the end of a wait for an event: a short hash of the step; empty otherwise.

    """

    run: str
    queue: str
    sequence: int
    sleep: int = 0
    wait: str = ""


class SleepNearsEnd(msgspec.Struct, frozen=True, kw_only=True):
    """A sleep is over in a moment; whoever executes the run then can wait for that.

    Attributes:
        sequence: where the record of its begin stands in the journal.

    """

    run: str
    queue: str
    sequence: int


class SleptOut(msgspec.Struct, frozen=True, kw_only=True):
    """A sleep is over, and a pass that waited for that has recorded it.

    Attributes:
        by: a short hash of the token of that pass.
        sequence: where the end stands in the journal.

    """

    run: str
    queue: str
    by: str
    sequence: int


class EventArrived(msgspec.Struct, frozen=True, kw_only=True):
    """An event matches a wait.

    Attributes:
        entry: the wait.
        sequence: where the event stands in EVENTS.
        time_ms: when it was stored there.
        looked_back: it was found among the events that were stored before the wait was.
        hasty: whether other waits match it as well has not been asked.

    """

    run: str
    queue: str
    entry: WaitEntry
    event: EventRecord
    sequence: int
    time_ms: int
    looked_back: bool = False
    hasty: bool = False


class WaitTimedOut(msgspec.Struct, frozen=True, kw_only=True):
    """The time of a wait for an event is over; *record* says so, where nothing else has ended the wait."""

    run: str
    queue: str
    step: str
    wait: WaitRecord
    record: StepRecord


class StateReviewed(msgspec.Struct, frozen=True, kw_only=True):
    """Something that should have come of a run's state by now has not: its task, or the end of its time.

    Attributes:
        number: the pass that should be under way.

    """

    run: str
    queue: str
    number: int


SleepFact: TypeAlias = SleepNearsEnd | SleptOut
StepFact: TypeAlias = WaitRecorded | WaitClosed | TryRecorded
RunFact: TypeAlias = OutcomeRecorded | RunRetried | Woken | StepFact | SleepFact | StateReviewed
Fact: TypeAlias = RunStarted | EventArrived | WaitTimedOut | RunFact


class Dispatch(msgspec.Struct, frozen=True, kw_only=True):
    """Publish the task for the run's newest pass.

    Attributes:
        event: the triggering event; only in pass 0.
        end: of the wait that the pass goes on behind, which the journal may not have yet.
        again: it may have been published before.

    """

    state: RunState
    event: EventRecord | None = None
    end: WaitEnd | None = None
    again: bool = False


class SetTimer(msgspec.Struct, frozen=True, kw_only=True):
    """Have the server send *record* back when it is due. Setting it again replaces it."""

    timer: str
    record: TimerRecord


class AnnounceEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Tell whoever listens how the run has ended. A hint: it may be lost.

    Attributes:
        output: the JSON of its output; null where it has none.

    """

    state: RunState
    output: msgspec.Raw = NULL


class StopRun(msgspec.Struct, frozen=True, kw_only=True):
    """Take back what is pending of a run that was ended from outside, and tell workers to stop its pass.

    It saves work and nothing depends on it: whoever takes up the run finds in the journal that it has ended.

    Attributes:
        number: the pass in whose place the run was ended, or began to be unwound.
        epoch: the epoch that ended; what a retry has brought about since then is left alone.
        timers: whether the timers of that epoch go too; a run that is unwound has timers of its undos.

    """

    run: str
    queue: str
    number: int
    epoch: int
    timers: bool = True


class TellPass(msgspec.Struct, frozen=True, kw_only=True):
    """Tell a worker how a wait has ended that a pass of its lingers for. A hint: it may be lost.

    Attributes:
        end: of the wait; None where the pass has to read it, and is not to linger any more.

    """

    run: str
    queue: str
    number: int
    worker: str
    end: WaitEnd | None


class RegisterWait(msgspec.Struct, frozen=True, kw_only=True):
    """Have events find a wait, and see whether one came already.

    Attributes:
        after: where the run's own trigger stands in EVENTS; what came before it does not count.
        trigger: the id of that event.
        consumed: short hashes of the ids of the events that have ended waits of the run.
        ended_by: the short hash of the event that has ended this one; empty where none has.

    """

    entry: WaitEntry
    after: int
    trigger: str
    consumed: frozenset[str]
    ended_by: str = ""


class AppendStep(msgspec.Struct, frozen=True, kw_only=True):
    """Record how a wait for an event ended, then take it from where events find it.

    Attributes:
        wakes: the run is to go on behind it. Where it takes long to record, it does in any case.

    """

    run: str
    queue: str
    step: str
    wait: WaitRecord
    record: StepRecord
    wakes: bool = True


class ForgetWait(msgspec.Struct, frozen=True, kw_only=True):
    """Take a wait from where events find it: there is nothing left that it could end."""

    run: str
    step: str
    wait: WaitRecord


class ForgetWaits(msgspec.Struct, frozen=True, kw_only=True):
    """Take all waits of a run that has ended from where events find them.

    Attributes:
        epoch: the epoch that ended; waits of later ones are left alone.

    """

    run: str
    queue: str
    epoch: int


class StartChild(msgspec.Struct, frozen=True, kw_only=True):
    """Publish the event that starts a child run. A second one of the same id starts nothing more.

    Attributes:
        run: the parent.
        queue: the parent's.
        step: the key of its step.
        wait: what that recorded.
        event: what starts the child.

    """

    run: str
    queue: str
    step: str
    wait: WaitRecord
    event: EventRecord


class ReportChild(msgspec.Struct, frozen=True, kw_only=True):
    """Record how a child run ended as the result of its parent's step, where that still waits.

    Attributes:
        run: the child.
        function: its function.
        parent: who waits for it.
        output: its output; null where it has none.
        error: why it has none, as the parent's step records it.
        time_ms: when it ended.

    """

    run: str
    function: str
    parent: ParentLink
    output: msgspec.Raw
    error: ErrorRecord | None
    time_ms: int


class EndChild(msgspec.Struct, frozen=True, kw_only=True):
    """Cancel a child run for whose end nothing waits any more.

    Attributes:
        run: the parent.
        child: the child.
        reason: why, as the child's error says it.

    """

    run: str
    child: str
    reason: str


class EndChildren(msgspec.Struct, frozen=True, kw_only=True):
    """Cancel the child runs that a run still waits for, since it has ended or undoes what it did.

    Attributes:
        compensate: the children undo what they did, too.

    """

    run: str
    queue: str
    compensate: bool = False


ChildCommand: TypeAlias = StartChild | ReportChild | EndChild | EndChildren
WaitCommand: TypeAlias = RegisterWait | AppendStep | ForgetWait | ForgetWaits
Hint: TypeAlias = AnnounceEnd | StopRun | TellPass
SendCommand: TypeAlias = Dispatch | SetTimer | Hint
Command: TypeAlias = SendCommand | WaitCommand | ChildCommand


class Decision(msgspec.Struct, frozen=True):
    """What a fact makes of a run.

    Attributes:
        state: the run's new state; the very same object where nothing changes, and None where there is no run.
        commands: what is to be done once the state is stored.

    """

    state: RunState | None
    commands: tuple[Command, ...] = ()
