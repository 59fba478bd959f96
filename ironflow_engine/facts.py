"""What can happen to a run (facts), and what is to be done about it (commands)."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ironflow.records import (
    ErrorRecord,
    EventRecord,
    FunctionRecord,
    OutcomeRecord,
    RunState,
    TimerRecord,
    TryRecord,
    WaitRecord,
)


class RunStarted(msgspec.Struct, frozen=True, kw_only=True):
    """An event starts a run.

    Attributes:
        run: the id that follows from the event and the function.
        function: None where the event names a function that is not registered.
        refusal: why the run cannot be executed; None where it can.
        sequence: where the event stands in EVENTS.
        time_ms: when it was stored there.

    """

    run: str
    event: EventRecord
    function: FunctionRecord | None
    sequence: int
    time_ms: int
    refusal: ErrorRecord | None = None


class WaitRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """A worker has recorded that a step waits."""

    run: str
    queue: str
    step: str
    record: WaitRecord
    sequence: int
    time_ms: int


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


class Woken(msgspec.Struct, frozen=True, kw_only=True):
    """The journal has a record, at *sequence*, that the run waits for."""

    run: str
    queue: str
    sequence: int


Fact: TypeAlias = RunStarted | WaitRecorded | TryRecorded | OutcomeRecorded | Woken


class Dispatch(msgspec.Struct, frozen=True, kw_only=True):
    """Publish the task for the run's newest pass.

    Attributes:
        event: the triggering event; only in pass 0.
        again: it may have been published before.

    """

    state: RunState
    event: EventRecord | None = None
    again: bool = False


class SetTimer(msgspec.Struct, frozen=True, kw_only=True):
    """Have the server send *record* back when it is due. Setting it again replaces it."""

    timer: str
    record: TimerRecord


class AnnounceEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Tell whoever listens that the run has ended. A hint: it may be lost."""

    run: str


class StopRun(msgspec.Struct, frozen=True, kw_only=True):
    """Take back what is pending of a run that was ended from outside, and tell workers to stop its pass.

    It saves work and nothing depends on it: whoever takes up the run finds in the journal that it has ended.
    """

    run: str
    queue: str


Command: TypeAlias = Dispatch | SetTimer | AnnounceEnd | StopRun


class Decision(msgspec.Struct, frozen=True):
    """What a fact makes of a run.

    Attributes:
        state: the run's new state; the very same object where nothing changes, and None where there is no run.
        commands: what is to be done once the state is stored.

    """

    state: RunState | None
    commands: tuple[Command, ...] = ()
