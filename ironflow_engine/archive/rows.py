"""What of a stored message goes into which column: pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from ironflow.broker.protocol import StoredMessage
from ironflow.codec import decode_record
from ironflow.errors import named_error
from ironflow.names import parse_journal
from ironflow.records import TERMINAL, ErrorRecord, EventRecord, RunState, StepRecord

Row: TypeAlias = tuple[object, ...]

_EPOCH = datetime.fromtimestamp(0, UTC)
_LONGEST_TEXT = 8_000
"""Of an error that is searched; the record has all of it."""

RUNS = (
    ("id", "text"),
    ("function", "text"),
    ("queue", "text"),
    ("status", "text"),
    ("attempt", "integer"),
    ("event_id", "text"),
    ("event_name", "text"),
    ("started_at", "timestamptz"),
    ("finished_at", "timestamptz"),
    ("error", "text"),
    ("sequence", "bigint"),
    ("state", "bytea"),
)
STEPS = (
    ("run_id", "text"),
    ("key", "text"),
    ("name", "text"),
    ("kind", "text"),
    ("status", "text"),
    ("attempt", "integer"),
    ("finished_at", "timestamptz"),
    ("error", "text"),
    ("sequence", "bigint"),
    ("record", "bytea"),
)
RECORDS = (
    ("run_id", "text"),
    ("key", "text"),
    ("stored_at", "timestamptz"),
    ("sequence", "bigint"),
    ("record", "bytea"),
)
EVENTS = (
    ("sequence", "bigint"),
    ("id", "text"),
    ("name", "text"),
    ("source", "text"),
    ("stored_at", "timestamptz"),
    ("record", "bytea"),
)


def run_row(message: StoredMessage) -> Row:
    """Return a run's row.

    Raises:
        SerializationError: it cannot be read.

    """
    state = decode_record(RunState, message.payload)
    return (
        state.id,
        state.function,
        state.queue,
        state.status,
        state.attempt,
        plain(state.event_id),
        plain(state.event_name),
        moment(state.started_at),
        moment(state.finished_at) if state.status in TERMINAL else None,
        error_text(state.error),
        message.sequence,
        message.payload,
    )


def step_row(message: StoredMessage) -> Row:
    """Return the row of a recorded step.

    Raises:
        SerializationError: it cannot be read.

    """
    address = parse_journal(message.subject)
    record = decode_record(StepRecord, message.payload)
    return (
        address.run,
        address.step,
        plain(record.name),
        record.kind,
        record.status,
        record.attempt,
        moment(message.time_ms),
        error_text(record.error),
        message.sequence,
        message.payload,
    )


def record_row(message: StoredMessage) -> Row:
    """Return the row of a run's event, or of an outcome."""
    address = parse_journal(message.subject)
    key = ".".join((address.kind, *address.rest))
    return (address.run, key, moment(message.time_ms), message.sequence, message.payload)


def event_row(message: StoredMessage) -> Row:
    """Return an event's row.

    Raises:
        SerializationError: it cannot be read.

    """
    event = decode_record(EventRecord, message.payload)
    texts = (plain(event.id), plain(event.name), plain(event.source))
    return (message.sequence, *texts, moment(message.time_ms), message.payload)


def moment(milliseconds: int) -> datetime:
    """Return a time as Postgres takes it."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def milliseconds(when: datetime) -> int:
    """Return a time as we keep it."""
    return (when - _EPOCH) // timedelta(milliseconds=1)


def plain(text: str) -> str:
    """Return a text without what Postgres cannot store."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def error_text(error: ErrorRecord | None) -> str | None:
    """Return an error as it is searched."""
    return None if error is None else plain(named_error(error.type, error.message)[:_LONGEST_TEXT])
