"""The server's clock, as far as it can be known for sure from here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

_DRIFT = 0.000_5
"""How much faster or slower than the server's our own clock may run; quartz is ten times better."""
_DOUBT_MS = 20.0
"""A message that seems older than this on its arrival may as well have been stored by a clock that was set back."""
_REST_SECONDS = 0.25
"""Where messages queue all of them are old, so the server is asked no more often than this."""


class ServerClock:
    """A lower bound on what the server's clock says now.

    A message that the server stored at some time reaches us later than that, so our clock and that time
    together bound how far the server's clock is ahead. The quickest message gives the tightest bound. Whoever
    waits for the bound to pass a point in time is never early by the server's own clock, however wrong ours is.

    The server's clock may be set back, or another server with another clock take over. No message proves that, since it
    may be old; an answer to a question does, since it cannot be older than the question. So the server is to be asked
    when a message looks as if its clock was set back, and what it could not have stored by now counts for nothing.

    Args:
        monotonic: returns seconds that never jump.

    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._ahead_ms = float("-inf")
        self._bounded_at = 0.0
        self._at_most_ms = float("inf")
        self._asked_at = float("-inf")
        self._is_doubted = False

    def observe(self, stored_ms: int, *, is_old: bool = False) -> None:
        """Learn from a message that the server has stored at that time.

        Args:
            stored_ms: that time.
            is_old: whether it was on its way before, so that its age says nothing.

        """
        now = self._monotonic()
        ahead_ms, known_ms = stored_ms - now * 1000, self._ahead(now)
        if ahead_ms > self._at_most_ms + _drift_ms(now - self._asked_at):
            # It was stored before the clock was set back; or the clock was set forward, which the next answer tells.
            self._is_doubted = True
            return
        if known_ms - ahead_ms > _DOUBT_MS and not is_old:
            self._is_doubted = True
        self._ahead_ms = max(ahead_ms, known_ms)
        self._bounded_at = now

    @property
    def is_doubtful(self) -> bool:
        """Whether the server is to be asked before anything ends by this clock."""
        return self._is_doubted and self._monotonic() - self._asked_at >= _REST_SECONDS

    async def ask(self, server_time_ms: Callable[[], Awaitable[int]]) -> int:
        """Ask the server for its time, and take the bound back where it was ahead of that; return the answer.

        The answer itself raises no bound: who tells the time may be another server than stores the messages.

        Raises:
            BrokerError: the server does not tell.

        """
        asked_at = self._monotonic()
        told_ms = await server_time_ms()
        now = self._monotonic()
        # It is rounded down.
        at_most_ms = told_ms + 1 - asked_at * 1000
        if self._ahead(now) > at_most_ms:
            self._ahead_ms = told_ms - now * 1000
            self._bounded_at = now
        self._at_most_ms = at_most_ms
        self._asked_at = asked_at
        self._is_doubted = False
        return told_ms

    def at_least_ms(self) -> float:
        """Return a time that the server's clock has surely reached; minus infinity before anything was observed."""
        now = self._monotonic()
        return now * 1000 + self._ahead(now)

    def _ahead(self, now: float) -> float:
        return self._ahead_ms - _drift_ms(now - self._bounded_at)


def _drift_ms(seconds: float) -> float:
    return seconds * 1000 * _DRIFT
