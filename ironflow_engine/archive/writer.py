"""Writes rows, and how far the streams have been copied, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from ironflow.broker.protocol import StoredMessage
from ironflow.errors import SerializationError
from ironflow.logs import get_logger
from ironflow.names import parse_journal
from ironflow_engine.archive.database import Connection, Database
from ironflow_engine.archive.rows import (
    EVENTS,
    RECORDS,
    RUNS,
    STEPS,
    Row,
    event_row,
    record_row,
    run_row,
    step_row,
)

T = TypeVar("T")

_log = get_logger("ironflow.engine")

_STARTED_AT = [name for name, _ in RUNS].index("started_at")


class Overtaken(Exception):  # noqa: N818 - reads as what happened
    """Another engine has moved the position meanwhile; nothing was written."""


class Writer:
    """Writes what was read from streams.

    Each row stands under its own key, so what is written twice is there once; and the position moves from the very
    place that was read from, so two engines never take turns in going back.

    Args:
        database: where to.

    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def positions(self) -> dict[str, int]:
        """Return how far each stream has been copied."""
        async with self._database.connection() as connection:
            rows = await connection.fetch("SELECT stream, sequence FROM positions")
        return {row["stream"]: row["sequence"] for row in rows}

    async def move(self, stream: str, position: int, to: int) -> None:
        """Set how far a stream has been copied.

        Raises:
            Overtaken: it is not at *position* any more.

        """
        async with self._database.connection() as connection:
            await _move(connection, stream, position, to)

    async def copy_events(self, stream: str, position: int, page: Sequence[StoredMessage]) -> None:
        """Store a page of EVENTS."""
        rows = _read(page, event_row)
        async with self._database.connection() as connection, connection.transaction():
            await _move(connection, stream, position, page[-1].sequence)
            await _upsert(connection, "events", EVENTS, 1, rows, also_key="stored_at")

    async def copy_journal(self, stream: str, position: int, page: Sequence[StoredMessage]) -> None:
        """Store the steps, the outcomes and the kept events of a page of the journal."""
        kinds = _read(page, lambda message: (parse_journal(message.subject).kind, message))
        steps = _read([message for kind, message in kinds if kind == "step"], step_row)
        records = _read([message for kind, message in kinds if kind in ("input", "outcome")], record_row)
        async with self._database.connection() as connection, connection.transaction():
            await _move(connection, stream, position, page[-1].sequence)
            await _upsert(connection, "steps", STEPS, 2, steps)
            await _upsert(connection, "run_records", RECORDS, 2, records)

    async def copy_runs(self, stream: str, position: int, page: Sequence[StoredMessage], *, last: int) -> None:
        """Store a page of run states; *last* is where the page ends in the stream."""
        rows = _read(page, run_row)
        async with self._database.connection() as connection, connection.transaction():
            await _move(connection, stream, position, last)
            await _forget_predecessors(connection, rows)
            await _upsert(connection, "runs", RUNS, 1, rows, also_set=", archived_at = now()")


async def _move(connection: Connection, stream: str, position: int, to: int) -> None:
    await connection.execute("INSERT INTO positions VALUES ($1, 0) ON CONFLICT DO NOTHING", stream)
    moved = await connection.execute(
        "UPDATE positions SET sequence = $3 WHERE stream = $1 AND sequence = $2", stream, position, to
    )
    if moved != "UPDATE 1":
        raise Overtaken


async def _forget_predecessors(connection: Connection, rows: Sequence[Row]) -> None:
    """Delete what is left of runs whose ids begin once more, since NATS has forgotten that they had been used.

    A run's id follows from its event's, and such an event starts a run again after the first one's retention.
    """
    started: dict[str, datetime] = {str(row[0]): row[_STARTED_AT] for row in rows}  # type: ignore[misc]
    known = await connection.fetch("SELECT id, started_at FROM runs WHERE id = ANY($1)", list(started))
    for row in known:
        if row["started_at"] != started[row["id"]]:
            begin = started[row["id"]]
            await connection.execute("DELETE FROM steps WHERE run_id = $1 AND finished_at < $2", row["id"], begin)
            await connection.execute("DELETE FROM run_records WHERE run_id = $1 AND stored_at < $2", row["id"], begin)


async def _upsert(
    connection: Connection,
    table: str,
    columns: Sequence[tuple[str, str]],
    keys: int,
    rows: Sequence[Row],
    *,
    also_key: str = "",
    also_set: str = "",
) -> None:
    """Write rows whose first *keys* columns tell them apart; those that are there are replaced."""
    if not rows:
        return
    names = [name for name, _ in columns]
    key = [*names[:keys], *filter(None, (also_key,))]
    places = [names.index(name) for name in key]
    # While a page is read a run may be written again, and then the page has both of its states.
    unique = list({tuple(row[place] for place in places): row for row in rows}.values())
    arrays = ", ".join(f"${number}::{kind}[]" for number, (_, kind) in enumerate(columns, 1))
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
    await connection.execute(
        # Only our own texts are put together here; every value is bound.
        f"INSERT INTO {table} ({', '.join(names)}) SELECT * FROM unnest({arrays}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}{also_set}",
        *(list(column) for column in zip(*unique, strict=True)),
    )


def _read(messages: Sequence[StoredMessage], read: Callable[[StoredMessage], T]) -> list[T]:
    """Return what messages mean to the archive, but for those that mean nothing to it; the others are kept."""
    found: list[T] = []
    for message in messages:
        try:
            found.append(read(message))
        except SerializationError as error:
            # Of a newer engine, or of someone who should not write there.
            _log.error("unreadable message not archived", subject=message.subject, reason=str(error))
        except Exception:  # noqa: BLE001 - it depends on nothing but the message, so it would be so each time
            _log.exception("message not archived", subject=message.subject)
    return found
