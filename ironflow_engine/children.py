"""What runs make of their child runs, and the ends of child runs of their parents: pure.

A parent's step waits for its child; the engine that folds that publishes the event which starts the child as a
run of its own. The child's end becomes the step's result, unless the time to wait was over first: the journal
takes one of the two. A parent that ends has its children ended. A child may be started while its parent ends:
one of the two writes of their states comes first, so either the parent's end finds the child, or whoever has
started the child finds that nothing waits for it (:func:`is_orphan`).

Nobody gets to know what a child did that is ended so, and nothing else can undo it. So it undoes that itself, unless
somebody has cancelled its parent and did not ask for that (:func:`undo_what_they_did`).
"""

from __future__ import annotations

import re

import msgspec
from msgspec.structs import replace

from ironflow.clock import to_iso
from ironflow.durations import format_milliseconds
from ironflow.errors import InvokeError, InvokeTimeoutError
from ironflow.fences import is_fence
from ironflow.names import invoke_event_id, is_invoke_event_id, parse_step_key, run_id, wait_timer
from ironflow.records import (
    NULL,
    TERMINAL,
    ErrorRecord,
    EventRecord,
    ParentLink,
    RunState,
    StepRecord,
    TimerRecord,
    WaitRecord,
)
from ironflow.triggers import INVOKED
from ironflow_engine.facts import (
    Command,
    Decision,
    EndChild,
    EndChildren,
    ReportChild,
    SetTimer,
    StartChild,
    WaitClosed,
    WaitRecorded,
)

PARENT_ENDED = "the run that waited for it has ended"
PATIENCE_OVER = "the time that the run waited for it was over"
BRANCH_CANCELLED = "the branch that waited for it was cancelled"

_LINK = re.compile(r"[A-Za-z0-9]+ [A-Za-z0-9_-]+ [A-Za-z0-9_=/.-]+")


def child_of(run: str, step: str, wait: WaitRecord) -> str:
    """Return the id of the run that a step of a run waits for."""
    return run_id(wait.function, invoke_event_id(run, step))


def invoke(state: RunState, fact: WaitRecorded, timer: TimerRecord) -> Decision:
    """Return what a step calls for that waits for a child run.

    Args:
        state: the parent.
        fact: that it waits.
        timer: the end of its time to wait, where that is bounded.

    """
    wait = fact.record
    event = EventRecord(
        id=invoke_event_id(state.id, fact.step),
        name=INVOKED,
        time=to_iso(fact.time_ms),
        data=wait.data,
        source=f"run/{state.id}",
        metadata=wait.trace,
        target=wait.function,
        parent=ParentLink(run=state.id, queue=state.queue, step=fact.step),
        depth=state.depth + 1,
    )
    commands: list[Command] = [
        StartChild(run=state.id, queue=state.queue, step=fact.step, wait=replace(wait, data=NULL), event=event)
    ]
    if wait.delay_ms is not None:
        # What the child was given need not be kept once more.
        bare = replace(timer, wait=replace(wait, data=NULL))
        commands.append(SetTimer(timer=wait_timer(fact.step), record=bare))
    return Decision(state if state.has_children else replace(state, has_children=True), tuple(commands))


def close(state: RunState, fact: WaitClosed) -> Decision:
    """Return what is to be done about a child whose parent's branch was cancelled."""
    if not _goes_on(state):
        return Decision(state)
    child = child_of(fact.run, fact.step, fact.wait)
    return Decision(state, (EndChild(run=fact.run, child=child, reason=BRANCH_CANCELLED),))


def leave(state: RunState) -> tuple[Command, ...]:
    """Return what is left to do about the children of a run that has ended, or has begun to undo what it did."""
    compensate = undo_what_they_did(state)
    return (EndChildren(run=state.id, queue=state.queue, compensate=compensate),) if state.has_children else ()


def undo_what_they_did(parent: RunState | None) -> bool:
    """Tell whether children that are left behind by a run undo what they did: unless it was just cancelled."""
    if parent is None or parent.status != "cancelled":
        return True
    return parent.ending is not None or parent.compensation is not None


def report(state: RunState, output: msgspec.Raw = NULL) -> tuple[Command, ...]:
    """Return what the end of a run means to the run that waits for it."""
    if state.parent is None:
        return ()
    report = ReportChild(
        run=state.id,
        function=state.function,
        parent=state.parent,
        output=output if state.status == "completed" else NULL,
        error=None if state.status == "completed" else _failure(state),
        time_ms=state.finished_at,
    )
    return (report,)


def _failure(state: RunState) -> ErrorRecord:
    """Return the error of a parent's step whose child failed or was cancelled."""
    error = state.error
    if error is None:
        cancelled = state.status == "cancelled"
        error = ErrorRecord(
            type="Cancelled" if cancelled else "Unknown",
            message="it was cancelled" if cancelled else "no reason recorded",
        )
    return ErrorRecord(type=InvokeError.__name__, message=error.message, cause=error.type)


def _goes_on(state: RunState) -> bool:
    return state.status not in TERMINAL and state.ending is None


# What is recorded of a step


def result(command: ReportChild, wait: WaitRecord, waiting_since_ms: int) -> StepRecord:
    """Return the result of the step that waited for a child which has ended."""
    record = _step(wait, command.error, max(0, command.time_ms - waiting_since_ms))
    return replace(record, output=command.output)


def time_out(wait: WaitRecord) -> StepRecord:
    """Return the result of a step whose time to wait is over."""
    allowed = format_milliseconds(wait.delay_ms or 0)
    message = f"it did not end within {allowed}, and was cancelled"
    error = ErrorRecord(type=InvokeTimeoutError.__name__, message=message, cause="TimeoutError")
    return _step(wait, error, wait.delay_ms or 0)


def too_large(wait: WaitRecord, what: str, reason: object) -> StepRecord:
    """Return the result of a step where the server does not take what it was given, or what would be its result."""
    message = f"{what} of step {wait.name!r} is larger than the server takes: {reason}"
    return _step(wait, ErrorRecord(type="PayloadTooLargeError", message=message), 0)


def _step(wait: WaitRecord, error: ErrorRecord | None, duration_ms: int) -> StepRecord:
    return StepRecord(
        name=wait.name,
        kind=wait.kind,
        scope=wait.scope,
        token="",  # whoever records it marks it
        status="completed" if error is None else "failed",
        error=None if error is None else replace(error, step=wait.name),
        duration_ms=duration_ms,
    )


def has_timed_out(record: StepRecord | None) -> bool:
    """Tell whether a step's result says that its time to wait was over first."""
    return record is not None and record.error is not None and record.error.type == InvokeTimeoutError.__name__


def has_no_end(record: StepRecord | None) -> bool:
    """Tell whether a step's result, where there is one, came from elsewhere than its child.

    Whoever recorded a time-out may have died before the child was ended. And the pass that undoes what the parent did
    takes the places of results, also before its child is ended.
    """
    return record is None or has_timed_out(record) or is_fence(record)


# What is believed


def claims_parent(event: EventRecord) -> bool:
    """Tell whether an event says that a run waits for what it starts. Whoever may publish to NATS may say so."""
    return event.parent is not None or is_invoke_event_id(event.id)


def is_sound(link: ParentLink | None) -> bool:
    """Tell whether the parts of a link can be parts of a subject."""
    return link is not None and _LINK.fullmatch(f"{link.run} {link.queue} {link.step}") is not None


def is_invoked_by(event: EventRecord, wait: WaitRecord) -> bool:
    """Tell whether an event is what a recorded step has called for."""
    link = event.parent
    return (
        link is not None
        and wait.kind == "invoke"
        and event.id == invoke_event_id(link.run, link.step)
        and event.target == wait.function
        and bytes(event.data) == bytes(wait.data)
    )


def is_orphan(parent: RunState | None, link: ParentLink, record: StepRecord | None, *, closed: bool) -> bool:
    """Tell whether nothing waits for the end of a child.

    Args:
        parent: the state of the run that started it.
        link: which step of that.
        record: that step's result, where it has one.
        closed: whether its branch was cancelled.

    """
    if parent is None or not _goes_on(parent) or closed or record is not None:
        return True
    # A step that had neither succeeded nor failed when its run failed is done anew, with another child.
    return parse_step_key(link.step)[1] < parent.attempt - 1
