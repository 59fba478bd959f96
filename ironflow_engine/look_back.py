"""Finds the events that came before the waits that they match."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

from ironflow.broker.protocol import Broker, StoredMessage, StreamState
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.logs import get_logger
from ironflow.matching import canonical_at, read_data
from ironflow.names import Names, mark
from ironflow.records import EventRecord
from ironflow_engine.event_index import EventIndex, Places
from ironflow_engine.facts import EventArrived, RegisterWait

_log = get_logger("ironflow.engine")

_Condition: TypeAlias = tuple[str | None, str | None]
_K = TypeVar("_K")

_GLANCE = 500
"""So many events are looked at while other runs wait for it: a page, and ten milliseconds."""
_WORTH_IT = 10
"""So much more than a wait needs is read for an index, which others will need as well."""


class LookBack:
    """Searches EVENTS for what came before waits that have just been registered.

    What is stored later than the waits are is found by whoever takes it from EVENTS. So it is enough to look at
    what stands there once the waits are stored.

    Args:
        broker: the connection.
        names: the namespace.

    """

    def __init__(self, broker: Broker, names: Names) -> None:
        self._broker = broker
        self._names = names
        self._index = EventIndex(broker, names)

    def close(self) -> None:
        """Forget what is known of EVENTS."""
        self._index.close()

    async def glance(self, waits: Sequence[RegisterWait]) -> tuple[list[EventArrived], list[RegisterWait]]:
        """Return the first event that each wait may take, and the waits for which there is more to look at.

        Raises:
            BrokerError: EVENTS cannot be read.

        """
        newest = (await self._state()).last_sequence
        found: list[EventArrived] = []
        left = [wait for wait in waits if self._is_known(wait)]
        new = [wait for wait in waits if not self._is_known(wait)] if left else waits
        for name, same in _grouped(new, lambda wait: wait.entry.wait.event).items():
            waiting = _Waiting(name, same)
            found += await self._scan(waiting, newest, _GLANCE)
            left += waiting.left(newest)
        return found, left

    async def find(self, waits: Sequence[RegisterWait]) -> list[EventArrived]:
        """Return the first event that each wait may take, where there is one, however much there is to look at.

        Raises:
            BrokerError: EVENTS cannot be read.

        """
        state = await self._state()
        found: list[EventArrived] = []
        for (name, path), same in _grouped(waits, _name_and_path).items():
            try:
                found += await self._search(name, path, same, state)
            except sqlite3.Error as error:
                _log.warning("all events are read, since no index of them can be kept", reason=str(error))
                found += await self._scan(_Waiting(name, same), state.last_sequence)
        # One event ends one wait of a run, the one that was recorded first. The others then look for the next one.
        return sorted(found, key=lambda arrival: (arrival.sequence, arrival.entry.sequence))

    async def _state(self) -> StreamState:
        # The leader is asked, after the waits have been stored.
        return await self._broker.stream_state(self._names.events)

    def _is_known(self, wait: RegisterWait) -> bool:
        name, path = _name_and_path(wait)
        return path is not None and self._index.is_behind((name, path), wait.after)

    async def _search(
        self, name: str, path: str | None, waits: Sequence[RegisterWait], state: StreamState
    ) -> list[EventArrived]:
        """Look only at events that have a value that is waited for, where that is less to do."""
        newest, after = state.last_sequence, min(wait.after for wait in waits)
        # Without a path, whatever comes first will do.
        if path is None or self._index.unread((name, path), newest, after) > _WORTH_IT * (newest - after):
            return await self._scan(_Waiting(name, waits), newest)
        by_value = _grouped(waits, lambda wait: wait.entry.wait.value or "")
        async with self._index.between((name, path), after, newest, state.first_sequence) as places:
            found = await asyncio.gather(
                *(self._look_at(places, value, _Waiting(name, same)) for value, same in by_value.items())
            )
        return [arrival for arrivals in found for arrival in arrivals]

    async def _look_at(self, places: Places, value: str, waiting: _Waiting) -> list[EventArrived]:
        """Look at the events that have a value, one after the other."""
        found: list[EventArrived] = []
        while not waiting.is_over() and (next_ones := places.of(value, waiting.seen)):
            for place in next_ones:
                message = await self._broker.at(self._names.events, place)
                found += waiting.take(message) if message is not None else []
                if waiting.is_over():
                    break
            waiting.seen = next_ones[-1]
        return found

    async def _scan(self, waiting: _Waiting, newest: int, most: int | None = None) -> list[EventArrived]:
        """Look at all events in order, but at not many more than *most*."""
        found: list[EventArrived] = []
        looked_at = 0
        if not waiting.left(newest):
            return found
        async for page in self._broker.read(self._names.events, self._names.event(waiting.name), waiting.seen):
            for message in page:
                found += waiting.take(message) if message.sequence <= newest else []
            waiting.seen = page[-1].sequence
            looked_at += len(page)
            if not waiting.left(newest) or (most is not None and looked_at >= most):
                return found
        waiting.seen = newest
        return found


class _Waiting:
    """Waits for events of one name, by what they ask of them.

    Args:
        name: the events' name.
        waits: the waits.

    Attributes:
        seen: up to where they have been looked for in EVENTS.

    """

    def __init__(self, name: str, waits: Iterable[RegisterWait]) -> None:
        self.name = name
        self._left: dict[_Condition, dict[tuple[str, str], RegisterWait]] = {}
        for wait in waits:
            condition = wait.entry.wait.path, wait.entry.wait.value
            self._left.setdefault(condition, {})[wait.entry.run, wait.entry.step] = wait
        self.seen = min(wait.after for same in self._left.values() for wait in same.values())

    def is_over(self) -> bool:
        """Whether no wait is left."""
        return not any(self._left.values())

    def left(self, newest: int) -> list[RegisterWait]:
        """Return the waits that may take an event that has not been looked at, of those up to a place."""
        return [] if self.seen >= newest else [wait for same in self._left.values() for wait in same.values()]

    def take(self, message: StoredMessage) -> list[EventArrived]:
        """Return what an event means to these waits: it ends one of each run, the one that was recorded first."""
        try:
            event = decode_record(EventRecord, message.payload)
        except SerializationError:
            return []
        candidates = [wait for condition in self._met(event) for wait in self._left[condition].values()]
        arrivals: dict[str, EventArrived] = {}
        for wait in sorted(candidates, key=lambda wait: wait.entry.sequence):
            entry = wait.entry
            if entry.run in arrivals or not _may_take(wait, event, message.sequence):
                continue
            del self._left[entry.wait.path, entry.wait.value][entry.run, entry.step]
            arrivals[entry.run] = EventArrived(
                run=entry.run,
                queue=entry.queue,
                entry=entry,
                event=event,
                sequence=message.sequence,
                time_ms=message.time_ms,
                looked_back=True,
            )
        return list(arrivals.values())

    def _met(self, event: EventRecord) -> list[_Condition]:
        """Return the conditions of waits that an event meets."""
        if event.name != self.name:  # long names share a hash with hardly any, and a wildcard with none
            return []
        data = read_data(event.data)
        paths = {path for path, _ in self._left if path is not None}
        met: list[_Condition] = [(None, None), *((path, canonical_at(data, path)) for path in paths)]
        return [condition for condition in met if condition in self._left]


def _name_and_path(wait: RegisterWait) -> tuple[str, str | None]:
    return wait.entry.wait.event, wait.entry.wait.path


def _grouped(waits: Iterable[RegisterWait], by: Callable[[RegisterWait], _K]) -> dict[_K, list[RegisterWait]]:
    groups: dict[_K, list[RegisterWait]] = {}
    for wait in waits:
        groups.setdefault(by(wait), []).append(wait)
    return groups


def _may_take(wait: RegisterWait, event: EventRecord, sequence: int) -> bool:
    if sequence <= wait.after or event.id == wait.trigger:
        return False
    taken = mark(event.id)
    # Where an event has ended the wait and that was not recorded yet, it is this one again, and no other.
    return taken == wait.ended_by if wait.ended_by else taken not in wait.consumed
