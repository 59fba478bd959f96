"""When a batch pays: learned from what single messages and batches have taken so far. Pure."""

from __future__ import annotations

_SMOOTHING = 0.2
_ASSUMED_SINGLE_SECONDS = 0.000_35
_ASSUMED_BATCH_SECONDS = 0.0055
"""A synced server on a small machine: a batch pays from 16 messages on."""
_FEWEST = 8
_MOST = 500
_FEWEST_TO_LEARN = 8
"""A few messages measure the round trip rather than what one more costs."""
_TRY_SINGLES_EVERY = 64


class BatchCosts:
    """Decides between single messages and a batch for one connection.

    How the two compare depends on the server (synced or not, replicated or not) and on its load, and no
    setting of it that a client can read tells. So both are measured as they happen; a group that would go out
    as a batch goes out singly now and then, lest a wrong first guess stay for ever.
    """

    def __init__(self) -> None:
        self._single = _ASSUMED_SINGLE_SECONDS
        self._batch = _ASSUMED_BATCH_SECONDS
        self._decisions = 0

    @property
    def smallest_batch(self) -> int:
        """From how many messages on a batch pays."""
        return max(_FEWEST, min(_MOST, round(self._batch / self._single)))

    def next_smallest_batch(self) -> int:
        """Return from how many messages on a batch is made of what is to be sent next."""
        self._decisions += 1
        explores = self._decisions % _TRY_SINGLES_EVERY == 0
        return min(_MOST, 4 * self.smallest_batch) if explores else self.smallest_batch

    def note_singles(self, count: int, seconds: float) -> None:
        """Learn from *count* messages that went out at a time and were all answered after *seconds*."""
        if count >= _FEWEST_TO_LEARN:
            self._single += _SMOOTHING * (seconds / count - self._single)

    def note_batch(self, seconds: float) -> None:
        """Learn from a batch that was answered after *seconds*."""
        self._batch += _SMOOTHING * (seconds - self._batch)
