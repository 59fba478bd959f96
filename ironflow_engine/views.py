"""How runs, steps and functions are shown: pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ironflow.broker.protocol import StoredMessage
from ironflow.clock import to_iso
from ironflow.codec import decode_record
from ironflow.fences import is_fence
from ironflow.messages import ErrorView, EventView, FunctionView, RunView, StepView, error_view
from ironflow.names import PASS_TOKEN, parse_journal, parse_step_key
from ironflow.records import NULL, FunctionRecord, RunState, RunStatus, StepRecord, StepStatus, TryRecord, WaitRecord

_OPEN_STATUS: dict[str, StepStatus] = {"sleep": "sleeping"}


def run_view(state: RunState, *, status: RunStatus, event_data: msgspec.Raw, output: msgspec.Raw) -> RunView:
    """Return a run as it is shown.

    Args:
        state: its state.
        status: its status; of a live run only a worker knows whether it has begun.
        event_data: the JSON of the triggering event's data.
        output: the JSON of its output.

    """
    return RunView(
        id=state.id,
        function=state.function,
        queue=state.queue,
        status=status,
        compensation=state.compensation,
        event=EventView(id=state.event_id, name=state.event_name, data=event_data),
        attempt=state.attempt,
        output=output,
        error=error_view(state.error),
        started_at=to_iso(state.started_at),
        finished_at=to_iso(state.finished_at) if state.finished_at else None,
    )


class _Open(msgspec.Struct):
    """A step that has no result yet."""

    since_ms: int
    wait: WaitRecord | None = None
    attempt: TryRecord | None = None


class StepHistory:
    """Builds the views of a run's steps from its journal.

    Recorded steps come in the order in which they were recorded, each with its place; open ones are what is
    left at the end.
    """

    def __init__(self) -> None:
        self.recorded: list[tuple[int, StepView]] = []
        self._open: dict[str, _Open] = {}
        self._closed: set[str] = set()

    def read(self, messages: Iterable[StoredMessage]) -> None:
        """Take in journal messages, in order."""
        for message in messages:
            address = parse_journal(message.subject)
            if not address.step or parse_step_key(address.step)[0] == PASS_TOKEN:
                continue
            self._read_one(address.kind, address.step, message)

    def open_steps(self) -> list[StepView]:
        """Return the steps without a result: sleeping, waiting, or to be tried again."""
        return [_open_view(open_step) for step, open_step in self._open.items() if step not in self._closed]

    def _read_one(self, kind: str, step: str, message: StoredMessage) -> None:
        match kind:
            case "step":
                self._closed.add(step)
                record = decode_record(StepRecord, message.payload)
                # What keeps a step from having a result is none.
                if not is_fence(record):
                    self.recorded.append((message.sequence, _recorded_view(record, message.time_ms)))
            case "wait":
                self._open_step(step, message.time_ms).wait = decode_record(WaitRecord, message.payload)
            case "try":
                self._open_step(step, message.time_ms).attempt = decode_record(TryRecord, message.payload)
            case _:
                pass

    def _open_step(self, step: str, since_ms: int) -> _Open:
        return self._open.setdefault(step, _Open(since_ms))


def _recorded_view(record: StepRecord, recorded_ms: int) -> StepView:
    return StepView(
        name=record.name,
        scope=record.scope,
        kind=record.kind,
        status=record.status,
        attempt=record.attempt,
        output=record.output,
        error=error_view(record.error),
        started_at=to_iso(recorded_ms - record.duration_ms),
        finished_at=to_iso(recorded_ms),
    )


def _open_view(open_step: _Open) -> StepView:
    record = open_step.attempt or open_step.wait
    if record is None:
        msg = "an open step has a wait or a failed attempt"
        raise AssertionError(msg)
    error: ErrorView | None = None
    status: StepStatus = _OPEN_STATUS.get(record.kind, "waiting")
    attempt = 1
    since = open_step.since_ms
    if open_step.attempt is not None:
        error, status, attempt = error_view(open_step.attempt.error), "retrying", open_step.attempt.attempt
        since -= open_step.attempt.duration_ms
    return StepView(
        name=record.name,
        scope=record.scope,
        kind=record.kind,
        status=status,
        attempt=attempt,
        output=NULL,
        error=error,
        started_at=to_iso(since),
        finished_at=None,
    )


def function_view(function: FunctionRecord) -> FunctionView:
    """Return a function as it is shown."""
    return FunctionView(
        id=function.id,
        queue=function.queue,
        triggers=function.triggers,
        max_attempts=function.retry.max_attempts,
        timeout_ms=function.timeout_ms,
    )
