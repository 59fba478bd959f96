"""When a batch pays: learned from what single messages and batches have taken so far. Pure."""

from __future__ import annotations

_ASSUMED_SINGLE_SECONDS = 0.000_35
_ASSUMED_BATCH_SECONDS = 0.005_5
"""A synced server on a small machine: a batch pays from 16 messages on."""
_SHORTEST_SECONDS = 0.000_001
"""Nothing takes less; a clock that has stood still says otherwise."""
_FEWEST = 8
_MOST = 500
_FEWEST_TO_LEARN = 8
"""A few messages measure the round trip rather than what one more costs."""
_TRY_SINGLES_EVERY = 64
_FORGETTING = 1.05
"""How much slower, at the most, something seems after a slow answer: fifteen slow ones in a row double it."""


class BatchCosts:
    """Decides between single messages and a batch for one connection.

    How the two compare depends on the server (synced or not, replicated or not), and no setting of it that a client
    can read tells. So both are measured as they happen; a group that would go out as a batch goes out singly now and
    then, lest a wrong first guess stay for ever.

    What else the server and this process are busy with only ever adds to what is measured, and not to both alike,
    since they are measured at different times. So the quickest of late counts, and not the mean.
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
            self._single = _quickest_of_late(self._single, seconds / count)

    def note_batch(self, count: int, seconds: float) -> None:
        """Learn from a batch of *count* messages that was answered after *seconds*."""
        # Of one that is far larger than need be, the messages take longer than the batch does as such.
        if count <= 2 * self.smallest_batch or seconds < self._batch:
            self._batch = _quickest_of_late(self._batch, seconds)


def _quickest_of_late(known: float, measured: float) -> float:
    return max(_SHORTEST_SECONDS, min(measured, known * _FORGETTING))
