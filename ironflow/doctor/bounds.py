"""Checks of what operators have limited streams to: what they can hold is all that runs can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ironflow.broker.nats.inspector import Bounds
from ironflow.doctor.finding import Finding, Level

LITTLE_ROOM = 0.2
"""The share of a stream's limit that should be left."""
NO_ROOM = 0.05


def check_bounds(found: Mapping[str, Bounds | None], max_payload: int) -> list[Finding]:
    """Say which streams are near to a limit of their own, forget what has not been taken yet, or refuse messages.

    Args:
        found: what each is limited to; None where it does not exist, which is another check's concern.
        max_payload: how large a message the server takes.

    """
    return [
        finding
        for stream, bounds in found.items()
        if bounds is not None
        for finding in (*_room(stream, bounds), *_sizes(stream, bounds, max_payload))
    ]


def _room(stream: str, bounds: Bounds) -> Iterator[Finding]:
    if not bounds.is_limited:
        return
    level: Level = "error" if bounds.room < NO_ROOM else "warning"
    left = f"{max(0.0, bounds.room):.0%} of what it is limited to is left ({bounds.limits})"
    advice = f"take the limit away: nats stream edit {stream} --max-msgs=-1 --max-bytes=-1"
    if bounds.drops_oldest:
        text = f"stream {stream} drops its oldest messages when it is full, also what nobody has taken yet: {left}"
        yield Finding(check="limits", level=level, text=text, advice=advice)
    elif bounds.room < LITTLE_ROOM:
        text = f"stream {stream} refuses what comes when it is full: {left}"
        yield Finding(check="limits", level=level, text=text, advice=advice)


def _sizes(stream: str, bounds: Bounds, max_payload: int) -> Iterator[Finding]:
    most = bounds.most_message_bytes
    if most is not None and most < max_payload:
        text = f"stream {stream} takes no message over {most:,} bytes, although the server takes {max_payload:,}"
        advice = f"limit messages by the server's max_payload alone: nats stream edit {stream} --max-msg-size=-1"
        yield Finding(check="limits", level="warning", text=text, advice=advice)
