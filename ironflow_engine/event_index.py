"""Knows which retained events have which value at a path, so that old runs need not read all of them again."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from typing import TypeAlias

import msgspec

from ironflow.broker.protocol import Broker, StoredMessage
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.matching import canonical_at, read_data
from ironflow.names import Names
from ironflow.records import EventRecord

Key: TypeAlias = tuple[str, str]
"""The name of events, and a path in their data."""

_MOST = 64
"""So many pairs of an event's name and a path are known at a time; of more, those that were asked for last."""
_SEGMENT = 50_000
"""What the server has forgotten goes a segment at a time: rows of one lie side by side, and go within milliseconds."""
_CANDIDATES = 100
_AT_A_TIME = 100
"""So many events take one or two milliseconds; then other runs have their turn."""

_SCHEMA = """
PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -8192;
CREATE TABLE places (
    segment INTEGER NOT NULL, value INTEGER NOT NULL, sequence INTEGER NOT NULL,
    PRIMARY KEY (segment, value, sequence)
) WITHOUT ROWID;
"""


class _Segment(msgspec.Struct):
    """The events behind one place in EVENTS and up to another."""

    number: int
    after: int
    up_to: int
    rows: int = 0


class _Known(msgspec.Struct):
    """What is known of one name and path.

    Attributes:
        segments: they adjoin each other, in order.
        users: how many need it now.
        lock: of who reads more.

    """

    segments: list[_Segment]
    users: int = 0
    lock: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)


class EventIndex:
    """An index over what EVENTS retains, made for those names and paths of which much would have to be read.

    It is built by reading, grows by what has come since, and is a temporary file that ends with the process, of some
    20 bytes for each event and path. What it returns may match: other values can share a hash.

    Args:
        broker: the connection.
        names: the namespace.

    """

    def __init__(self, broker: Broker, names: Names) -> None:
        self._broker = broker
        self._names = names
        self._opened: sqlite3.Connection | None = None
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._numbers = 0

    def close(self) -> None:
        """Forget everything."""
        self._known.clear()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def is_behind(self, key: Key, place: int) -> bool:
        """Tell whether events behind a place in EVENTS are known already."""
        known = self._known.get(key)
        return known is not None and place < known.segments[-1].up_to

    def unread(self, key: Key, newest: int, after: int) -> int:
        """Return how far it is to the newest event from what is known, or from a place where nothing is."""
        known = self._known.get(key)
        return newest - (after if known is None else known.segments[-1].up_to)

    @contextlib.asynccontextmanager
    async def between(self, key: Key, after: int, newest: int, oldest: int) -> AsyncGenerator[Places]:
        """Come to know all events between two places in EVENTS.

        Args:
            key: the events' name, and the path.
            after: the place behind which to begin.
            newest: the place of the last one.
            oldest: the place of the first one that the server still has.

        Raises:
            BrokerError: EVENTS cannot be read.
            sqlite3.Error: the file cannot be written.

        """
        after = max(after, oldest - 1)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known([self._segment(after)])
        self._known.move_to_end(key)
        known.users += 1
        try:
            self._forget_least_used()
            # Whoever comes while it is read waits for it, and then finds nearly all there is.
            async with known.lock:
                self._forget_old(known, oldest)
                if after < known.segments[0].after:
                    await self._read_before(key, known, after)
                await self._read_on(key, known.segments, newest)
            yield Places(self._database, known.segments)
        finally:
            known.users -= 1

    @property
    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = sqlite3.connect("", isolation_level=None)
            self._opened.executescript(_SCHEMA)
        return self._opened

    async def _read_before(self, key: Key, known: _Known, after: int) -> None:
        """Read what comes before all that is known. Only what was read whole adjoins it."""
        before = [self._segment(after)]
        try:
            await self._read_on(key, before, known.segments[0].after)
        except BaseException:
            self._forget(before)
            raise
        known.segments[:0] = before

    async def _read_on(self, key: Key, segments: list[_Segment], newest: int) -> None:
        """Read what comes after the last of some segments."""
        name, path = key
        if segments[-1].up_to >= newest:
            return
        async for page in self._broker.read(self._names.events, self._names.event(name), segments[-1].up_to):
            wanted = [message for message in page if message.sequence <= newest]
            for begin in range(0, len(wanted), _AT_A_TIME):
                self._take_in(path, segments, wanted[begin : begin + _AT_A_TIME])
                await asyncio.sleep(0)
            if page[-1].sequence >= newest:
                break
        # Between the last one of this name and there, none stands.
        segments[-1].up_to = max(segments[-1].up_to, newest)

    def _take_in(self, path: str, segments: list[_Segment], page: Sequence[StoredMessage]) -> None:
        if segments[-1].rows >= _SEGMENT:
            segments.append(self._segment(segments[-1].up_to))
        segment = segments[-1]
        values = ((_value_of(message, path), message.sequence) for message in page)
        rows = [(segment.number, hash(value), sequence) for value, sequence in values if value is not None]
        self._database.execute("BEGIN")
        try:
            self._database.executemany("INSERT OR IGNORE INTO places VALUES (?, ?, ?)", rows)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        segment.rows += len(page)
        segment.up_to = page[-1].sequence

    def _segment(self, after: int) -> _Segment:
        self._numbers += 1
        return _Segment(number=self._numbers, after=after, up_to=after)

    def _forget_old(self, known: _Known, oldest: int) -> None:
        """Forget what the server has forgotten."""
        gone = [segment for segment in known.segments[:-1] if segment.up_to < oldest]
        self._forget(gone)
        del known.segments[: len(gone)]

    def _forget_least_used(self) -> None:
        for key, known in list(self._known.items()):
            if len(self._known) <= _MOST:
                break
            if not known.users:
                del self._known[key]
                self._forget(known.segments)

    def _forget(self, segments: Sequence[_Segment]) -> None:
        self._database.executemany("DELETE FROM places WHERE segment = ?", [(each.number,) for each in segments])


class Places:
    """Where the events of one name stand that have a value at one path.

    Args:
        database: the file.
        segments: the ones to look at.

    """

    def __init__(self, database: sqlite3.Connection, segments: list[_Segment]) -> None:
        self._database = database
        self._segments = segments

    def of(self, value: str, after: int) -> list[int]:
        """Return the first places, in order, behind a place in EVENTS at which events may have a value.

        Args:
            value: its canonical text.
            after: the place; behind the last one that is returned there may be more.

        """
        found: list[int] = []
        for segment in self._segments:
            if segment.up_to > after and len(found) < _CANDIDATES:
                rows = self._database.execute(
                    "SELECT sequence FROM places WHERE segment = ? AND value = ? AND sequence > ? "
                    "ORDER BY sequence LIMIT ?",
                    (segment.number, hash(value), after, _CANDIDATES - len(found)),
                )
                found += [sequence for (sequence,) in rows]
        return found


def _value_of(message: StoredMessage, path: str) -> str | None:
    try:
        event = decode_record(EventRecord, message.payload)
    except SerializationError:
        return None
    return canonical_at(read_data(event.data), path)
