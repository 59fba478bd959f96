"""Event names, and the patterns that functions trigger on.

A name is made of tokens between dots. In a pattern, ``*`` stands for exactly one token and ``>``, as the
last token, for one or more: the rules of NATS subjects, which people who run NATS already know.
"""

from __future__ import annotations

import functools

from ironflow.errors import DefinitionError, LimitError
from ironflow.limits import DEFAULT_LIMITS

RESERVED_PREFIX = "ironflow."
"""Events under it are Ironflow's own (``ironflow.invoked``)."""

INVOKED = "ironflow.invoked"
"""The name of the event that a run sees which was started or invoked directly."""

DETACHED = "ironflow.detached"
"""Where workers publish such an event for a run that nobody waits for.

What they start so has an id of its own kind, and they may not publish under the other name. So none of them can take
the id of a run that a client is about to start.
"""


def is_reserved(name: str) -> bool:
    """Tell whether an event's name is Ironflow's own, so that nobody else publishes it and nobody waits for it."""
    return name.startswith(RESERVED_PREFIX)


def check_event_name(name: str, limit: int = DEFAULT_LIMITS.event_name_bytes) -> str:
    """Return *name* where it may be published or awaited.

    Raises:
        DefinitionError: empty, with an empty token, with a wildcard as a token, or reserved.
        LimitError: longer than *limit* bytes.

    """
    if type(name) is not str:  # what is no text may have no hash either
        _check_tokens(name, "event name", limit)
    _check_event_name(name, limit)
    return name


@functools.lru_cache(maxsize=256)  # there are few names, and each publish and each pass that waits asks
def _check_event_name(name: str, limit: int) -> None:
    _check_tokens(name, "event name", limit)
    if any(token in ("*", ">") for token in name.split(".")):
        msg = f'event name {name!r} has a wildcard; "*" and ">" are allowed in triggers only'
        raise DefinitionError(msg)
    if is_reserved(name):
        msg = f"event name {name!r} is reserved: names that start with {RESERVED_PREFIX!r} are Ironflow's own"
        raise DefinitionError(msg)


def check_trigger(pattern: str, limit: int = DEFAULT_LIMITS.event_name_bytes, what: str = "trigger") -> str:
    """Return *pattern* where a function may trigger on it.

    Args:
        pattern: the pattern.
        limit: the most bytes allowed.
        what: what it is, for the message.

    Raises:
        DefinitionError: empty, with an empty token, or with ">" before the end.
        LimitError: longer than *limit* bytes.

    """
    _check_tokens(pattern, what, limit)
    tokens = pattern.split(".")
    if ">" in tokens[:-1]:
        msg = f'{what} {pattern!r} has ">" before the end; it stands for all the rest, so it must come last'
        raise DefinitionError(msg)
    return pattern


def matches(pattern: str, name: str) -> bool:
    """Tell whether the event *name* is one that *pattern* triggers on.

    Ironflow's own events are matched by no pattern: a function that triggers on ">" must not start because
    another one was invoked.
    """
    if name.startswith(RESERVED_PREFIX):
        return False
    wanted = pattern.split(".")
    given = name.split(".")
    if wanted[-1] == ">":
        if len(given) < len(wanted):
            return False
        wanted, given = wanted[:-1], given[: len(wanted) - 1]
    return len(wanted) == len(given) and all(want in ("*", got) for want, got in zip(wanted, given, strict=True))


def _check_tokens(name: object, what: str, limit: int) -> None:
    if not isinstance(name, str) or not name or name != name.strip():
        msg = f"{what} must be a non-empty text without spaces around it, got {name!r}"
        raise DefinitionError(msg)
    if "" in name.split("."):
        msg = f"{what} {name!r} has an empty part; write the parts with one dot between them, like 'order.placed'"
        raise DefinitionError(msg)
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        msg = f"{what} {name!r} is not valid text: {error.reason}"
        raise DefinitionError(msg) from error
    if size > limit:
        msg = f"{what} is {size} bytes long; at most {limit} are allowed: {name[:40]!r}…"
        raise LimitError(msg)
