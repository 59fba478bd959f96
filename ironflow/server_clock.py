"""The server's clock, as far as it can be known for sure from here."""

from __future__ import annotations

from collections.abc import Callable

_DRIFT = 0.000_5
"""How much faster than the server's our own clock may run; quartz is ten times better."""


class ServerClock:
    """A lower bound on what the server's clock says now.

    A message that the server stored at some time reaches us later than that, so our clock and that time
    together bound how far the server's clock is ahead. The quickest message gives the tightest bound. Whoever
    waits for the bound to pass a point in time is never early by the server's own clock, however wrong ours is.

    Args:
        monotonic: returns seconds that never jump.

    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._ahead_ms = float("-inf")
        self._bounded_at = 0.0

    def observe(self, stored_ms: int) -> None:
        """Learn from a message that the server has stored at that time."""
        now = self._monotonic()
        self._ahead_ms = max(stored_ms - now * 1000, self._ahead(now))
        self._bounded_at = now

    def at_least_ms(self) -> float:
        """Return a time that the server's clock has surely reached; minus infinity before anything was observed."""
        now = self._monotonic()
        return now * 1000 + self._ahead(now)

    def _ahead(self, now: float) -> float:
        return self._ahead_ms - (now - self._bounded_at) * 1000 * _DRIFT
