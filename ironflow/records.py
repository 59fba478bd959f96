"""The records that are stored: one struct for each kind of message and value.

All are JSON, written with ``omit_defaults``; readers ignore fields that they do not know, so that a newer
writer can add some. Times are whole milliseconds since 1970 (UTC) where the server or a policy gives them.
``token`` is a random mark of the writer: it answers whether a write that was not acknowledged is ours.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from ironflow.retry import RetryPolicy

RunStatus = Literal["queued", "running", "waiting", "compensating", "completed", "failed", "cancelled"]
StepStatus = Literal["completed", "failed", "retrying", "sleeping", "waiting"]
StepKind = Literal["run", "sleep", "publish", "wait_for_event", "invoke", "invoke_async", "compensate"]
OnTimeout = Literal["fail", "none", "raise"]
OutcomeStatus = Literal["completed", "failed", "suspended", "cancelled", "compensating"]
Ending = Literal["failed", "cancelled"]
"""How a run ends once what it did is undone."""
CompensationStatus = Literal["running", "completed", "failed"]
TaskMode = Literal["run", "compensate"]

TERMINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
"""The run states that never change again (but for a retry, which opens a new epoch)."""

NULL = msgspec.Raw(b"null")

LARGEST_NUMBER = 2**53 - 1
"""What every reader of JSON can hold, and every database."""

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
"""A number in what others than engines write; a record with a larger one is unreadable.

In what engines write there is no bound: a run whose state cannot be read never ends.
"""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all stored records."""


class ParentLink(Record, frozen=True, kw_only=True):
    """The run that waits for a child run.

    Attributes:
        step: the key of its step.

    """

    run: str
    queue: str
    step: str


class EventRecord(Record, frozen=True, kw_only=True):
    """A published event, as it is stored in EVENTS.

    Attributes:
        time: ISO 8601, UTC, as the publisher's clock said.
        target: only for ``ironflow.invoked``: the one function that this event starts.
        parent: who waits for the run that it starts.
        depth: how many runs stand above that run, each started by the one before.

    """

    id: str
    name: str
    time: str
    data: msgspec.Raw = NULL
    source: str = ""
    metadata: dict[str, str] = {}
    target: str = ""
    parent: ParentLink | None = None
    depth: Number = 0


class Task(Record, frozen=True, kw_only=True):
    """One pass of a run, to be executed by a worker.

    Attributes:
        number: the pass; 0 is the first.
        attempt: 1 + how often the run was retried.
        started_at: when the run was created, in milliseconds.
        event: only in pass 0; later passes find it in the journal.
        server: the id of the server that stored the task; another id means that it has restarted since.
        check_journal: something may be recorded already although the task looks new.
        journal_sequence: the newest journal record that this pass must see.
        mode: what the pass is for: to go on, or to undo what was done.
        depth: how many runs stand above this one.
        end: of a wait that the pass goes on behind; the journal may have it a moment later only.

    """

    run: str
    function: str
    number: int
    started_at: int
    attempt: int = 1
    mode: TaskMode = "run"
    depth: int = 0
    event: EventRecord | None = None
    server: str = ""
    check_journal: bool = False
    journal_sequence: int = 0
    end: WaitEnd | None = None


class ErrorRecord(Record, frozen=True, kw_only=True):
    """What went wrong, as data: no class is ever looked up by a stored name.

    Attributes:
        type: the exception's type name.
        step: the step that it came from, where one did.
        attempts: how many attempts of that step were made.
        path: the place of a value that did not fit ("data.items[3].price").
        cause: the type name of the error behind it, where that is another run's.

    """

    type: str
    message: str
    step: str | None = None
    attempts: int | None = None
    path: str | None = None
    cause: str | None = None


class BeganRecord(Record, frozen=True, kw_only=True):
    """``began.<number>.<k>``: a worker has begun a pass that another one had begun, the k-th to do so."""

    token: str
    worker: str = ""


class ExcusedRecord(Record, frozen=True, kw_only=True):
    """``excused.<number>.<k>``: that worker did not die of it: it handed the pass back."""

    token: str


class InputRecord(Record, frozen=True, kw_only=True):
    """``input``: the triggering event, where the outcome of the run's first pass does not have it."""

    event: EventRecord
    token: str


class StepRecord(Record, frozen=True, kw_only=True):
    """``step.<step>``: the one result of a step.

    Attributes:
        duration_ms: how long the recorded attempt took; a wait, how long it waited.
        slept_out: of a sleep: a pass that waited for its end has recorded that, and knows it.

    """

    name: str
    kind: StepKind
    token: str
    scope: tuple[str | Number, ...] = ()
    status: Literal["completed", "failed"] = "completed"
    output: msgspec.Raw = NULL
    error: ErrorRecord | None = None
    attempt: Number = 1
    duration_ms: Number = 0
    slept_out: bool = False


class WaitEnd(Record, frozen=True, kw_only=True):
    """How a wait has ended.

    Attributes:
        step: its key.
        record: what its result in the journal is, or will be.

    """

    step: str
    record: StepRecord


class WaitRecord(Record, frozen=True, kw_only=True):
    """``wait.<step>``: what a step waits for. It is due *delay_ms* after it was stored, or at *until_ms*.

    Attributes:
        event: the name of the awaited event; empty where it waits for none.
        path: where in that event's data to look, without ``data.`` in front; None where any such event will do.
        value: the canonical JSON of what must stand there.
        on_timeout: what the end of the time means to the run.
        function: the id of the function that runs as a child; empty where none does.
        data: what the child is given.
        trace: the context of the trace that the child goes on.
        worker: of a wait for an event: who has a pass that waits for nothing else, and lingers for it a moment; empty
            where none does.

    """

    name: str
    kind: StepKind
    token: str
    scope: tuple[str | Number, ...] = ()
    delay_ms: Number | None = None
    until_ms: Number | None = None
    event: str = ""
    path: str | None = None
    value: str | None = None
    on_timeout: OnTimeout = "fail"
    function: str = ""
    data: msgspec.Raw = NULL
    trace: dict[str, str] = {}
    worker: str = ""


class WaitEntry(Record, frozen=True, kw_only=True):
    """An open wait for an event, where events find it.

    Attributes:
        step: the token of the step that waits.
        wait: what it waits for, as the worker recorded it.
        sequence: where that stands in the journal.
        time_ms: when it was stored there.

    """

    run: str
    queue: str
    step: str
    wait: WaitRecord
    sequence: int
    time_ms: int


class WaitPath(Record, frozen=True, kw_only=True):
    """A mark that there are, or were, waits for an event which look at a path; null where they look at none."""

    event: str
    path: str | None = None


class TryRecord(Record, frozen=True, kw_only=True):
    """``try.<step>.<attempt>``: an attempt that failed and is made again *delay_ms* after this was stored."""

    name: str
    kind: StepKind
    token: str
    attempt: Number
    delay_ms: Number
    error: ErrorRecord
    scope: tuple[str | Number, ...] = ()
    duration_ms: Number = 0


class ClosedRecord(Record, frozen=True, kw_only=True):
    """``closed.<step>``: nothing waits any more for that wait to end, since the branch that it is in was cancelled."""

    token: str
    wait: WaitRecord


class RetryRecord(Record, frozen=True, kw_only=True):
    """``retry.<epoch>``: a run that had failed goes on. What had failed is done again, in that epoch."""

    token: str


class DueRecord(Record, frozen=True, kw_only=True):
    """``due.<step>.<attempt>``: the back-off after that attempt is over."""

    token: str


class OutcomeRecord(Record, frozen=True, kw_only=True):
    """``outcome.<number>``: how a pass ended.

    Attributes:
        seen: the newest journal record that the pass knew when it began; what came later needs another pass.
        event: the triggering event, in the outcome of the first pass if that has not completed the run; so that the
            run can go on, be retried and be shown after EVENTS has forgotten it.
        imposed: the engine ended the run from outside; if a pass was running, it did not know.
        ending: of "compensating": how the run ends once what it did is undone.
        compensation: of the outcome that ends a run: how its undos went, where it has any.
        due_ms: of "suspended": about when the first of the open waits and back-offs is over; 0 where none will be.
        only_sleeps: of "suspended": nothing but sleeps is open.
        told: the pass knew the end of a wait from its task, and has seen to it that the journal has it.
        heard: short hashes of the steps whose waits have ended while the pass lingered, as a hint has told it; it has
            seen to it that the journal has these ends.
        unasked: of "completed": the recorded steps, by key, that the code did not ask for; the first hundred.

    """

    number: Number
    status: OutcomeStatus
    token: str
    seen: Number = 0
    output: msgspec.Raw = NULL
    error: ErrorRecord | None = None
    event: EventRecord | None = None
    imposed: bool = False
    ending: Ending = "failed"
    compensation: CompensationStatus | None = None
    due_ms: Number = 0
    only_sleeps: bool = False
    told: bool = False
    heard: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()


class TimerRecord(Record, frozen=True, kw_only=True):
    """The body of a schedule: which record it is the end of.

    Attributes:
        run_timeout_ms: only for the end of the time that the run as a whole may take: how long that was.
        epoch: in which epoch of the run it was set.
        sequence: of a wait: where its record stands in the journal.
        is_behind: of a sleep: it was begun in a pass that had begun itself for the end of another one.

    """

    run: str
    queue: str
    step: str
    due_ms: int
    wait: WaitRecord | None = None
    waiting_since_ms: int = 0
    attempt: int = 0
    run_timeout_ms: int = 0
    epoch: int = 0
    sequence: int = 0
    is_behind: bool = False


class RunState(Record, frozen=True, kw_only=True):
    """Where a run stands; small, whatever the run does. Written by the engine only, by compare-and-set.

    Attributes:
        number: the newest pass that was dispatched.
        live: whether that pass has no outcome yet.
        dispatched_for: the journal sequence of the record that caused the newest dispatch; 0 for the event. Where a
            sleep is about to end, that is the record of its begin.
        woken_by: the newest journal record that a pass must still see or has been dispatched for.
        event_sequence: where the triggering event stands in EVENTS.
        ended_by: the journal sequence of the outcome that ended the run.
        timeout_ms: how long the run may take as a whole, as its function said when it started; 0 for ever.
        event_waits: how each wait for an event has ended, by a short hash of its step: "" where it is open,
            "timeout", "closed" where its branch was cancelled, or a short hash of the id of the event that ended it.
        waits_repeated: whether a wait for an event was met a second time. Whoever met it first may have been held up,
            and may register it when it is over.
        attempt: 1 + how often the run was retried.
        epoch_sequence: the journal sequence of the newest retry; 0 where there was none.
        epoch_started_at: when that was recorded; 0 likewise.
        ending: how the run ends, once it is known and what it did is being undone, or was; None before.
        compensation: how that goes.
        due_ms: of a run that rests: about when the first of its waits and back-offs is over; 0 where none will be.
        only_sleeps: of a run that rests: whether nothing but sleeps is open.
        rested_by: a short hash of the token of the newest pass after which the run rested.
        slept_out: of a live run: what passes have recorded of the ends of sleeps that they waited for: the newest
            journal sequence, by a short hash of the token of the pass.
        told: a short hash of the step that waited, where the task of the newest pass says how that wait has ended;
            once the run rests, the pass has known it.
        hinted: short hashes of the steps of which the newest pass was told by hints, which can be lost, how their waits
            have ended; once the run rests, the pass has known it.
        parent: who waits for the run's end.
        depth: how many runs stand above this one.
        has_children: whether the run has ever waited for a child run.
        purged: the run is being deleted, or has been and stands in the archive only: nothing brings it back.

    """

    id: str
    function: str
    queue: str
    status: RunStatus
    started_at: int
    event_id: str
    event_name: str
    event_sequence: int
    token: str = ""
    number: int = 0
    live: bool = True
    dispatched_for: int = 0
    woken_by: int = 0
    attempt: int = 1
    finished_at: int = 0
    ended_by: int = 0
    timeout_ms: int = 0
    error: ErrorRecord | None = None
    event_waits: dict[str, str] = {}
    waits_repeated: bool = False
    epoch_sequence: int = 0
    epoch_started_at: int = 0
    ending: Ending | None = None
    compensation: CompensationStatus | None = None
    due_ms: int = 0
    only_sleeps: bool = False
    rested_by: str = ""
    slept_out: dict[str, int] = {}
    told: str = ""
    hinted: tuple[str, ...] = ()
    parent: ParentLink | None = None
    depth: int = 0
    has_children: bool = False
    purged: bool = False


class PurgedRuns(Record, frozen=True, kw_only=True):
    """Finished runs that were deleted after their retention: what a purge itself tells nobody.

    Attributes:
        number: counts these records; whoever finds one missing has to read all runs anew.
        runs: the revision of each run's last state, by run.

    """

    number: Number
    runs: dict[str, Number]
    token: str = ""


class FunctionRecord(Record, frozen=True, kw_only=True):
    """A registered function: what the engine must know to start and route its runs.

    Attributes:
        deleted: the record stays as a mark, so that a change of the bucket shows in its last sequence.

    """

    id: str
    queue: str
    triggers: tuple[str, ...] = ()
    retry: RetryPolicy = RetryPolicy()
    timeout_ms: Number | None = None
    deleted: bool = False
    token: str = ""


class CanaryRecord(Record, frozen=True, kw_only=True):
    """Written only to see whether writing works, and read by nobody."""

    token: str


class DutyRecord(Record, frozen=True, kw_only=True):
    """Which engine has a duty that only one has at a time."""

    engine: str
    token: str
