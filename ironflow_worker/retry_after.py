"""After how long a body asks to be tried again: pure.

What it asks for is often what a service has answered, so what HTTP allows in such a header is taken too.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from ironflow.durations import Duration, parse_duration

_WHAT = "RetryAfter's delay"


def asked_delay_ms(delay: Duration, now_ms: int) -> int:
    """Return after how many milliseconds the next attempt is to be made.

    Args:
        delay: what ``RetryAfter`` was given: a duration, a number of seconds as a text, or a date as HTTP has it.
        now_ms: what the clock says, for a date.

    Raises:
        ValueError: it is none of them, or not later than now.
        LimitError: it is longer than 366 days.

    """
    if isinstance(delay, str):
        text = delay.strip()
        if text.isascii() and text.isdigit():
            return parse_duration(int(text), _WHAT)
        if text.endswith("GMT"):
            return parse_duration((parsedate_to_datetime(text).timestamp() * 1000 - now_ms) / 1000, _WHAT)
    return parse_duration(delay, _WHAT)


def why_unusable(delay: Duration, now_ms: int) -> str | None:
    """Return what is wrong with what ``RetryAfter`` was given; None where nothing is."""
    try:
        asked_delay_ms(delay, now_ms)
    except (ValueError, OverflowError) as error:
        return str(error)
    return None
