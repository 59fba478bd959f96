"""Events as handlers and clients see them, and how they become what is stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, cast

from ironflow.codec import decode_value, encode_value
from ironflow.errors import DefinitionError, LimitError, SerializationError
from ironflow.limits import DEFAULT_LIMITS, Limits, check_payload
from ironflow.names import RESERVED_ID_PREFIX
from ironflow.records import EventRecord

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Event(Generic[T]):
    """A published event.

    Attributes:
        id: unique in the namespace; publishing it again has no effect.
        name: like ``order.placed``.
        data: the payload, decoded into the type that the reader asked for.
        time: when it was published, by the publisher's clock; aware, UTC.
        source: who published it; free text.
        metadata: texts beside the payload.

    """

    id: str
    name: str
    data: T
    time: datetime
    source: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


def read_event(record: EventRecord, data_type: Any = Any) -> Event[Any]:
    """Return a stored event with its data decoded into *data_type*.

    Raises:
        SerializationError: the data does not fit, or its time is none; names the place, like
            ``data.items[0].price``.

    """
    return Event(
        id=record.id,
        name=record.name,
        data=decode_value(record.data, data_type, "data"),
        time=_read_time(record.time),
        source=record.source,
        metadata=dict(record.metadata),
    )


def _read_time(text: str) -> datetime:
    # Whoever may publish to NATS may write events, and not all of them have read this.
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is UTC:  # as we write it
            return time
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the latter where UTC has another year
        raise SerializationError(f"time: {error}", "time") from error


def make_event(
    *,
    event_id: str,
    name: str,
    data: object,
    time: str,
    source: str = "",
    metadata: Mapping[str, str] | None = None,
    target: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> EventRecord:
    """Return the record of a new event whose *name* has been checked.

    Raises:
        DefinitionError: the id is not a non-empty text, the source no text, or metadata not a mapping of texts.
        SerializationError: *data* cannot be carried as JSON.
        LimitError: the id, the data, the source or the metadata is too large.

    """
    if not target:  # else the id is made of one that was checked
        check_event_id(event_id, limits)
    payload = encode_value(data, "data")
    check_payload(bytes(payload), f"data of event {name!r}", limits.payload_bytes)
    return EventRecord(
        id=event_id,
        name=name,
        time=time,
        data=payload,
        source=_check_source(source, limits),
        metadata={} if metadata is None else _check_metadata(metadata, limits),
        target=target,
    )


def check_event_id(event_id: object, limits: Limits = DEFAULT_LIMITS) -> None:
    """Refuse what cannot be an event's id: anything but a non-empty text of printable characters.

    Raises:
        DefinitionError: it is not such a text.
        LimitError: it is too long.

    """
    # The id travels in a NATS header, where a line break would end it.
    if not isinstance(event_id, str) or not event_id or not event_id.isprintable() or event_id != event_id.strip():
        msg = f"an event id must be a non-empty printable text without spaces around it, got {event_id!r}"
        raise DefinitionError(msg)
    if event_id.startswith(RESERVED_ID_PREFIX):
        msg = f"event id {event_id!r} is reserved: ids that start with {RESERVED_ID_PREFIX!r} are Ironflow's own"
        raise DefinitionError(msg)
    if len(event_id.encode()) > limits.id_bytes:
        msg = f"an event id may have at most {limits.id_bytes} bytes, got {len(event_id.encode())}"
        raise LimitError(msg)


def _check_source(source: object, limits: Limits) -> str:
    checked = check_text(source, "source")
    size = len(checked.encode())
    if size > limits.source_bytes:
        msg = f"source is {size:,} bytes; at most {limits.source_bytes:,} are allowed"
        raise LimitError(msg)
    return checked


def _check_metadata(metadata: object, limits: Limits) -> dict[str, str]:
    if not isinstance(metadata, Mapping):
        msg = f"metadata must map texts to texts, got {metadata!r}"
        raise DefinitionError(msg)
    checked = {
        check_text(key, "each key of metadata"): check_text(value, f"metadata {key!r}")
        for key, value in cast("Mapping[object, object]", metadata).items()
    }
    size = sum(len(key.encode()) + len(value.encode()) for key, value in checked.items())
    if size > limits.metadata_bytes:
        msg = f"metadata is {size:,} bytes; at most {limits.metadata_bytes:,} are allowed"
        raise LimitError(msg)
    return checked


def check_text(value: object, what: str) -> str:
    """Refuse what cannot be stored as text.

    Raises:
        DefinitionError: it is no text, or has characters that UTF-8 has not.

    """
    if not isinstance(value, str):
        msg = f"{what} must be a text, got {value!r}"
        raise DefinitionError(msg)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        msg = f"{what} is not valid text, got {value!r}: {error.reason}"
        raise DefinitionError(msg) from error
    return value
