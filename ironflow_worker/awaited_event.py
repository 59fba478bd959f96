"""What a call of ``step.wait_for_event`` asks for, and what it returns: pure."""

from __future__ import annotations

from types import EllipsisType
from typing import Any, cast, get_args

import msgspec

from ironflow.annotations import PLAIN, readable
from ironflow.codec import decode_record, encode_value
from ironflow.durations import Duration, parse_duration
from ironflow.errors import DefinitionError, LimitError, WaitTimeoutError
from ironflow.events import Event, read_event
from ironflow.limits import Limits
from ironflow.matching import canonical_at, parse_path, read_data, show_path
from ironflow.records import EventRecord, OnTimeout, StepRecord
from ironflow.triggers import check_event_name
from ironflow_worker.failures import raise_recorded

_ON_TIMEOUT = get_args(OnTimeout)


class AwaitedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A checked call.

    Attributes:
        path: where in the event's data to look; None where any event of the name will do.
        value: what must stand there; an ellipsis where the triggering event says it.
        data_type: what to decode the event's data into.

    """

    event: str
    path: str | None
    value: Any
    timeout_ms: int
    on_timeout: OnTimeout
    data_type: Any

    def compared(self, trigger: EventRecord, limits: Limits) -> str | None:
        """Return the canonical JSON of what the awaited event must have at the path; None where there is no path.

        Asked for once only, since it is recorded with the wait.

        Raises:
            DefinitionError: the triggering event has nothing there, or the value is nested too deep to be compared.
            SerializationError: JSON cannot carry the value.
            LimitError: the value is too large.

        """
        if self.path is None:
            return None
        given = not isinstance(self.value, EllipsisType)
        data, path = (encode_value(self.value, "value"), "") if given else (trigger.data, self.path)
        value = canonical_at(read_data(data), path)
        if value is None:
            msg = (
                f"value cannot be compared, got {self.value!r}"
                if given
                else f"match: the triggering event {trigger.name!r} has nothing at {show_path(path)!r}; "
                "pass value=… to compare the awaited event with something else"
            )
            raise DefinitionError(msg)
        size = len(value.encode()) + len(self.path.encode())
        if size > limits.match_bytes:
            msg = f"match compares values of at most {limits.match_bytes:,} bytes, got {size:,}: {value[:40]}…"
            raise LimitError(msg)
        return value

    def result(self, record: StepRecord, sequence: int) -> Event[Any] | None:
        """Return or raise what is recorded of the wait.

        Args:
            record: the wait's end.
            sequence: where it stands in the journal, if it is a failure.

        Raises:
            WaitTimeoutError: no event came in time.
            SerializationError: the event's data does not decode.

        """
        if record.status == "failed":
            raise_recorded(record, sequence)
        output = bytes(record.output)
        return None if output == b"null" else read_event(decode_record(EventRecord, output), self.data_type)


def is_timeout(record: StepRecord) -> bool:
    """Tell whether a failed wait failed because no event came in time."""
    return record.error is not None and record.error.type == WaitTimeoutError.__name__


def awaited_event(
    event: str,
    match: object,
    value: object,
    data_type: Any,
    timeout: Duration,
    on_timeout: object,
    limits: Limits,
) -> AwaitedEvent:
    """Check a call.

    Raises:
        DefinitionError: something in it is not allowed.
        LimitError: the event's name or the timeout is too long.

    """
    check_event_name(event, limits.event_name_bytes)
    timeout_ms = parse_duration(timeout, "timeout")
    if on_timeout not in _ON_TIMEOUT:
        msg = f"on_timeout must be one of {', '.join(map(repr, _ON_TIMEOUT))}, got {on_timeout!r}"
        raise DefinitionError(msg)
    data = PLAIN if data_type is None else readable(data_type)
    if data.problem is not None:
        msg = f"type must be a type that JSON can be decoded into, got {data_type!r}: {data.problem}"
        raise DefinitionError(msg)
    path = None if match is None else parse_path(match)
    if path is None and not isinstance(value, EllipsisType):
        msg = "value= says what the awaited event must have at match=; pass match= too"
        raise DefinitionError(msg)
    return AwaitedEvent(
        event=event,
        path=path,
        value=value,
        timeout_ms=timeout_ms,
        on_timeout=cast("OnTimeout", on_timeout),
        data_type=data.type,
    )
