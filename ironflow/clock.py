"""Times as they are stored (whole milliseconds since 1970) and as they are shown (ISO 8601, UTC)."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta

from ironflow.errors import DefinitionError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_FIRST_MS = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND
_LAST_MS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND


def now_ms() -> int:
    """Return what this machine's clock says. Use it for what people read, never for what must not be early."""
    return to_ms(datetime.now(UTC))


def to_ms(when: datetime) -> int:
    """Return an aware datetime in whole milliseconds, rounded up."""
    delta = when - _EPOCH
    return -(-(delta.days * 86_400_000_000 + delta.seconds * 1_000_000 + delta.microseconds) // 1000)


def to_iso(milliseconds: int) -> str:
    """Return a time as "2026-11-21T20:03:00.123Z"; what lies beyond the calendar as its end.

    Of who writes records by other means than ours, any number may come.
    """
    seconds, rest = divmod(min(max(milliseconds, _FIRST_MS), _LAST_MS), 1000)
    return f"{_iso_of_second(seconds)}.{rest:03d}Z"


@functools.lru_cache(64)  # what happens now is written down again and again
def _iso_of_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()


def parse_when(when: str | datetime, what: str = "when") -> int:
    """Return a point in time in milliseconds.

    Args:
        when: an ISO 8601 text or a datetime, both with a time zone.
        what: the argument's name, for the message.

    Raises:
        DefinitionError: not a point in time, or without a time zone. It is a ValueError.

    """
    moment = _to_datetime(when, what)
    if moment.tzinfo is None or moment.utcoffset() is None:
        example = "'Z' or '+01:00' at the end" if isinstance(when, str) else "datetime.now(UTC)"
        msg = f"{what} has no time zone: {moment.isoformat()!r}; add one: {example}"
        raise DefinitionError(msg)
    return to_ms(moment)


def _to_datetime(when: object, what: str) -> datetime:
    if isinstance(when, datetime):
        return when
    if not isinstance(when, str):
        msg = f"{what} must be an ISO 8601 text or a datetime, got {when!r}"
        raise DefinitionError(msg)
    try:
        return datetime.fromisoformat(when)
    except ValueError as error:
        msg = f"{what} must be an ISO 8601 time like '2027-01-31T09:00:00+01:00', got {when!r}"
        raise DefinitionError(msg) from error
