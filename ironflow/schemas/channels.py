"""Who sends what where: the one part of the wire contract that no record can say."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from ironflow import messages
from ironflow.engine_api import Empty
from ironflow.names import Names, bucket_stream, digest
from ironflow.records import (
    BeganRecord,
    CanaryRecord,
    ClosedRecord,
    DueRecord,
    DutyRecord,
    EventRecord,
    ExcusedRecord,
    FunctionRecord,
    InputRecord,
    OutcomeRecord,
    PurgedRuns,
    RetryRecord,
    RunState,
    StepRecord,
    Task,
    TimerRecord,
    TryRecord,
    WaitEntry,
    WaitPath,
    WaitRecord,
)

Role = Literal["client", "engine", "worker"]

# Names builds addresses from values; these stand where a parameter will, and survive its escaping.
_TEXT = "PARAMETER-"
_NUMBER = {910_001: "number", 910_002: "attempt", 910_003: "bucket", 910_004: "epoch", 910_005: "count"}
_MARK = re.compile(rf"{_TEXT}([a-z]+)|({'|'.join(map(str, _NUMBER))})")
_PASS, _ATTEMPT, _BUCKET, _EPOCH, _COUNT = _NUMBER
_QUEUE, _RUN, _STEP, _TIMER, _EVENT, _FUNCTION, _DUTY, _WORKER = (
    f"{_TEXT}{name}" for name in ("queue", "run", "step", "timer", "event", "function", "duty", "worker")
)
_PATH, _VALUE = "path", "value"
_HASHES = {digest(name.encode()): name for name in (_PATH, _VALUE)}

PARAMETERS = {
    "attempt": "which attempt of the step failed, from 1",
    "bucket": "the due time in units of 30 seconds since 1970",
    "count": "which worker it is that began the pass after others had, from 1",
    "duty": "what only one engine at a time does",
    "epoch": "how often the run has been retried by then",
    "event": "the event's name, escaped token by token; its dots stay",
    "function": "the function's id, escaped",
    "number": "the pass; 0 is the first",
    "path": 'a hash of the path within the event\'s data at which a wait looks, or "any"',
    "queue": "the queue of the run's function",
    "run": "the run's id, a hash of the function's and the event's id",
    "step": (
        "the step's scope and name, escaped, or hashed where that is long; "
        "a step that is done again in a retried run has the epoch behind it, as one more token"
    ),
    "timer": "which timer of the run it is",
    "worker": "which worker it is, escaped",
    "value": 'a hash of the canonical JSON of what must stand there, or "any"',
}
"""What each parameter of an address stands for."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of subject.

    Attributes:
        name: its key in the document.
        address: the subject, with ``{parameters}``.
        text: what it is for.
        message: what it carries; None for an empty body.
        senders: who publishes on it.
        receivers: who consumes or reads it.
        stream: where its messages are stored; None for core NATS, where nothing is.
        answer: what a request on it is answered with; None where it is no request.

    """

    name: str
    address: str
    text: str
    message: type[msgspec.Struct] | None
    senders: tuple[Role, ...]
    receivers: tuple[Role, ...]
    stream: str | None = None
    answer: type[msgspec.Struct] | None = None


VERBS: dict[str, tuple[type[msgspec.Struct], type[msgspec.Struct] | None]] = {
    "engine.status": (Empty, messages.EngineView),
    "events.list": (messages.ListEvents, messages.EventsPage),
    "functions.delete": (messages.DeleteFunction, messages.Done),
    "functions.list": (Empty, messages.FunctionsPage),
    "functions.register": (messages.RegisterFunctions, messages.Registered),
    "queues.list": (Empty, messages.QueuesPage),
    "runs.cancel": (messages.CancelRun, messages.Cancellation),
    "runs.get": (messages.GetRun, messages.RunView),
    "runs.list": (messages.ListRuns, messages.RunsPage),
    "runs.of_event": (messages.RunsOfEvent, messages.EventRuns),
    "runs.part": (messages.GetRunPart, None),
    "runs.retry": (messages.RetryRun, messages.Retried),
    "runs.steps": (messages.GetSteps, messages.StepsPage),
    "workers.list": (Empty, messages.WorkersPage),
}
"""The engine's verbs: what is asked with, and what the result of the answer is (None: any JSON)."""


def stored_channels(names: Names) -> tuple[Channel, ...]:
    """Return the channels whose messages are kept in a stream or bucket."""
    return (
        Channel(
            name="events",
            address=_address(names.event(_EVENT)),
            text="Published events. The message id is the event's id: publishing one again is harmless.",
            message=EventRecord,
            senders=("client", "engine", "worker"),
            receivers=("engine",),
            stream=names.events,
        ),
        Channel(
            name="tasks",
            address=_address(names.task(_QUEUE, _RUN, _PASS)),
            text="Passes to be executed. A run has at most one at a time.",
            message=Task,
            senders=("engine",),
            receivers=("worker",),
            stream=names.all_shards[0].tasks,
        ),
        *_journal_channels(names),
        Channel(
            name="timers",
            address=_address(names.timer(_BUCKET * 30_000, _RUN, _EPOCH, _TIMER)),
            text="Schedules: the server moves each to `fired` when it is due.",
            message=TimerRecord,
            senders=("engine",),
            receivers=(),
            stream=names.all_shards[0].timers,
        ),
        Channel(
            name="fired",
            address=_address(names.fired(_RUN, _TIMER)),
            text="Schedules that were due, put here by the server. A hint: one can come late, or twice.",
            message=TimerRecord,
            senders=(),
            receivers=("engine",),
            stream=names.all_shards[0].timers,
        ),
        *_bucket_channels(names),
        *_wait_channels(names),
        *_canary_channels(names),
    )


def core_channels(names: Names) -> tuple[Channel, ...]:
    """Return the channels over core NATS: requests and hints, of which nothing is stored."""
    return (
        Channel(
            name="ended",
            address=_address(names.ended(_RUN)),
            text=(
                "The hint that a run has ended, and how. The event's data is left out, and so is an output over 32 "
                "KiB; ask the engine for the rest, and for all of it where the payload is empty."
            ),
            message=messages.RunView,
            senders=("engine",),
            receivers=("client",),
        ),
        Channel(
            name="cancel",
            address=_address(names.cancelled(_RUN)),
            text=(
                "The hint that a run was ended from outside: cancelled, or because it took too long. Where what it "
                "did is being undone, the payload is the number of the pass that was ended, in decimal; passes "
                "after that one go on. Otherwise it is empty."
            ),
            message=None,
            senders=("engine",),
            receivers=("worker",),
        ),
        Channel(
            name="told",
            address=_address(names.told(_QUEUE, _WORKER)),
            text=(
                "The hint to a worker how a wait for an event has ended, where its pass is still open and waits for "
                "nothing else. The wait's record names the worker."
            ),
            message=messages.PassTold,
            senders=("engine",),
            receivers=("worker",),
        ),
        Channel(
            name="census",
            address=_address(names.worker_census),
            text="Every worker answers what it is and does.",
            message=None,
            senders=("engine",),
            receivers=("worker",),
            answer=messages.WorkerCensus,
        ),
    )


def _journal_channels(names: Names) -> tuple[Channel, ...]:
    both: tuple[Role, ...] = ("engine", "worker")
    worker: tuple[Role, ...] = ("worker",)
    engine: tuple[Role, ...] = ("engine",)
    rows: tuple[tuple[str, str, type[msgspec.Struct], tuple[Role, ...], tuple[Role, ...]], ...] = (
        ("input", names.journal_input(_QUEUE, _RUN), InputRecord, both, both),
        ("step", names.journal_step(_QUEUE, _RUN, _STEP), StepRecord, both, both),
        ("wait", names.journal_wait(_QUEUE, _RUN, _STEP), WaitRecord, worker, both),
        ("try", names.journal_try(_QUEUE, _RUN, _STEP, _ATTEMPT), TryRecord, worker, both),
        ("due", names.journal_due(_QUEUE, _RUN, _STEP, _ATTEMPT), DueRecord, engine, worker),
        ("began", names.journal_began(_QUEUE, _RUN, _PASS, _COUNT), BeganRecord, worker, worker),
        ("excused", names.journal_excused(_QUEUE, _RUN, _PASS, _COUNT), ExcusedRecord, worker, worker),
        ("closed", names.journal_closed(_QUEUE, _RUN, _STEP), ClosedRecord, worker, both),
        ("retry", names.journal_retry(_QUEUE, _RUN, _EPOCH), RetryRecord, engine, both),
        ("outcome", names.journal_outcome(_QUEUE, _RUN, _PASS), OutcomeRecord, both, both),
    )
    return tuple(
        Channel(
            name=f"journal.{kind}",
            address=_address(subject),
            text="A fact about a run, written once: the server refuses a second message on the subject.",
            message=record,
            senders=senders,
            receivers=receivers,
            stream=names.all_shards[0].journal,
        )
        for kind, subject, record, senders, receivers in rows
    )


def _bucket_channels(names: Names) -> tuple[Channel, ...]:
    rows: tuple[tuple[str, str, str, type[msgspec.Struct]], ...] = (
        (names.runs_bucket, names.run_key(_RUN), "Where each run stands.", RunState),
        (names.runs_bucket, names.purged_key(_COUNT), "Which runs were deleted after their retention.", PurgedRuns),
        (names.functions_bucket, names.function_key(_FUNCTION), "The registered functions.", FunctionRecord),
        (names.engines_bucket, names.duty_key(_DUTY), "Which engine has a duty.", DutyRecord),
    )
    return tuple(
        Channel(
            name=f"{bucket}.purged" if record is PurgedRuns else bucket,
            address=_address(subject),
            text=f"{text} A key-value bucket, written by compare-and-set.",
            message=record,
            senders=("engine",),
            receivers=("engine",),
            stream=bucket_stream(bucket),
        )
        for bucket, subject, text, record in rows
    )


def _wait_channels(names: Names) -> tuple[Channel, ...]:
    engine: tuple[Role, ...] = ("engine",)
    rows: tuple[tuple[str, str, str, type[msgspec.Struct]], ...] = (
        (
            names.waits_bucket,
            names.wait_key(_EVENT, _PATH, _VALUE, _RUN, _STEP),
            "The open waits for events. The event's name is escaped as one token here, its dots too.",
            WaitEntry,
        ),
        (
            f"{names.waits_bucket}.paths",
            names.wait_path_key(_EVENT, _PATH),
            "The paths at which the waits for an event look.",
            WaitPath,
        ),
    )
    return tuple(
        Channel(
            name=name,
            address=_address(subject),
            text=f"{text} A key-value bucket; a hint, since the run's state decides what a wait ends with.",
            message=record,
            senders=engine,
            receivers=engine,
            stream=bucket_stream(names.waits_bucket),
        )
        for name, subject, text, record in rows
    )


def _canary_channels(names: Names) -> tuple[Channel, ...]:
    rows: tuple[tuple[str, str, Role, str], ...] = (
        ("canary.engine", names.engine_canary, "engine", bucket_stream(names.engines_bucket)),
        ("canary.worker", names.all_shards[0].journal_canary(_QUEUE), "worker", names.all_shards[0].journal),
    )
    return tuple(
        Channel(
            name=name,
            address=_address(subject),
            text="Written to see whether writing works. One message stays; nobody reads it.",
            message=CanaryRecord,
            senders=(sender,),
            receivers=(),
            stream=stream,
        )
        for name, subject, sender, stream in rows
    )


def _address(subject: str) -> str:
    for hashed, name in _HASHES.items():
        subject = subject.replace(hashed, f"{{{name}}}")
    return _MARK.sub(lambda found: f"{{{found[1] or _NUMBER[int(found[2])]}}}", subject)
