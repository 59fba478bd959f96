"""Answers what is asked by status, function or time, so that a list costs what it returns.

It is a SQLite file that is filled from the runs bucket and can be thrown away at any moment; no decision is
ever taken from it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import msgspec

from ironflow.broker.protocol import Broker, StoredMessage, StreamState, Unavailable
from ironflow.codec import decode_record
from ironflow.errors import DefinitionError, SerializationError
from ironflow.logs import get_logger
from ironflow.names import Names, bucket_stream
from ironflow.records import LARGEST_NUMBER, TERMINAL, PurgedRuns, RunState

_log = get_logger("ironflow.engine")

Moment: TypeAlias = tuple[int, str]
"""A time, and the id of a run: many may share the time."""

_MAGIC = b"SQLite format 3\0"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, function TEXT NOT NULL, status TEXT NOT NULL, started_at INTEGER NOT NULL,
    due_ms INTEGER, deadline_ms INTEGER, live_since_ms INTEGER, finished_ms INTEGER, revision INTEGER NOT NULL,
    state BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (started_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS runs_by_status ON runs (status, started_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS runs_by_function ON runs (function, started_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS runs_by_due ON runs (due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS runs_by_deadline ON runs (deadline_ms) WHERE deadline_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS runs_by_life ON runs (live_since_ms) WHERE live_since_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS runs_by_end ON runs (finished_ms, id) WHERE finished_ms IS NOT NULL;
CREATE TABLE IF NOT EXISTS position (
    only INTEGER PRIMARY KEY CHECK (only = 0), sequence INTEGER NOT NULL, purged INTEGER NOT NULL,
    begun_at INTEGER NOT NULL, bucket TEXT NOT NULL
);
INSERT OR IGNORE INTO position VALUES (0, 0, 0, 0, '');
"""

_UPSERT = """
INSERT OR REPLACE INTO runs
    (id, function, status, started_at, due_ms, deadline_ms, live_since_ms, finished_ms, revision, state)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_VERSION = 5
"""Of the tables; a file with others is made anew."""
_TABLES = frozenset({"runs", "position"})
_APPLICATION = int.from_bytes(b"Iron")
"""Marks the file as ours."""

_UNFIT = (OverflowError, ValueError, sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError)
"""What SQLite says of a value that it does not take, whenever it is tried."""

_AT_A_TIME = 50
"""So many changes take one or two milliseconds, seldom four; then timers and tasks have their turn."""


class StillReading(Unavailable):
    """There is so much to take in that whoever asked would not wait for it. What was taken in by then stays."""


class Place(msgspec.Struct, frozen=True):
    """Where a page ended; the next one begins after it."""

    started_at: int
    id: str


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for.

    Attributes:
        status: only runs whose stored status it is. A live run is stored as "queued", begun or not.
        include: with a status, only runs among these ids where given.
        exclude: no runs among these ids.

    """

    status: str | None = None
    function: str | None = None
    since_ms: int = 0
    before: Place | None = None
    limit: int = 50
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()


class ReadModel:
    """A queryable copy of the runs bucket.

    Args:
        broker: the connection to fill it from.
        names: the namespace.
        path: the file; "" for a temporary one, which ends with the process; ":memory:" for none.

    """

    def __init__(self, broker: Broker, names: Names, path: Path | str) -> None:
        self._broker = broker
        self._names = names
        self._stream = bucket_stream(names.runs_bucket)
        self._follower = broker.follow(self._stream)
        self._database = _open(path)
        self._lock = asyncio.Lock()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    async def catch_up(self) -> None:
        """Take in all that has been written to the bucket until now."""
        async with self._lock:
            state, position = await self._state(), self._position()
            newest = state.last_sequence
            if not position or newest < position or state.created != self._bucket():  # the bucket was made anew
                position = self._begin(state)
            if newest > position and not await self._read_on(position, newest):
                state = await self._state()
                await self._read_on(self._begin(state), state.last_sequence)

    async def catch_up_within(self, seconds: float) -> None:
        """Take in all that has been written to the bucket until now, for somebody who does not wait for ever.

        Raises:
            StillReading: it takes longer. Asking again goes on from there.

        """
        try:
            async with asyncio.timeout(seconds):
                await self.catch_up()
        except TimeoutError as error:
            newest = (await self._state()).last_sequence
            message = (
                f"it reads where all runs stand, and has come to change {self._position():,} of {newest:,}; ask again"
            )
            raise StillReading(message) from error

    async def _read_on(self, position: int, newest: int) -> bool:
        """Take in what comes after a place; return whether it is known what was deleted since then."""
        async for page in self._follower.read(position, newest):
            for begin in range(0, len(page), _AT_A_TIME):
                if not self._take_in(page[begin : begin + _AT_A_TIME]):
                    return False
                await asyncio.sleep(0)
        return True

    def query(self, query: RunQuery) -> list[RunState]:
        """Return the runs that are asked for, newest first."""
        conditions, values = _conditions(query)
        rows = self._database.execute(
            # Only fixed texts are put together here; every value is bound.
            f"SELECT state FROM runs WHERE {' AND '.join(conditions)} "  # noqa: S608
            "ORDER BY started_at DESC, id DESC LIMIT ?",
            (*values, query.limit),
        )
        return [decode_record(RunState, row[0]) for row in rows]

    def overdue(self, before_ms: int, after: Moment, limit: int) -> list[tuple[int, RunState]]:
        """Return runs that rest although a wait of them was over before a time, and when, those that are latest first.

        Args:
            before_ms: that time.
            after: behind which run to begin: when it was due, and its id.
            limit: how many at the most.

        """
        return self._select("due_ms", before_ms, after, limit)

    def overtime(self, before_ms: int, after: Moment, limit: int) -> list[tuple[int, RunState]]:
        """Return runs that go on although they should have ended before a time, and when; otherwise as above."""
        return self._select("deadline_ms", before_ms, after, limit)

    def live(self, before_ms: int, after: Moment, limit: int) -> list[tuple[int, RunState]]:
        """Return runs with a pass under way whose states were stored before a time, and when; otherwise as above."""
        return self._select("live_since_ms", before_ms, after, limit)

    def count_live(self) -> int:
        """Return how many runs have a pass under way."""
        return int(self._database.execute("SELECT count(*) FROM runs WHERE live_since_ms IS NOT NULL").fetchone()[0])

    def _select(self, column: str, before_ms: int, after: Moment, limit: int) -> list[tuple[int, RunState]]:
        rows = self._database.execute(
            f"SELECT {column}, state FROM runs WHERE {column} < ? AND ({column}, id) > (?, ?) "  # noqa: S608 - only our own texts
            f"ORDER BY {column}, id LIMIT ?",
            (before_ms, *after, limit),
        )
        return [(time_ms, decode_record(RunState, state)) for time_ms, state in rows]

    def finished(self, before_ms: int, after: Moment, limit: int) -> list[tuple[int, RunState]]:
        """Return runs that ended before a time, with their revisions, in order, that come after a run in that order."""
        rows = self._database.execute(
            "SELECT revision, state FROM runs WHERE finished_ms < ? AND (finished_ms, id) > (?, ?) "
            "ORDER BY finished_ms, id LIMIT ?",
            (before_ms, *after, limit),
        )
        return [(revision, decode_record(RunState, state)) for revision, state in rows]

    def known(self, runs: Iterable[str]) -> set[str]:
        """Return those of some runs that the bucket has."""
        rows = self._database.execute(
            "SELECT id FROM runs WHERE id IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(list(runs)).decode(),),
        )
        return {run for (run,) in rows}

    def _begin(self, state: StreamState) -> int:
        """Forget everything, to read it all; what lists tell of that are there by now is gone, and not read."""
        self._database.execute("DELETE FROM runs")
        self._database.execute(
            "UPDATE position SET sequence = 0, purged = 0, begun_at = ?, bucket = ?",
            (state.last_sequence, state.created),
        )
        return 0

    async def _state(self) -> StreamState:
        return await self._broker.stream_state(self._stream)

    def _bucket(self) -> str:
        return str(self._database.execute("SELECT bucket FROM position").fetchone()[0])

    def _position(self) -> int:
        return int(self._database.execute("SELECT sequence FROM position").fetchone()[0])

    def _take_in(self, page: list[StoredMessage]) -> bool:
        """Take in some changes; return False, and take in nothing, where it is not known what was deleted before."""
        rows: list[tuple[object, ...]] = []
        purged: list[PurgedRuns] = []
        last, begun_at = self._database.execute("SELECT purged, begun_at FROM position").fetchone()
        for message in page:
            try:
                if self._names.is_purged_key(message.subject):
                    gone = decode_record(PurgedRuns, message.payload)
                    # The oldest lists go as well; of those that stood when the reading began none is needed.
                    if message.sequence > begun_at and gone.number != last + 1:
                        return False
                    last = gone.number
                    purged.append(gone)
                else:
                    rows.append(_row(message))
            except SerializationError as error:
                # Of a newer engine, or of someone who should not write here. The other runs are shown.
                _log.error("unreadable run left out", subject=message.subject, reason=str(error))
        self._database.execute("BEGIN")
        try:
            self._put(rows)
            for each in purged:
                # The same event may have started the run again meanwhile.
                self._database.executemany("DELETE FROM runs WHERE id = ? AND revision <= ?", each.runs.items())
            self._database.execute(
                "UPDATE position SET sequence = ?, purged = ?",
                (page[-1].sequence, last),
            )
        except BaseException:
            if self._database.in_transaction:  # where there is no room, SQLite has taken it back already
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        return True

    def _put(self, rows: list[tuple[object, ...]]) -> None:
        """Write rows; one that cannot be written must not hold up the others, and all that come behind them."""
        try:
            self._database.executemany(_UPSERT, rows)
        except _UNFIT as error:
            if len(rows) == 1:
                _log.error("unreadable run left out", run=rows[0][0], reason=f"{type(error).__name__}: {error}")
                return
            for row in rows:
                self._put([row])


def _moment(milliseconds: int) -> int | None:
    """Return a time by which runs are found; none for 0, and the ends of time for what lies beyond them."""
    return max(1, min(milliseconds, LARGEST_NUMBER)) if milliseconds else None


def _row(message: StoredMessage) -> tuple[object, ...]:
    state = decode_record(RunState, message.payload)
    return (
        state.id,
        state.function,
        state.status,
        state.started_at,
        _moment(due_of(state)),
        _moment(deadline_of(state)),
        message.time_ms if state.live else None,
        state.finished_at if state.status in TERMINAL else None,
        message.sequence,
        message.payload,
    )


def due_of(state: RunState) -> int:
    """Return when the first thing that a run rests for is over, in server time; 0 where that is not known."""
    if state.status == "waiting" and not (state.live or state.due_ms or state.has_children):
        # Whatever it may rest for but a child has its time: so it was to be ended, and somebody died over that.
        return state.started_at
    return state.due_ms


def deadline_of(state: RunState) -> int:
    """Return when a run has to end at the latest, in server time; 0 where it has for ever, or has ended."""
    if not state.timeout_ms or state.status in TERMINAL or state.ending:
        return 0
    return (state.epoch_started_at or state.started_at) + state.timeout_ms


def _open(path: Path | str) -> sqlite3.Connection:
    """Open the file; one that is spoilt is made anew.

    Raises:
        DefinitionError: there can be no such file, or it is something else, which is left alone.

    """
    if isinstance(path, Path):
        _check_file(path)
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # With a write-ahead log the death of the process cannot spoil a file. That of the machine can. What ends with
        # the process needs a journal only for what is taken back, and in memory that is a third cheaper.
        journal = "WAL" if isinstance(path, Path) else "MEMORY"
        database.executescript(f"PRAGMA journal_mode = {journal}; PRAGMA synchronous = OFF;")
        _make_tables(database, path)
    except sqlite3.DatabaseError as error:
        database.close()
        if isinstance(error, sqlite3.OperationalError) or not isinstance(path, Path):
            raise
        _log.warning("the file of lists is spoilt and made anew", file=str(path), reason=str(error))
        path.unlink()
        return _open(path)
    return database


def _make_tables(database: sqlite3.Connection, path: Path | str) -> None:
    """Make the tables that are missing; those of another version are made anew.

    Raises:
        DefinitionError: the tables in there are not ours.

    """
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if database.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION and tables - _TABLES:
        database.close()
        msg = f"{path} is a database of something else ({', '.join(sorted(tables - _TABLES))}); name another file"
        raise DefinitionError(msg)
    if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
        database.executescript("DROP TABLE IF EXISTS runs; DROP TABLE IF EXISTS position;")
    database.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION}; PRAGMA application_id = {_APPLICATION};")


def _check_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(0)
            begin = file.read(len(_MAGIC))
    except OSError as error:
        msg = f"cannot keep lists in {path}: {error.strerror or error}"
        raise DefinitionError(msg) from error
    # A crash of the machine may leave nothing but zeros.
    if begin != _MAGIC and begin.strip(b"\0"):
        msg = f"{path} holds something else than lists of runs; name another file"
        raise DefinitionError(msg)


def _conditions(query: RunQuery) -> tuple[list[str], list[object]]:
    conditions: list[str] = ["started_at >= ?"]
    values: list[object] = [query.since_ms]
    if query.status is not None:
        conditions.append("status = ?")
        values.append(query.status)
    if query.function is not None:
        conditions.append("function = ?")
        values.append(query.function)
    if query.before is not None:
        conditions.append("(started_at, id) < (?, ?)")
        values += [query.before.started_at, query.before.id]
    if query.include is not None:
        conditions.append("id IN (SELECT value FROM json_each(?))")
        values.append(msgspec.json.encode(query.include).decode())
    if query.exclude:
        conditions.append("id NOT IN (SELECT value FROM json_each(?))")
        values.append(msgspec.json.encode(query.exclude).decode())
    return conditions, values
