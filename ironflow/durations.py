"""Durations as people write them: "30s", "1h30m", a number of seconds, or a timedelta."""

from __future__ import annotations

import functools
import math
import re
from datetime import timedelta
from typing import TypeAlias

from ironflow.errors import DefinitionError, LimitError

Duration: TypeAlias = str | int | float | timedelta

LONGEST_DAYS = 366
"""No wait is longer than this; it also keeps timers far from the year 2262, past which NATS fires them at once."""

_LONGEST_MS = LONGEST_DAYS * 24 * 60 * 60 * 1000
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_TEXT = 'a text like "250ms", "30s", "5m", "2h", "7d" or "1h30m"'


def parse_duration(value: Duration, what: str = "duration") -> int:
    """Return *value* in whole milliseconds, rounded up so that a wait never ends early.

    Args:
        value: a text with units, a number of **seconds**, or a timedelta.
        what: the argument's name, for the message.

    Raises:
        DefinitionError: not a duration, zero or negative. It is a ValueError.
        LimitError: longer than 366 days.

    """
    milliseconds = _to_milliseconds(value, what)
    if math.isnan(milliseconds) or milliseconds <= 0:
        msg = f"{what} must be longer than zero, got {value!r}"
        raise DefinitionError(msg)
    if milliseconds > _LONGEST_MS:
        msg = f"{what} must be at most {LONGEST_DAYS} days, got {value!r}"
        raise LimitError(msg)
    # What binary fractions add is no part of what was written: 2.007 s are 2007 ms, and not a bit more.
    return max(1, math.ceil(round(milliseconds, 6)))


def _to_milliseconds(value: object, what: str) -> float:
    if isinstance(value, timedelta):
        return value / timedelta(milliseconds=1)
    if isinstance(value, str):
        milliseconds = _read(value)
        if milliseconds is not None:
            return milliseconds
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return value * 1000.0
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    # Who has written a text is not helped by what a program could hand over instead.
    allowed = _TEXT if isinstance(value, str) else f"{_TEXT}, a number of seconds, or a timedelta"
    msg = f"{what} must be {allowed}; got {value!r}"
    raise DefinitionError(msg)


@functools.lru_cache(maxsize=256)  # handlers give the same few texts in each pass
def _read(text: str) -> float | None:
    text = text.strip()
    if not _WHOLE.fullmatch(text):
        return None
    return sum(float(number) * _UNIT_MS[unit] for number, unit in _PART.findall(text))


def format_milliseconds(milliseconds: int) -> str:
    """Return a duration the way people write it: 5400000 → "1h30m"."""
    if milliseconds <= 0:
        return "0s"
    parts: list[str] = []
    rest = milliseconds
    for unit, size in sorted(_UNIT_MS.items(), key=lambda item: -item[1]):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
