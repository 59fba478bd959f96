"""Waits that this engine has registered lately, so that an event for one of them need not ask for it.

What is not here may be open all the same: it has made room for others. So which waits are over is kept apart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ironflow.records import WaitEntry

MOST_WAITS = 2_000
"""Each takes about a kilobyte; those that were registered last stay."""


class RecentWaits:
    """Some of the open waits, and perhaps some that are not open any more: whoever finds one asks the run's state.

    Args:
        most: how many of them, and of those that have ended here.

    """

    def __init__(self, most: int = MOST_WAITS) -> None:
        self._most = most
        self._places: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._waits: dict[str, dict[tuple[str, str], WaitEntry]] = {}
        self._ended: OrderedDict[tuple[str, str], None] = OrderedDict()

    def keep(self, place: str, entry: WaitEntry) -> None:
        """Keep a wait.

        Args:
            place: what events are looked at by that it may match.
            entry: the wait.

        """
        which = entry.run, entry.step
        self._drop(which)
        self._places[which] = place
        self._waits.setdefault(place, {})[which] = entry
        if len(self._places) > self._most:
            self._drop(next(iter(self._places)))

    def end(self, run: str, step: str) -> None:
        """Forget a wait, if it is here, and note that it is over, which it stays."""
        self._drop((run, step))
        self._ended[run, step] = None
        if len(self._ended) > self._most:
            self._ended.popitem(last=False)

    def has_ended(self, run: str, step: str) -> bool:
        """Tell whether a wait is known to be over; of one that ended long ago it is not."""
        return (run, step) in self._ended

    def _drop(self, which: tuple[str, str]) -> None:
        place = self._places.pop(which, None)
        if place is None:
            return
        waits = self._waits[place]
        del waits[which]
        if not waits:
            del self._waits[place]

    def at(self, places: Iterable[str]) -> list[WaitEntry]:
        """Return the waits of some places, in the order in which they were recorded."""
        found = (entry for place in places for entry in self._waits.get(place, {}).values())
        return sorted(found, key=lambda entry: entry.sequence)
