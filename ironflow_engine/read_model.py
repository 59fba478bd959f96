"""Answers what is asked by status, function or time, so that a list costs what it returns.

It is a SQLite file that is filled from the runs bucket and can be thrown away at any moment; no decision is
ever taken from it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import structlog

from ironflow.broker.protocol import Broker, StoredMessage
from ironflow.codec import decode_record
from ironflow.errors import DefinitionError, SerializationError
from ironflow.names import Names, bucket_stream
from ironflow.records import RunState

_log = structlog.get_logger("ironflow.engine")

_MAGIC = b"SQLite format 3\0"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, function TEXT NOT NULL, status TEXT NOT NULL, started_at INTEGER NOT NULL,
    state BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (started_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS runs_by_status ON runs (status, started_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS runs_by_function ON runs (function, started_at DESC, id DESC);
CREATE TABLE IF NOT EXISTS position (only INTEGER PRIMARY KEY CHECK (only = 0), sequence INTEGER NOT NULL);
INSERT OR IGNORE INTO position VALUES (0, 0);
"""

_UPSERT = """
INSERT INTO runs (id, function, status, started_at, state) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET status = excluded.status, state = excluded.state, function = excluded.function
"""


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
        path: the file; ":memory:" for none.

    """

    def __init__(self, broker: Broker, names: Names, path: Path | str) -> None:
        self._broker = broker
        self._stream = bucket_stream(names.runs_bucket)
        self._filter = f"$KV.{names.runs_bucket}.>"
        self._database = _open(path)
        self._lock = asyncio.Lock()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    async def catch_up(self) -> None:
        """Take in all that has been written to the bucket until now."""
        async with self._lock:
            newest = (await self._broker.stream_state(self._stream)).last_sequence
            position = self._position()
            if newest < position:  # the bucket was made anew
                self._database.execute("DELETE FROM runs")
                self._database.execute("UPDATE position SET sequence = 0")
                position = 0
            if newest == position:
                return
            async for page in self._broker.read(self._stream, self._filter, position):
                self._take_in(page)

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

    def _position(self) -> int:
        return int(self._database.execute("SELECT sequence FROM position").fetchone()[0])

    def _take_in(self, page: list[StoredMessage]) -> None:
        rows: list[tuple[str, str, str, int, bytes]] = []
        for message in page:
            try:
                state = decode_record(RunState, message.payload)
            except SerializationError as error:
                # Of a newer engine, or of someone who should not write here. The other runs are shown.
                _log.error("unreadable run left out", subject=message.subject, reason=str(error))
                continue
            rows.append((state.id, state.function, state.status, state.started_at, message.payload))
        self._database.execute("BEGIN")
        try:
            self._database.executemany(_UPSERT, rows)
            self._database.execute("UPDATE position SET sequence = ?", (page[-1].sequence,))
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _open(path: Path | str) -> sqlite3.Connection:
    """Open the file; one that is spoilt is made anew.

    Raises:
        DefinitionError: there can be no such file, or it is something else, which is left alone.

    """
    if isinstance(path, Path):
        _check_file(path)
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # With a write-ahead log the death of the process cannot spoil it. That of the machine can.
        database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;" + _SCHEMA)
    except sqlite3.DatabaseError as error:
        database.close()
        if isinstance(error, sqlite3.OperationalError) or not isinstance(path, Path):
            raise
        _log.warning("the file of lists is spoilt and made anew", file=str(path), reason=str(error))
        path.unlink()
        return _open(path)
    return database


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
