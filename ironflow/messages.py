"""Requests to the engine and its answers, over NATS request/reply. Nothing here is stored."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ironflow.codec import decode_value
from ironflow.records import NULL, ErrorRecord, EventRecord, FunctionRecord, RunStatus, StepKind, StepStatus, WaitEnd


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all requests and answers. All fields are always written: people read them with jq."""


class Failure(Message, frozen=True, kw_only=True):
    """Why a request was refused."""

    type: Literal["RunNotFound", "BadRequest", "Unavailable", "Internal"]
    message: str


class Reply(Message, frozen=True, kw_only=True):
    """Every answer: a result, or a failure."""

    result: msgspec.Raw = NULL
    failure: Failure | None = None


class EventView(Message, frozen=True, kw_only=True):
    """An event, as it is shown."""

    id: str
    name: str
    data: msgspec.Raw = NULL


class AwaitedView(Message, frozen=True, kw_only=True):
    """What an open step waits for, as it is shown.

    Attributes:
        event: the name of an event; empty where it waits for none.
        path: where in the event's data to look, as in "data.orderId"; None where any event of the name will do.
        value: the JSON that must stand there.
        function: the id of the function that runs as a child; empty where none does.

    """

    event: str = ""
    path: str | None = None
    value: msgspec.Raw = NULL
    function: str = ""


class StepView(Message, frozen=True, kw_only=True):
    """A step, as it is shown. Times are ISO 8601, UTC.

    Attributes:
        output: the JSON that is recorded of what it returned; :attr:`result` reads it.
        unasked: the code that the run completed with did not ask for it.
        until: of an open step: when its sleep, its time-out or its back-off is over; None where it may last for ever.
        awaits: of an open step: what it waits for; None for a sleep and a back-off.

    """

    name: str
    scope: tuple[str | int, ...]
    kind: StepKind
    status: StepStatus
    attempt: int
    output: msgspec.Raw
    error: ErrorView | None
    started_at: str
    finished_at: str | None
    unasked: bool = False
    until: str | None = None
    awaits: AwaitedView | None = None

    @property
    def result(self) -> Any:
        """What it returned, as plain lists, dicts, texts and numbers; None where it has returned nothing.

        Raises:
            SerializationError: it cannot be read.

        """
        return decode_value(self.output, Any, f"result of step {self.name!r}")


class ErrorView(Message, frozen=True, kw_only=True):
    """An error, as it is shown."""

    type: str
    message: str
    step: str | None
    attempts: int | None
    path: str | None


class RunView(Message, frozen=True, kw_only=True):
    """A run without its steps, as it is shown. Times are ISO 8601, UTC.

    Attributes:
        left_out: the parts ("event", "output") that did not fit into this answer; ask ``runs.part`` for each.

    """

    id: str
    function: str
    queue: str
    status: RunStatus
    compensation: str | None
    event: EventView
    attempt: int
    output: msgspec.Raw
    error: ErrorView | None
    started_at: str
    finished_at: str | None
    left_out: tuple[str, ...] = ()


class GetRun(Message, frozen=True, kw_only=True):
    """``runs.get`` → RunView.

    Attributes:
        brief: for whoever waits for the run's end: the event's data is left out, and a run that a worker executes
            may show as queued, since the workers are not asked.

    """

    id: str
    brief: bool = False


class GetRunPart(Message, frozen=True, kw_only=True):
    """``runs.part`` → the JSON of the event's data, or of the output."""

    id: str
    part: Literal["event", "output"]


class GetSteps(Message, frozen=True, kw_only=True):
    """``runs.steps`` → StepsPage: steps in the order in which they were recorded, behind them the open ones.

    Attributes:
        after: go on after the recorded step at this place.
        after_open: go on after the open step at this place.

    """

    id: str
    after: int = 0
    after_open: int = 0


class StepsPage(Message, frozen=True, kw_only=True):
    """Some steps of a run; *next* and *next_open* are where to go on, *next* is None after the last."""

    steps: tuple[StepView, ...]
    next: int | None
    next_open: int = 0


class ListRuns(Message, frozen=True, kw_only=True):
    """``runs.list`` → RunsPage, newest first.

    Attributes:
        since_ms: only runs that were created then or later.
        before: go on after the page that named this place.

    """

    status: RunStatus | None = None
    function: str | None = None
    since_ms: int = 0
    limit: int = 50
    before: str | None = None


class RunsPage(Message, frozen=True, kw_only=True):
    """Some runs; *next* is where to go on, or None after the last."""

    runs: tuple[RunView, ...]
    next: str | None


class CancelRun(Message, frozen=True, kw_only=True):
    """``runs.cancel`` → Cancellation.

    Attributes:
        compensate: have what the run did undone first.

    """

    id: str
    reason: str | None = None
    compensate: bool = False


class Cancellation(Message, frozen=True, kw_only=True):
    """Whether the cancel was recorded, and where the run stands: how it has ended, or "compensating".

    Not recorded means that it had ended before, or that its end was known already and it was being unwound.
    """

    recorded: bool
    status: RunStatus


class RetryRun(Message, frozen=True, kw_only=True):
    """``runs.retry`` → Retried."""

    id: str


class Retried(Message, frozen=True, kw_only=True):
    """Whether the retry was recorded, and where the run stands; not recorded means that it was not failed then.

    Attributes:
        attempt: 1 + how often the run has been retried.

    """

    recorded: bool
    status: RunStatus
    attempt: int


class RunsOfEvent(Message, frozen=True, kw_only=True):
    """``runs.of_event`` → EventRuns: the runs that an event started, once it has been matched.

    Attributes:
        wait_ms: how long the engine may wait for the event to be matched before it answers.

    """

    id: str
    name: str
    sequence: int
    target: str = ""
    wait_ms: int = 0


class EventRuns(Message, frozen=True, kw_only=True):
    """The ids of the runs that an event started; *matched* says whether that is all of them."""

    runs: tuple[str, ...]
    matched: bool


class RegisterFunctions(Message, frozen=True, kw_only=True):
    """``functions.register`` → Registered. The newest registration of an id wins."""

    functions: tuple[FunctionRecord, ...]


class DeleteFunction(Message, frozen=True, kw_only=True):
    """``functions.delete`` → Done: events start no more runs of it; running ones go on."""

    id: str


class Done(Message, frozen=True, kw_only=True):
    """The request was carried out; *changed* says whether anything was different before."""

    changed: bool


class Registered(Message, frozen=True, kw_only=True):
    """The functions are known and their queues exist; a worker keeps its tasks by renewing them within the lease.

    Attributes:
        shards: how many shards the namespace has. A worker that was told another number must not go on.
        warnings: what it has changed that may not be meant so, for people.

    """

    lease_seconds: float
    shards: int = 1
    warnings: tuple[str, ...] = ()


class FunctionView(Message, frozen=True, kw_only=True):
    """A registered function, as it is shown."""

    id: str
    queue: str
    triggers: tuple[str, ...]
    max_attempts: int
    timeout_ms: int | None


class FunctionsPage(Message, frozen=True, kw_only=True):
    """``functions.list`` → all registered functions, by id."""

    functions: tuple[FunctionView, ...]


class WorkerView(Message, frozen=True, kw_only=True):
    """A worker that answered just now."""

    id: str
    host: str
    pid: int
    queues: tuple[str, ...]
    functions: tuple[str, ...]
    concurrency: int
    running: int
    draining: bool
    started_at: str
    version: str


class WorkerCensus(Message, frozen=True, kw_only=True):
    """What a worker answers to the census: what it is, and the runs that it executes now."""

    worker: WorkerView
    runs: tuple[str, ...]


class Claim(Message, frozen=True, kw_only=True):
    """A task that a worker has taken: where it stands in the queue, and what names this delivery of it."""

    task: int
    lease: str


class Claims(Message, frozen=True, kw_only=True):
    """A hint of a worker to all engines: what it has taken, and what it has done with, since the last one.

    Attributes:
        begun: where the tasks come first that it has not told of before.
        ended: tasks, by where they stand in the queue.
        anew: it was asked, and has nothing else of the queue but *begun* and what follows; what it told before is over.

    """

    worker: str
    begun: tuple[Claim, ...] = ()
    ended: tuple[int, ...] = ()
    anew: bool = False


class AskForClaims(Message, frozen=True, kw_only=True):
    """A hint of an engine to workers: they shall tell of all that they have.

    Attributes:
        workers: which of them; empty for all.

    """

    workers: tuple[str, ...] = ()


class PassTold(Message, frozen=True, kw_only=True):
    """A hint of an engine to a worker: how a wait has ended that a pass of its lingers for.

    Attributes:
        run: whose pass.
        number: which one.
        end: of the wait; the run's state has it, and the journal may not have it yet. None where it is too large to be
            told: then the pass is not to linger any more.

    """

    run: str
    number: int
    end: WaitEnd | None


class WorkersPage(Message, frozen=True, kw_only=True):
    """``workers.list`` → the workers that answered, by id."""

    workers: tuple[WorkerView, ...]


class QueueView(Message, frozen=True, kw_only=True):
    """A queue: tasks that wait for a worker, tasks that a worker has, tasks handed out more than once."""

    name: str
    waiting: int
    running: int
    redelivered: int
    functions: tuple[str, ...]


class QueuesPage(Message, frozen=True, kw_only=True):
    """``queues.list`` → the queues of all registered functions, by name."""

    queues: tuple[QueueView, ...]


class ListEvents(Message, frozen=True, kw_only=True):
    """``events.list`` → EventsPage, newest first. *name* is exact, or a pattern like a trigger."""

    name: str | None = None
    limit: int = 50
    before: int | None = None


class StoredEvent(Message, frozen=True, kw_only=True):
    """A stored event, as it is shown. *data* is null where it did not fit into the answer (*left_out*)."""

    id: str
    name: str
    time: str
    source: str
    sequence: int
    data: msgspec.Raw
    metadata: dict[str, str]
    left_out: bool = False


class EventsPage(Message, frozen=True, kw_only=True):
    """Some events; *next* is where to go on, or None after the last."""

    events: tuple[StoredEvent, ...]
    next: int | None


class ArchiveView(Message, frozen=True, kw_only=True):
    """An engine's archive.

    Attributes:
        behind: how many messages of the streams are not copied to it yet; 0 where that is not known.
        problem: why it cannot be used now; None where it can.

    """

    behind: int = 0
    problem: str | None = None


class EngineView(Message, frozen=True, kw_only=True):
    """``engine.status`` → the engine that answered.

    Attributes:
        problems: why it is not ready, as its probe says; empty where it is.
        retention_ms: how long NATS keeps runs after their end; 0 for ever.
        archive: what becomes of them then; None where it has no archive.
        stuck_streams: those which take nothing more until the server is restarted, with what it says.

    """

    id: str
    host: str
    pid: int
    version: str
    namespace: str
    started_at: str
    problems: tuple[str, ...] = ()
    retention_ms: int = 0
    archive: ArchiveView | None = None
    stuck_streams: dict[str, str] = {}


def error_view(error: ErrorRecord | None) -> ErrorView | None:
    """Return an error as it is shown."""
    if error is None:
        return None
    return ErrorView(type=error.type, message=error.message, step=error.step, attempts=error.attempts, path=error.path)


def stored_event(event: EventRecord, sequence: int) -> StoredEvent:
    """Return a stored event as it is shown."""
    return StoredEvent(
        id=event.id,
        name=event.name,
        time=event.time,
        source=event.source,
        sequence=sequence,
        data=event.data,
        metadata=dict(event.metadata),
    )
