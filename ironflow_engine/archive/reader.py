"""Answers from the archive what NATS no longer holds."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import asyncpg
import msgspec

from ironflow.broker.protocol import StoredMessage
from ironflow.codec import decode_record
from ironflow.names import Names
from ironflow.records import TERMINAL, RunState
from ironflow_engine.archive.database import Database
from ironflow_engine.archive.rows import milliseconds, moment, plain
from ironflow_engine.history import RunParts
from ironflow_engine.read_model import RunQuery

ANSWER_SECONDS = 3.0
"""Whoever asks an engine does not wait for long."""
_SUBJECT_OF_EVENT = "archived"
_RECORDS_OF_RUNS = """
SELECT run_records.run_id, run_records.key, record FROM unnest($1::text[], $2::text[]) AS wanted (run_id, key)
JOIN run_records ON run_records.run_id = wanted.run_id AND run_records.key IN ('input', 'outcome.0', wanted.key)
"""
_EVENTS_OF_RUNS = """
SELECT events.sequence, events.id, record FROM unnest($1::bigint[], $2::text[]) AS wanted (sequence, id)
JOIN events ON events.sequence = wanted.sequence AND events.id = wanted.id
"""


class ArchiveReader:
    """Reads rows back as the messages that they were.

    Args:
        database: where they are.
        names: the namespace.

    """

    def __init__(self, database: Database, names: Names) -> None:
        self._database = database
        self._names = names

    async def run(self, run: str) -> RunState | None:
        """Return the last state of a run that has ended."""
        rows = await self._fetch("SELECT state FROM runs WHERE id = $1 AND finished_at IS NOT NULL", run)
        return _state(rows[0][0]) if rows else None

    async def runs(self, query: RunQuery) -> Sequence[RunState]:
        """Return the runs that are asked for and have ended, newest first."""
        if query.status is not None and query.status not in TERMINAL:
            return ()
        sql, values = runs_query(query)
        return [_state(row[0]) for row in await self._fetch(sql, *values)]

    async def steps(self, run: str) -> Sequence[StoredMessage]:
        """Return the recorded steps of a run as the journal had them, in its order."""
        rows = await self._fetch(
            "SELECT key, record, sequence, finished_at FROM steps WHERE run_id = $1 ORDER BY sequence", run
        )
        return [
            StoredMessage(self._names.journal_step("archived", run, key), record, sequence, milliseconds(finished_at))
            for key, record, sequence, finished_at in rows
        ]

    async def parts(self, runs: Sequence[RunState]) -> dict[str, RunParts]:
        """Return the large parts of some runs, by run."""
        keys = [f"outcome.{state.number}" for state in runs]
        ids = [state.id for state in runs]
        records = await self._fetch(_RECORDS_OF_RUNS, ids, keys)
        events = await self._fetch(
            _EVENTS_OF_RUNS, [state.event_sequence for state in runs], [plain(state.event_id) for state in runs]
        )
        by_key: dict[tuple[str, str], bytes] = {(row[0], row[1]): row[2] for row in records}
        by_place: dict[tuple[int, str], bytes] = {(row[0], row[1]): row[2] for row in events}
        return {
            state.id: RunParts(
                event=by_place.get((state.event_sequence, plain(state.event_id))),
                input=by_key.get((state.id, "input")),
                first_outcome=by_key.get((state.id, "outcome.0")),
                outcome=by_key.get((state.id, key)),
            )
            for state, key in zip(runs, keys, strict=True)
        }

    async def events(self, pattern: str | None, before: int, limit: int) -> Sequence[StoredMessage]:
        """Return the newest events that came before a place in EVENTS, by an exact name or a pattern, newest first."""
        condition, values = _name_condition(pattern)
        rows = await self._fetch(
            # Only our own texts are put together here; every value is bound.
            f"SELECT record, sequence, stored_at FROM events WHERE sequence < $1 AND {condition} "  # noqa: S608
            "ORDER BY sequence DESC LIMIT $2",
            before,
            limit,
            *values,
        )
        return [StoredMessage(_SUBJECT_OF_EVENT, row[0], row[1], milliseconds(row[2])) for row in rows]

    async def missing(self, runs: Collection[tuple[str, int, int]]) -> set[str]:
        """Return those runs of which something is not kept here; see History."""
        ids = [run for run, _, _ in runs]
        found = await self._fetch("SELECT id, sequence FROM runs WHERE id = ANY($1)", ids)
        kept = {row[0]: row[1] for row in found}
        journals = [shard.journal for shard in self._names.all_shards]
        rows = await self._fetch("SELECT stream, sequence FROM positions WHERE stream = ANY($1)", journals)
        copied = {row[0]: row[1] for row in rows}
        return {
            run
            for run, revision, last in runs
            if kept.get(run) != revision or last > copied.get(self._names.shard_of(run).journal, 0)
        }

    async def _fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        async with self._database.connection() as connection:
            return await connection.fetch(sql, *values, timeout=ANSWER_SECONDS)


def _state(payload: bytes) -> RunState:
    return msgspec.structs.replace(decode_record(RunState, payload), purged=True)


def runs_query(query: RunQuery) -> tuple[str, list[object]]:
    """Return the statement that finds runs which have ended, and its values."""
    conditions = ["finished_at IS NOT NULL", "started_at >= $1"]
    values: list[object] = [moment(query.since_ms)]
    if query.status is not None:
        values.append(query.status)
        conditions.append(f"status = ${len(values)}")
    if query.function is not None:
        values.append(plain(query.function))
        conditions.append(f"function = ${len(values)}")
    if query.before is not None:
        values += [moment(query.before.started_at), query.before.id]
        conditions.append(f"(started_at, id) < (${len(values) - 1}, ${len(values)})")
    values.append(query.limit)
    # Only our own texts are put together here; every value is bound.
    found = f"SELECT state FROM runs WHERE {' AND '.join(conditions)}"  # noqa: S608
    return f"{found} ORDER BY started_at DESC, id DESC LIMIT ${len(values)}", values


def _name_condition(pattern: str | None) -> tuple[str, tuple[str, ...]]:
    if pattern is None:
        return "true", ()
    tokens = pattern.split(".")
    if "*" not in tokens and tokens[-1] != ">":
        return "name = $3", (plain(pattern),)
    texts = [{"*": "[^.]+", ">": ".+"}.get(token) or re.escape(plain(token)) for token in tokens]
    return "name ~ $3", (f"^{'[.]'.join(texts)}$",)
