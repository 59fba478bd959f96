"""An archive in a real Postgres: what is in it, and what is answered from it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

import ironflow
from ironflow import Context
from ironflow.broker.protocol import Publication
from ironflow.codec import decode_record, encode_record
from ironflow.messages import ListRuns, Reply, RunsPage
from ironflow.names import Names, bucket_stream, run_id
from ironflow.records import StepRecord
from ironflow_engine import retention
from ironflow_engine.archive import archiver
from ironflow_engine.archive.archive import PostgresArchive
from tests.support.eventually import eventually, holds_for
from tests.support.inprocess import System, running_system
from tests.support.postgres import PostgresServer

NAMES = Names("test")


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiver, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(archiver, "_TRY_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(retention, "LOOK_SECONDS", 0.2)


@pytest.fixture
def order() -> Any:
    @ironflow.function(id="order", triggers=["order.placed"])
    async def order(ctx: Context) -> Any:
        total = await ctx.step.run("charge", lambda: 42)
        await ctx.step.sleep("cool off", 0.01)
        if ctx.event.data == "bad":
            raise ironflow.NonRetryableError("card \0 declined")
        return {"total": total, "order": ctx.event.data}

    return order


@contextlib.asynccontextmanager
async def archived_system(url: str, *functions: Any, **options: Any) -> AsyncGenerator[System]:
    archive = PostgresArchive(url, Names("test", options.get("shards", 1)))
    try:
        async with running_system(*functions, archive=archive, **options) as system:
            yield system
    finally:
        await archive.close()


async def rows(url: str, sql: str, *values: object, schema: str = "ironflow_test") -> list[tuple[Any, ...]]:
    """Return what a statement finds in the archive; nothing while there are no tables."""
    connection = await asyncpg.connect(url, server_settings={"search_path": f'"{schema}"'})
    try:
        return [tuple(row) for row in await connection.fetch(sql, *values)]
    except asyncpg.UndefinedTableError:
        return []
    finally:
        await connection.close()


async def archived(url: str, sql: str, expected: list[tuple[Any, ...]]) -> None:
    """Wait until a statement finds that."""

    async def found() -> None:
        assert await rows(url, sql) == expected

    await eventually(found, within=20.0)


async def gone(system: System, *runs: str) -> None:
    """Wait until NATS holds nothing of some runs."""

    async def absent() -> None:
        for run in runs:
            assert await system.broker.last(bucket_stream(NAMES.runs_bucket), NAMES.run_key(run)) is None

    await eventually(absent, within=20.0)


@pytest.mark.parametrize("shards", [1, 3])
async def test_every_run_step_and_event_has_one_row(archive_url: str, order: Any, shards: int) -> None:
    async with archived_system(archive_url, order, shards=shards) as system:
        runs = [await system.client.start(order, number) for number in range(20)]
        for run in runs:
            await run.wait("1m")
        await archived(archive_url, "SELECT status, count(*) FROM runs GROUP BY 1", [("completed", 20)])
        await archived(
            archive_url, "SELECT name, count(*) FROM steps GROUP BY 1 ORDER BY 1", [("charge", 20), ("cool off", 20)]
        )
        await archived(archive_url, "SELECT count(*), count(DISTINCT id) FROM events", [(20, 20)])


async def test_a_run_under_way_shows_as_it_changes(archive_url: str) -> None:
    @ironflow.function(id="waits")
    async def waits(ctx: Context) -> None:
        await ctx.step.wait_for_event("go", event="go")

    async with archived_system(archive_url, waits) as system:
        run = await system.client.start(waits)
        await archived(archive_url, "SELECT status, finished_at IS NULL FROM runs", [("waiting", True)])
        await system.client.publish("go")
        await run.wait("1m")
        await archived(archive_url, "SELECT status, finished_at IS NULL FROM runs", [("completed", False)])


@pytest.mark.parametrize("shards", [1, 3])
async def test_what_nats_has_deleted_is_answered_as_it_was(archive_url: str, order: Any, shards: int) -> None:
    async with archived_system(archive_url, order, retention=1, shards=shards) as system:
        run = await system.client.start(order, "good")
        await run.wait("1m")
        before = await run.state(), await run.steps()
        await gone(system, run.id)
        assert (await run.state(), await run.steps()) == before
        assert [step.name for step in before[1]] == ["charge", "cool off"]
        assert await run.result() == {"total": 42, "order": "good"}


async def test_lists_go_through_nats_and_the_archive_without_a_seam(archive_url: str, order: Any) -> None:
    async with archived_system(archive_url, order, retention=2) as system:
        old = [await system.client.start(order, "bad" if number % 3 == 0 else "good") for number in range(9)]
        for run in old:
            await run.wait("1m")
        await gone(system, *(run.id for run in old))
        new = [await system.client.start(order, "bad" if number % 3 == 0 else "good") for number in range(9)]
        for run in new:
            await run.wait("1m")
        everything = [run.id for run in [*old, *new]]

        async def listed(**filters: Any) -> list[str]:
            # Pages of a size that fits to nothing.
            found: list[str] = []
            before: str | None = None
            while True:
                request = encode_record(ListRuns(limit=4, before=before, **filters))
                reply = await system.broker.request(NAMES.api("runs.list"), request, 5)
                page = decode_record(RunsPage, decode_record(Reply, reply).result)
                found += [run.id for run in page.runs]
                if (before := page.next) is None:
                    return found

        assert sorted(await listed()) == sorted(everything)
        failed = [run for number, run in enumerate(everything) if number % 9 % 3 == 0]
        assert sorted(await listed(status="failed")) == sorted(failed)
        assert len(await listed(function="order")) == 18
        assert await listed(function="other") == []
        assert await listed(status="waiting") == []


async def test_events_that_the_stream_has_forgotten_are_listed_after_those_it_has(archive_url: str) -> None:
    async with archived_system(archive_url, workers=0) as system:
        for number in range(10):
            await system.client.publish("order.placed" if number % 2 else "order.paid", number, id=f"e{number}")
        await archived(archive_url, "SELECT count(*) FROM events", [(10,)])
        await system.broker.purge(NAMES.events, ">", up_to=5)

        async def listed(name: str | None, limit: int = 100) -> list[str]:
            return [event.id async for event in system.client.events(name=name, limit=limit)]

        assert await listed(None) == [f"e{number}" for number in reversed(range(10))]
        assert await listed(None, 7) == ["e9", "e8", "e7", "e6", "e5", "e4", "e3"]
        assert await listed("order.paid") == ["e8", "e6", "e4", "e2", "e0"]
        assert await listed("order.*") == await listed(">") == await listed(None)
        assert await listed("*") == []


async def test_a_run_whose_event_is_forgotten_still_shows_its_data(archive_url: str) -> None:
    @ironflow.function(id="quick")
    async def quick(ctx: Context) -> None: ...

    async with archived_system(archive_url, quick) as system:
        run = await system.client.start(quick, {"order": 7})
        await run.wait("1m")
        await archived(archive_url, "SELECT count(*) FROM events", [(1,)])
        await system.broker.purge(NAMES.events, ">")
        assert bytes((await run.state()).event.data) == b'{"order":7}'


async def has_ended_its_pass(system: System, run: str) -> None:
    journal = NAMES.shard_of(run).journal
    assert await system.broker.last(journal, NAMES.journal_outcome("default", run, 0)) is not None


async def test_a_run_that_has_waited_shows_its_events_data_without_the_event(archive_url: str) -> None:
    """Its journal kept it; and the archive what the journal had, though it was set up when the event was gone."""

    @ironflow.function(id="waits")
    async def waits(ctx: Context) -> None:
        await ctx.step.wait_for_event("go", event="go")

    async with archived_system(archive_url, waits, retention=2) as system:
        run = await system.client.start(waits, {"order": 7})
        await archived(archive_url, "SELECT status FROM runs", [("waiting",)])
        await archived(archive_url, "SELECT count(*) FROM events", [(1,)])
        await eventually(lambda: has_ended_its_pass(system, run.id))
        await system.broker.purge(NAMES.events, ">")
        await rows(archive_url, "DELETE FROM events")
        assert bytes((await run.state()).event.data) == b'{"order":7}'
        await system.client.publish("go")
        await run.wait("1m")
        await gone(system, run.id)
        assert bytes((await run.state()).event.data) == b'{"order":7}'


async def test_nothing_stops_while_postgres_is_down_and_nothing_is_missing_afterwards(
    postgres: PostgresServer, archive_url: str, order: Any
) -> None:
    async with archived_system(archive_url, order, retention=1) as system:
        first = await system.client.start(order, "before")
        await first.wait("1m")
        await archived(archive_url, "SELECT status FROM runs", [("completed",)])
        await gone(system, first.id)
        postgres.stop()
        try:
            runs = [await system.client.start(order, number) for number in range(20)]
            for run in runs:
                assert (await run.result("1m"))["total"] == 42

            async def nothing_is_deleted() -> None:
                assert len([run async for run in system.client.runs()]) == 20

            await holds_for(nothing_is_deleted, 1.5)  # longer than the retention
            with pytest.raises(ironflow.EngineUnavailableError, match="the archive does not answer"):
                await first.state()
        finally:
            postgres.start()
        await archived(archive_url, "SELECT count(*), count(finished_at) FROM runs", [(21, 21)])
        await archived(archive_url, "SELECT count(*) FROM steps", [(42,)])
        await gone(system, *(run.id for run in runs))
        assert len([run async for run in system.client.runs()]) == 21


async def test_an_engine_starts_while_postgres_is_down(postgres: PostgresServer, archive_url: str, order: Any) -> None:
    postgres.stop()
    try:
        async with archived_system(archive_url, order) as system:
            run = await system.client.start(order, "x")
            assert (await run.result("1m"))["total"] == 42
            postgres.start()
            await archived(archive_url, "SELECT status FROM runs", [("completed",)])
    finally:
        postgres.start()


async def test_engines_that_archive_at_the_same_time_and_die_leave_one_row_each(archive_url: str, order: Any) -> None:
    async with archived_system(archive_url, order, engines=2) as system:

        async def load() -> list[str]:
            runs = [await system.client.start(order, number) for number in range(60)]
            for run in runs:
                await run.wait("1m")
            return [run.id for run in runs]

        async def is_under_way() -> None:
            assert await rows(archive_url, "SELECT id FROM runs LIMIT 1")

        loading = asyncio.create_task(load())
        await eventually(is_under_way)
        await system.kill(next(iter(system.engines)))
        await system.add_engine()
        await loading
        await archived(archive_url, "SELECT status, count(*) FROM runs GROUP BY 1", [("completed", 60)])
        await archived(archive_url, "SELECT count(*) FROM steps", [(120,)])
        await archived(archive_url, "SELECT count(*) FROM events", [(60,)])


async def test_a_run_that_begins_once_more_takes_the_place_of_the_one_before(archive_url: str) -> None:
    steps = iter(["first", "second"])

    @ironflow.function(id="f", triggers=["go"])
    async def f(ctx: Context) -> str:
        name = next(steps)
        await ctx.step.run(name, lambda: name)
        return name

    async with archived_system(archive_url, f, retention=1) as system:
        event = await system.client.publish("go")
        run = system.client.run(run_id("f", event.id))
        await archived(archive_url, "SELECT status FROM runs", [("completed",)])
        await gone(system, run.id)
        stored = await system.broker.last(NAMES.events, NAMES.event("go"))
        assert stored is not None
        # Without the message id by which the server would know it again for two minutes.
        await system.broker.publish(Publication(subject=stored.subject, payload=stored.payload))
        await archived(archive_url, "SELECT name FROM steps ORDER BY sequence DESC LIMIT 1", [("second",)])
        await gone(system, run.id)
        assert await run.result() == "second"
        assert [step.name for step in await run.steps()] == ["second"]
        assert await rows(archive_url, "SELECT name FROM steps") == [("second",)]


async def test_a_bucket_that_was_made_anew_is_archived_from_its_beginning(archive_url: str, order: Any) -> None:
    for data in ("one", "two"):
        async with archived_system(archive_url, order) as system:
            for _ in range(3 if data == "one" else 1):
                await (await system.client.start(order, data)).wait("1m")
            expected = 3 if data == "one" else 4
            await archived(archive_url, "SELECT count(*) FROM runs", [(expected,)])
            await archived(archive_url, "SELECT count(*) FROM events", [(expected,)])


async def test_what_cannot_be_read_holds_nothing_up(archive_url: str, order: Any) -> None:
    async with archived_system(archive_url, order) as system:
        await system.broker.publish(Publication(subject=NAMES.run_key("bad"), payload=b"{"))
        await system.broker.publish(Publication(subject=NAMES.journal_step("q", "r", "s"), payload=b"{"))
        await (await system.client.start(order, "x")).wait("1m")
        await archived(archive_url, "SELECT status FROM runs", [("completed",)])


async def test_what_has_no_meaning_or_no_place_in_a_table_holds_nothing_up(archive_url: str, order: Any) -> None:
    async with archived_system(archive_url, order) as system:
        run = await system.client.start(order, "x")
        await run.wait("1m")
        state = await system.run_state(run.id)
        long_ago = replace(state, id="long-ago", started_at=10**18)
        step = StepRecord(name="s", kind="run", token="t", attempt=2**40)
        for subject, payload in (
            (f"{NAMES.namespace}.journal.orders.x", b"{}"),
            (f"{NAMES.namespace}.journal.x", b""),
            (NAMES.run_key(long_ago.id), encode_record(long_ago)),
            (NAMES.journal_step("q", "r", "s"), encode_record(step)),
        ):
            await system.broker.publish(Publication(subject=subject, payload=payload))
        other = await system.client.start(order, "y")
        await other.wait("1m")
        await archived(archive_url, "SELECT count(*) FROM runs", [(2,)])
        await archived(archive_url, "SELECT count(*) FROM steps", [(4,)])


async def test_errors_are_found_by_a_part_of_their_text(archive_url: str, order: Any) -> None:
    async with archived_system(archive_url, order) as system:
        bad = await system.client.start(order, "bad")
        await bad.wait("1m")
        found = "SELECT id FROM runs WHERE error ILIKE '%declin%'"
        await archived(archive_url, found, [(bad.id,)])


@pytest.mark.parametrize(
    ("question", "index"),
    [
        (
            "status = 'failed' AND started_at > now() - interval '1h' ORDER BY started_at DESC, id DESC",
            "runs_by_status",
        ),
        ("function = 'f7' ORDER BY started_at DESC, id DESC", "runs_by_function"),
        ("started_at > now() - interval '1h' ORDER BY started_at DESC, id DESC", "runs_by_time"),
        ("event_id = 'e77'", "runs_by_event"),
        ("event_name = 'n7' ORDER BY started_at DESC", "runs_by_event_name"),
        ("error ILIKE '%number 777%'", "runs_by_error"),
    ],
)
async def test_what_people_ask_is_answered_from_an_index(
    archive_url: str, question: str, index: str, explain: Callable[[str, str], Any]
) -> None:
    assert index in await explain(archive_url, question)


@pytest.fixture
def explain() -> Callable[[str, str], Any]:
    async def explained(url: str, question: str) -> str:
        archive = PostgresArchive(url, NAMES)
        assert await archive.history.run("none") is None  # makes the tables
        await archive.close()
        await rows(
            url,
            "INSERT INTO runs SELECT 'r' || n, 'f' || n % 50, 'q', CASE n % 100 WHEN 0 THEN 'failed' ELSE 'completed' "
            "END, 1, 'e' || n, 'n' || n % 50, now() - n * interval '1s', now(), CASE n % 100 WHEN 0 THEN "
            "'Error: number ' || n || ' of ' || md5(n::text) END, n, now(), '' FROM generate_series(1, 20000) n",
        )
        await rows(url, "ANALYZE runs")
        plan = await rows(url, f"EXPLAIN SELECT state FROM runs WHERE {question} LIMIT 50")  # noqa: S608 - our own
        return "\n".join(line for (line,) in plan)

    return explained
