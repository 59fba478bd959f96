"""Message ids that a stream has seen lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class RecentIds:
    """Which sequence a message id was stored at, for as long as the duplicate window lasts.

    Args:
        window_us: how long an id counts, in microseconds; 0 remembers none.

    """

    def __init__(self, window_us: int) -> None:
        self.window_us = window_us
        self._sequences: dict[str, int] = {}
        self._order: deque[tuple[int, str]] = deque()

    def find(self, message_id: str, now_us: int) -> int | None:
        """Return the sequence that this id was stored at within the window, or None."""
        while self._order and self._order[0][0] + self.window_us <= now_us:
            del self._sequences[self._order.popleft()[1]]
        return self._sequences.get(message_id)

    def add(self, message_id: str, sequence: int, now_us: int) -> None:
        """Remember an id that :meth:`find` did not find."""
        if self.window_us:
            self._sequences[message_id] = sequence
            self._order.append((now_us, message_id))

    def keep(self, wanted: Callable[[int], bool]) -> None:
        """Forget the ids of all sequences but the *wanted* ones."""
        self._order = deque(entry for entry in self._order if wanted(self._sequences[entry[1]]))
        self._sequences = {message_id: self._sequences[message_id] for _, message_id in self._order}
