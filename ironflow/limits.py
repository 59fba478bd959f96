"""The documented limits. Each is checked before anything is stored."""

from __future__ import annotations

import msgspec

from ironflow.errors import DefinitionError, LimitError, PayloadTooLargeError

KIBIBYTE = 1024
WAIT_BYTES = 50
"""A run's state takes up to 38 to keep how a wait has ended; the rest is for all else that is in it."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one namespace accepts. All fields have the documented defaults.

    The payload bound leaves room for our own fields and headers within the 1 MiB that NATS carries by
    default; the other figures keep one run's journal readable in well under a second.
    """

    payload_bytes: int = 512 * KIBIBYTE
    """Event data, one step result, or one output, encoded."""
    event_name_bytes: int = 256
    step_name_bytes: int = 10_240
    id_bytes: int = 256
    """An event id that the publisher chose."""
    source_bytes: int = 256
    """Who published an event."""
    metadata_bytes: int = 8 * KIBIBYTE
    """All keys and values of one event's metadata."""
    steps_per_run: int = 10_000
    """Without those in the items of maps."""
    map_items_per_run: int = 100_000
    """The items of all maps of a run together, and so many steps in them."""
    open_waits_per_run: int = 1_000
    """Waits for events that are open at a time."""
    waits_per_run: int = 20_000
    """Waits for events in all of a run's life, see :meth:`most_waits`."""
    child_depth: int = 10
    """How many runs may stand above one, each started by the one before."""
    match_bytes: int = 8 * KIBIBYTE
    """A value that waits compare, and the path to it, encoded: they are kept with every wait."""

    def most_waits(self, max_payload: int) -> int:
        """Return how many waits for events a run may make in all its life on a server that carries so many bytes.

        The run's state keeps how each of them has ended, and has to fit into one message.
        """
        return min(self.waits_per_run, max_payload // WAIT_BYTES)


DEFAULT_LIMITS = Limits()


REASON_BYTES = 1_000
"""It is part of the run's state, which stays small."""


def check_reason(reason: object) -> None:
    """Refuse what cannot be the reason of a cancel.

    Raises:
        DefinitionError: it is neither text nor None.
        LimitError: it is too long.

    """
    if reason is None:
        return
    if not isinstance(reason, str):
        msg = f"reason must be a text, got {reason!r}"
        raise DefinitionError(msg)
    try:
        size = len(reason.encode())
    except UnicodeEncodeError as error:
        msg = f"reason must be valid text, got {reason!r}: {error.reason}"
        raise DefinitionError(msg) from error
    if size > REASON_BYTES:
        msg = f"reason may have at most {REASON_BYTES:,} bytes, got {size:,}"
        raise LimitError(msg)


def check_payload(payload: bytes | bytearray | memoryview, what: str, limit: int) -> None:
    """Refuse an encoded payload over *limit* bytes.

    Args:
        payload: the encoded bytes.
        what: what it is, for the message ("result of step 'fetch'").
        limit: the most bytes allowed.

    Raises:
        PayloadTooLargeError: it is larger.

    """
    if len(payload) > limit:
        msg = (
            f"{what} is {len(payload):,} bytes as JSON; at most {limit:,} are allowed. "
            "Keep large data elsewhere and pass a reference to it"
        )
        raise PayloadTooLargeError(msg)
