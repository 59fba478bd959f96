"""What a pass has recorded itself, kept as long as it is little."""

from __future__ import annotations

from ironflow.broker.protocol import StoredMessage
from ironflow.journal import Appended

MOST_RECORDS = 100
MOST_BYTES = 64 * 1024
"""Of a pass that records more, nothing is kept: to read it costs little beside what it does, and memory is dear."""


class OwnRecords:
    """Collects what a pass records, or finds recorded in its place."""

    __slots__ = ("_bytes", "_messages")

    def __init__(self) -> None:
        self._messages: list[tuple[str, Appended]] | None = []
        self._bytes = 0

    def add(self, subject: str, appended: Appended) -> None:
        """Keep a record, unless there are too many by now."""
        if self._messages is None:
            return
        self._bytes += len(appended.payload)
        if self._bytes > MOST_BYTES or len(self._messages) == MOST_RECORDS:
            self._messages = None
        else:
            self._messages.append((subject, appended))

    def all(self) -> list[StoredMessage] | None:
        """Return all that was recorded, or None where that was too much to be kept.

        When each was stored is not known.
        """
        if self._messages is None:
            return None
        return [StoredMessage(subject, each.payload, each.sequence, 0) for subject, each in self._messages]
