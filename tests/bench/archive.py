"""Runs that are archived while Postgres stops and engines die; and a list over a large archive."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.protocol import StoredMessage
from ironflow.client import Client
from ironflow.codec import encode_record
from ironflow.names import Names, bucket_stream
from ironflow.records import ErrorRecord, RunState, RunStatus
from ironflow_engine.archive.archive import PostgresArchive
from ironflow_engine.archive.database import schema_of
from ironflow_engine.archive.reader import runs_query
from ironflow_engine.archive.rows import RUNS, run_row
from ironflow_engine.read_model import RunQuery
from tests.support.eventually import eventually
from tests.support.postgres import PostgresServer, postgres_in
from tests.support.processes import answered, cluster, functions_are_known

RUNS_TO_ARCHIVE = int(os.environ.get("BENCH_ARCHIVE_RUNS", "20000"))
ROWS_TO_SEARCH = int(os.environ.get("BENCH_ARCHIVE_ROWS", "1000000"))
OUTAGE_SECONDS = float(os.environ.get("BENCH_ARCHIVE_OUTAGE", "30"))
STEPS = 3
FAILS_EVERY = 50
QUERIES = 200
QUESTIONS = {
    "runs_by_function": "function = 'function-7' ORDER BY started_at DESC, id DESC",
    "runs_by_time": "started_at > now() - interval '1h' ORDER BY started_at DESC, id DESC",
    "runs_by_event": "event_id = 'event-777777'",
    "runs_by_event_name": "event_name = 'order.placed' ORDER BY started_at DESC",
    "runs_by_error": "error ILIKE '%host 7777%'",
}
"""What else people ask, by the index that answers it."""
NAMESPACE = "bench"
DAY_MS = 24 * 3600 * 1000
_CHUNK = 20_000
_IN_FLIGHT = 200
_CATCH_UP_SECONDS = 900


async def main() -> int:
    """Print what was archived, how far behind it was, and how long a list takes; fail where a row is wrong."""
    with tempfile.TemporaryDirectory(prefix="ironflow-bench-") as folder, postgres_in(Path(folder)) as postgres:
        wrong = await _trouble(Path(folder), postgres)
        wrong += await _large(Path(folder), postgres)
    for each in wrong:
        print(f"wrong: {each}")
    return 1 if wrong else 0


# 20,000 runs while Postgres is away and the engine dies


async def _trouble(folder: Path, postgres: PostgresServer) -> list[str]:
    with EmbeddedServer(folder / "nats") as nats, cluster(nats.url, NAMESPACE, folder) as processes:
        engine = processes.engine("--archive-url", postgres.url)
        processes.worker("archived.py", "--concurrency", "200", "--log-level", "error")
        async with processes.client() as client:
            await functions_are_known(client, "three-steps")
            began = time.monotonic()
            load = Load(client, RUNS_TO_ARCHIVE)
            publishing = asyncio.create_task(load.publish())
            await load.has_published(0.2)
            engine.restart()
            await asyncio.to_thread(postgres.stop)
            stopped = time.monotonic()
            await load.has_published(0.5)
            engine.restart()
            await asyncio.sleep(max(0.0, OUTAGE_SECONDS - (time.monotonic() - stopped)))
            before = time.monotonic()
            await asyncio.to_thread(postgres.start)
            outage = before - stopped
            there = await _total(postgres)
            await publishing
            ended = await _all_ended(client)
            counts = await _all_archived(client, postgres)
        return await _report(postgres, counts, began, ended, before, outage, there)


class Load:
    """Events that each start a run.

    Args:
        client: publishes them.
        count: how many.

    """

    def __init__(self, client: Client, count: int) -> None:
        self._client = client
        self._count = count
        self._published = 0
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._one_more = asyncio.Condition()

    async def publish(self) -> None:
        """Publish all of them."""
        await asyncio.gather(*map(self._publish_one, range(self._count)))

    async def has_published(self, share: float) -> None:
        """Wait until a share of them is published."""
        async with self._one_more:
            await self._one_more.wait_for(lambda: self._published >= share * self._count)

    async def _publish_one(self, number: int) -> None:
        async with self._slots:
            data = {"number": number, "fails": number % FAILS_EVERY == 0}
            await self._client.publish("archived", data, id=f"bench-{number}")
        async with self._one_more:
            self._published += 1
            self._one_more.notify_all()


async def _all_ended(client: Client) -> float:
    """Wait until no run is under way; return when that was."""
    statuses: tuple[RunStatus, ...] = ("queued", "running", "waiting")

    async def none_is_left() -> None:
        assert not [run for status in statuses async for run in client.runs(status=status, limit=1)]

    await eventually(answered(none_is_left), within=_CATCH_UP_SECONDS)
    return time.monotonic()


async def _all_archived(client: Client, postgres: PostgresServer) -> dict[str, tuple[int, int]]:
    """Wait until the archive has read all that there is to the end; return how many rows there are, and should be."""
    names = client.names
    streams = (names.events, names.all_shards[0].journal, bucket_stream(names.runs_bucket))

    async def read_to_the_end() -> None:
        positions = dict(await _fetch(postgres, "SELECT stream, sequence FROM positions"))
        assert positions == {stream: (await client.broker.stream_state(stream)).last_sequence for stream in streams}

    await eventually(read_to_the_end, within=_CATCH_UP_SECONDS)
    finished = await _one(postgres, "SELECT count(*) FROM runs WHERE finished_at IS NOT NULL")
    expected = {"runs": RUNS_TO_ARCHIVE, "steps": STEPS * RUNS_TO_ARCHIVE, "events": RUNS_TO_ARCHIVE}
    counts = {table: (await _count(postgres, table), expected[table]) for table in expected}
    return {**counts, "finished runs": (finished, RUNS_TO_ARCHIVE)}


async def _report(
    postgres: PostgresServer,
    counts: dict[str, tuple[int, int]],
    began: float,
    ended: float,
    before: float,
    outage: float,
    there: int,
) -> list[str]:
    caught_up = time.monotonic()
    rows = await _total(postgres)
    print(tabulate([(table, *numbers) for table, numbers in counts.items()], headers=("table", "rows", "expected")))
    lags = await _fetch(
        postgres, "SELECT extract(epoch FROM archived_at - finished_at)::float8 FROM runs WHERE finished_at IS NOT NULL"
    )
    lag = sorted(row[0] for row in lags)
    print(
        f"\nPostgres was away for {outage:.1f} s, the engine was killed twice; "
        f"all runs had ended after {ended - began:.1f} s"
    )
    print(f"lag of a run's last row: p50 {_at(lag, 0.5):.2f} s, p99 {_at(lag, 0.99):.2f} s, at most {lag[-1]:.2f} s")
    print(f"nothing was missing {caught_up - before:.1f} s after Postgres was back; {rows} rows")
    print(f"after that it copied {(rows - there) / (caught_up - before):,.0f} rows a second, while runs went on\n")
    counts["events, by id"] = (await _one(postgres, "SELECT count(DISTINCT id) FROM events"), RUNS_TO_ARCHIVE)
    failed = await _one(postgres, "SELECT count(*) FROM runs WHERE status = 'failed' AND error LIKE '%fails'")
    counts["failed runs"] = (failed, -(-RUNS_TO_ARCHIVE // FAILS_EVERY))
    return [f"{found} {what} are archived, not {wanted}" for what, (found, wanted) in counts.items() if found != wanted]


# A list over 1,000,000 runs


async def _large(folder: Path, postgres: PostgresServer) -> list[str]:
    names = Names(f"{NAMESPACE}-large")
    archive = PostgresArchive(postgres.url, names)
    try:
        assert await archive.history.run("none") is None  # makes the tables
    finally:
        await archive.close()
    await _fill(postgres, names)
    query = RunQuery(status="failed", since_ms=_now_ms() - 3600 * 1000)
    plan = await _explain(postgres, names, query)
    print(f"\n{plan}\n")
    with (
        EmbeddedServer(folder / "nats-large") as nats,
        cluster(nats.url, names.namespace, folder) as processes,
    ):
        processes.engine("--archive-url", postgres.url)
        async with processes.client() as client:
            await functions_are_known(client)
            found, seconds = await _measure(client)
            command = await processes.command("runs", "list", "--status", "failed", "--since", "1h", "--json")
    print(
        f"runs list --status failed --since 1h over {ROWS_TO_SEARCH:,} archived runs, {found} shown, {QUERIES} times: "
        f"p50 {_at(seconds, 0.5) * 1000:.1f} ms, p99 {_at(seconds, 0.99) * 1000:.1f} ms, "
        f"mean {statistics.mean(seconds) * 1000:.1f} ms"
    )
    wrong = await _questions(postgres, names)
    wrong += [] if "runs_by_status" in plan else ["the plan uses no index on the status"]
    wrong += [] if found == 50 else [f"{found} runs were shown, not 50"]
    listed = len(msgspec.json.decode(command.stdout or b"[]"))
    return wrong + ([] if listed == 50 else [f"the command shows {listed} runs, not 50: {command.stderr}"])


async def _fill(postgres: PostgresServer, names: Names) -> None:
    """Write as many runs as are wanted, over the last ten days, one in a hundred failed."""
    connection = await _connect(postgres, names)
    began = time.monotonic()
    now = _now_ms()
    try:
        for start in range(0, ROWS_TO_SEARCH, _CHUNK):
            numbers = range(start, min(start + _CHUNK, ROWS_TO_SEARCH))
            records = [_row(number, now - 10 * DAY_MS * number // ROWS_TO_SEARCH) for number in numbers]
            await connection.copy_records_to_table("runs", records=records, columns=[name for name, _ in RUNS])
        await connection.execute("ANALYZE runs")
    finally:
        await connection.close()
    print(f"{ROWS_TO_SEARCH:,} runs copied in by COPY in {time.monotonic() - began:.1f} s")


def _row(number: int, started_at: int) -> Sequence[object]:
    # Of the newest hour more, so that there are pages of them however few there are altogether.
    failed = number % (4 if number < 400 else 100) == 0
    status: RunStatus = "failed" if failed else "completed"
    state = RunState(
        id=f"{number:026}",
        function=f"function-{number % 50}",
        queue="orders",
        status=status,
        started_at=started_at if number >= 400 else _now_ms() - number * 1000,
        finished_at=started_at + 1000,
        live=False,
        event_id=f"event-{number}",
        event_name="order.placed",
        event_sequence=number + 1,
        error=ErrorRecord(type="ConnectionError", message=f"host {number} is gone") if failed else None,
    )
    return run_row(StoredMessage("", encode_record(state), number + 1, started_at))


async def _explain(postgres: PostgresServer, names: Names, query: RunQuery) -> str:
    connection = await _connect(postgres, names)
    try:
        sql, values = runs_query(query)
        lines = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS OFF) {sql}", *values)
    finally:
        await connection.close()
    return "\n".join(line[0] for line in lines)


async def _measure(client: Client) -> tuple[int, list[float]]:
    seconds: list[float] = []
    found = 0
    for _ in range(QUERIES):
        began = time.perf_counter()
        runs = [run async for run in client.engine.runs(status="failed", since_ms=_now_ms() - 3600 * 1000, limit=50)]
        seconds.append(time.perf_counter() - began)
        found = len(runs)
    return found, sorted(seconds)


async def _questions(postgres: PostgresServer, names: Names) -> list[str]:
    """Print how long each question takes; return which of them is not answered by its index."""
    connection = await _connect(postgres, names)
    table: list[tuple[object, ...]] = []
    wrong: list[str] = []
    try:
        for index, question in QUESTIONS.items():
            sql = f"SELECT state FROM runs WHERE {question} LIMIT 50"  # noqa: S608 - our own
            plan = "\n".join(line[0] for line in await connection.fetch(f"EXPLAIN {sql}"))
            wrong += [] if index in plan else [f"{question} is not answered from {index}:\n{plan}"]
            seconds: list[float] = []
            found = 0
            for _ in range(QUERIES):
                began = time.perf_counter()
                found = len(await connection.fetch(sql))
                seconds.append(time.perf_counter() - began)
            seconds.sort()
            table.append((question, index, found, _at(seconds, 0.5) * 1000, _at(seconds, 0.99) * 1000))
    finally:
        await connection.close()
    print(tabulate(table, headers=("asked of the database", "index", "found", "p50 ms", "p99 ms"), floatfmt=".1f"))
    return wrong


async def _connect(postgres: PostgresServer, names: Names) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(postgres.url, server_settings={"search_path": f'"{schema_of(names)}"'})


async def _fetch(postgres: PostgresServer, sql: str) -> list[Any]:
    connection = await _connect(postgres, Names(NAMESPACE))
    try:
        return await connection.fetch(sql)
    finally:
        await connection.close()


async def _one(postgres: PostgresServer, sql: str) -> int:
    return int((await _fetch(postgres, sql))[0][0])


async def _total(postgres: PostgresServer) -> int:
    return sum([await _count(postgres, table) for table in ("runs", "steps", "events")])


async def _count(postgres: PostgresServer, table: str) -> int:
    return await _one(postgres, f"SELECT count(*) FROM {table}")  # noqa: S608 - only our own names


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _now_ms() -> int:
    return int(time.time() * 1000)
