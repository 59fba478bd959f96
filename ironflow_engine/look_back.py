"""Finds the events that came before the waits that they match."""

from __future__ import annotations

from collections.abc import Sequence

from ironflow.broker.protocol import Broker, StoredMessage
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.matching import canonical_at, read_data
from ironflow.names import Names, mark
from ironflow.records import EventRecord
from ironflow_engine.facts import EventArrived, RegisterWait

_Condition = tuple[str | None, str | None]


class LookBack:
    """Scans EVENTS for waits that have just been registered.

    What is stored later than the waits are is found by whoever takes it from EVENTS. So it is enough to look at
    what stands there once the waits are stored.

    Args:
        broker: the connection.
        names: the namespace.

    """

    def __init__(self, broker: Broker, names: Names) -> None:
        self._broker = broker
        self._names = names

    async def find(self, waits: Sequence[RegisterWait]) -> list[EventArrived]:
        """Return the first event that each wait may take, where there is one; of each name in one scan.

        Raises:
            BrokerError: EVENTS cannot be read.

        """
        by_name: dict[str, list[RegisterWait]] = {}
        for wait in waits:
            by_name.setdefault(wait.entry.wait.event, []).append(wait)
        # Asked for at the leader, after the waits have been stored.
        newest = (await self._broker.stream_state(self._names.events)).last_sequence
        found: list[EventArrived] = []
        for name, waiting in by_name.items():
            found += await self._scan(_Waiting(name, waiting), newest)
        return found

    async def _scan(self, waiting: _Waiting, newest: int) -> list[EventArrived]:
        found: list[EventArrived] = []
        if waiting.after >= newest:
            return found
        async for page in self._broker.read(self._names.events, self._names.event(waiting.name), waiting.after):
            for message in page:
                if message.sequence <= newest:
                    found += waiting.take(message)
            if waiting.is_over or page[-1].sequence >= newest:
                break
        return found


class _Waiting:
    """Waits for events of one name, by what they ask of them.

    Args:
        name: the events' name.
        waits: the waits.

    Attributes:
        after: where in EVENTS to begin.

    """

    def __init__(self, name: str, waits: Sequence[RegisterWait]) -> None:
        self.name = name
        self.after = min(wait.after for wait in waits)
        self._left: dict[_Condition, dict[tuple[str, str], RegisterWait]] = {}
        for wait in waits:
            condition = wait.entry.wait.path, wait.entry.wait.value
            self._left.setdefault(condition, {})[wait.entry.run, wait.entry.step] = wait

    @property
    def is_over(self) -> bool:
        """Whether no wait is left."""
        return not any(self._left.values())

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


def _may_take(wait: RegisterWait, event: EventRecord, sequence: int) -> bool:
    if sequence <= wait.after or event.id == wait.trigger:
        return False
    taken = mark(event.id)
    # Where an event has ended the wait and that was not recorded yet, it is this one again, and no other.
    return taken == wait.ended_by if wait.ended_by else taken not in wait.consumed
