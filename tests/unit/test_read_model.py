"""The copy of the runs bucket that lists are answered from."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.broker.protocol import Publication, StoredMessage
from ironflow.broker.topology import streams
from ironflow.codec import encode_record
from ironflow.errors import DefinitionError
from ironflow.names import Names, bucket_stream
from ironflow.records import PurgedRuns, RunState, RunStatus
from ironflow_engine.read_model import Place, ReadModel, RunQuery, StillReading

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")


@pytest.fixture
async def broker() -> AsyncGenerator[LocalBroker]:
    connection = LocalServer().connect()
    for stream in streams(NAMES):
        await connection.ensure_stream(stream)
    yield connection
    await connection.close()


@pytest.fixture(params=[":memory:", ""], ids=["in memory", "in a temporary file"])
async def model(broker: LocalBroker, request: pytest.FixtureRequest) -> AsyncGenerator[ReadModel]:
    made = ReadModel(broker, NAMES, request.param)
    yield made
    made.close()


def state(id: str, status: RunStatus = "queued", *, function: str = "f", at: int = 1) -> RunState:
    return RunState(
        id=id,
        function=function,
        queue="q",
        status=status,
        started_at=at,
        event_id="e",
        event_name="n",
        event_sequence=1,
    )


async def write(broker: LocalBroker, *states: RunState) -> None:
    for each in states:
        await broker.publish(Publication(subject=NAMES.run_key(each.id), payload=encode_record(each)))


async def delete(broker: LocalBroker, number: int, **runs: int) -> None:
    """Delete runs as the engine does: they are purged first, and told of then."""
    for run in runs:
        await broker.purge(bucket_stream(NAMES.runs_bucket), NAMES.run_key(run))
    record = PurgedRuns(number=number, runs=runs)
    await broker.publish(Publication(subject=NAMES.purged_key(number), payload=encode_record(record)))


def places(found: list[tuple[int, RunState]]) -> list[tuple[int, str]]:
    return [(time_ms, run.id) for time_ms, run in found]


def ids(model: ReadModel, query: RunQuery) -> list[str]:
    return [found.id for found in model.query(query)]


def have_read_slowly(broker: LocalBroker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have each message take a second; return the places from which is read, as that goes on."""
    asked_from: list[int] = []

    async def read_slowly(
        stream: str, subject_filter: str, after: int = 0, **how: Any
    ) -> AsyncIterator[list[StoredMessage]]:
        asked_from.append(after)
        async for page in LocalBroker.read(broker, stream, subject_filter, after, **how):
            for message in page:
                await asyncio.sleep(1)
                yield [message]

    monkeypatch.setattr(broker, "read", read_slowly)
    return asked_from


async def test_it_shows_what_was_written_until_it_was_asked(broker: LocalBroker, model: ReadModel) -> None:
    await write(broker, state("a"))
    await model.catch_up()
    await write(broker, state("b"))
    assert ids(model, RunQuery()) == ["a"]
    await model.catch_up()
    assert ids(model, RunQuery()) == ["b", "a"]


async def test_a_run_shows_its_newest_state_only(broker: LocalBroker, model: ReadModel) -> None:
    await write(broker, state("a"))
    await model.catch_up()
    await write(broker, state("a", "waiting"), state("a", "completed"))
    await model.catch_up()
    assert [(found.id, found.status) for found in model.query(RunQuery())] == [("a", "completed")]
    assert ids(model, RunQuery(status="queued")) == []


async def test_who_does_not_wait_for_all_of_it_hears_how_far_it_is_and_the_next_goes_on_from_there(
    broker: LocalBroker, model: ReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(broker, *(state(f"run-{number}") for number in range(10)))
    asked_from = have_read_slowly(broker, monkeypatch)
    with pytest.raises(StillReading, match="change 4 of 10"):
        await model.catch_up_within(4.5)
    await model.catch_up_within(6.5)
    assert asked_from == [0, 4]
    assert len(model.query(RunQuery())) == 10


async def test_a_first_reading_that_was_cut_off_goes_on_past_what_was_deleted_before_it_began(
    broker: LocalBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(broker, *(state(f"run-{number}") for number in range(6)))
    # The lists of those that were deleted before these are gone.
    await delete(broker, 101, gone=1)
    await delete(broker, 102, gone=2)
    asked_from = have_read_slowly(broker, monkeypatch)
    for _ in range(2):
        model = ReadModel(broker, NAMES, tmp_path / "runs")
        with pytest.raises(StillReading):
            await model.catch_up_within(3.5)
        model.close()
    model = ReadModel(broker, NAMES, tmp_path / "runs")
    await model.catch_up_within(3.5)
    assert asked_from == [0, 3, 6]
    assert len(ids(model, RunQuery())) == 6
    await delete(broker, 103, **{"run-0": 1})
    await model.catch_up()
    assert asked_from == [0, 3, 6, 8]
    assert len(ids(model, RunQuery())) == 5
    model.close()


async def test_a_first_reading_that_was_cut_off_and_has_missed_what_was_deleted_since_begins_anew(
    broker: LocalBroker, model: ReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(broker, *map(state, "abcd"))
    await delete(broker, 101, gone=1)
    asked_from = have_read_slowly(broker, monkeypatch)
    with pytest.raises(StillReading):
        await model.catch_up_within(2.5)
    await delete(broker, 102, a=1)
    await delete(broker, 103, gone=2)
    await broker.purge(bucket_stream(NAMES.runs_bucket), NAMES.purged_key(102))
    await model.catch_up()
    assert asked_from == [0, 2, 0]
    assert ids(model, RunQuery()) == ["d", "c", "b"]


async def test_the_engine_goes_on_while_many_changes_are_taken_in(broker: LocalBroker, model: ReadModel) -> None:
    seen = {0}

    async def look_now_and_then() -> None:
        while True:
            seen.add(len(model.query(RunQuery(limit=1_000))))
            await asyncio.sleep(0)

    await write(broker, *(state(f"run-{number}") for number in range(400)))
    looking = asyncio.create_task(look_now_and_then())
    await model.catch_up()
    looking.cancel()
    seen.add(len(model.query(RunQuery(limit=1_000))))
    assert max(later - earlier for earlier, later in pairwise(sorted(seen))) <= 50
    assert max(seen) == 400


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (RunQuery(), ["d", "c", "b", "a"]),
        (RunQuery(limit=2), ["d", "c"]),
        (RunQuery(before=Place(3, "c")), ["b", "a"]),
        (RunQuery(before=Place(3, "b")), ["a"]),
        (RunQuery(since_ms=3), ["d", "c", "b"]),
        (RunQuery(status="queued"), ["c", "a"]),
        (RunQuery(function="g"), ["d", "c"]),
        (RunQuery(function="g", status="queued", since_ms=2, before=Place(9, "")), ["c"]),
        (RunQuery(status="queued", include=("a", "b", "x")), ["a"]),
        (RunQuery(status="queued", include=()), []),
        (RunQuery(status="queued", exclude=("a", "x")), ["c"]),
        (RunQuery(function="'; DROP TABLE runs; --"), []),
    ],
    ids=[
        "all",
        "limit",
        "after a place",
        "after a place at the same time",
        "since",
        "status",
        "function",
        "several",
        "among",
        "among none",
        "without",
        "injection",
    ],
)
async def test_a_list_is_narrowed_down(
    broker: LocalBroker, model: ReadModel, query: RunQuery, expected: list[str]
) -> None:
    await write(
        broker,
        state("a", at=1),
        state("b", "waiting", at=3),
        state("c", at=3, function="g"),
        state("d", "failed", at=5, function="g"),
    )
    await model.catch_up()
    assert ids(model, query) == expected


async def test_a_state_that_cannot_be_read_is_left_out_and_holds_nothing_up(
    broker: LocalBroker, model: ReadModel
) -> None:
    await write(broker, state("a"))
    await broker.publish(Publication(subject=NAMES.run_key("bad"), payload=b"{"))
    await write(broker, state("b"))
    await model.catch_up()
    assert ids(model, RunQuery()) == ["b", "a"]


async def test_changes_of_which_one_cannot_be_kept_are_taken_back(broker: LocalBroker, model: ReadModel) -> None:
    await write(broker, state("a"))
    await model.catch_up()
    await write(broker, state("b"), state("c", function="f" * 100_000))
    (pages,) = model._database.execute("PRAGMA page_count").fetchone()  # noqa: SLF001 - the disk is full
    model._database.execute(f"PRAGMA max_page_count = {pages}")  # noqa: SLF001 - as above
    with pytest.raises(sqlite3.OperationalError, match="full"):
        await model.catch_up()
    assert ids(model, RunQuery()) == ["a"]
    model._database.execute(f"PRAGMA max_page_count = {100 * pages}")  # noqa: SLF001 - there is room again
    await model.catch_up()
    assert ids(model, RunQuery()) == ["c", "b", "a"]


@pytest.mark.parametrize("anew", [["c"], ["c", "d"], ["c", "d", "e"]])
async def test_a_bucket_that_was_made_anew_is_read_anew(tmp_path: Path, anew: list[str]) -> None:
    for runs in (["a", "b"], anew):
        broker = LocalServer().connect()
        for stream in streams(NAMES):
            await broker.ensure_stream(stream)
        await write(broker, *map(state, runs))
        model = ReadModel(broker, NAMES, tmp_path / "runs")
        await model.catch_up()
        assert sorted(ids(model, RunQuery())) == runs
        model.close()


@pytest.mark.parametrize("anew", [["c"], ["c", "d"], ["c", "d", "e"]])
async def test_a_bucket_that_is_made_anew_meanwhile_is_read_anew(anew: list[str]) -> None:
    server = LocalServer()
    broker = server.connect()
    for stream in streams(NAMES):
        await broker.ensure_stream(stream)
    model = ReadModel(broker, NAMES, ":memory:")
    await write(broker, state("a"), state("b"))
    await model.catch_up()
    server.delete_stream(bucket_stream(NAMES.runs_bucket))
    for stream in streams(NAMES):
        await broker.ensure_stream(stream)
    await write(broker, *map(state, anew))
    await model.catch_up()
    assert sorted(ids(model, RunQuery())) == anew


async def test_a_file_goes_on_where_it_was(broker: LocalBroker, tmp_path: Path) -> None:
    first = ReadModel(broker, NAMES, tmp_path / "runs")
    await write(broker, state("a"))
    await first.catch_up()
    first.close()
    # What is gone from the bucket can only come from the file.
    await broker.purge(bucket_stream(NAMES.runs_bucket), NAMES.run_key("a"))
    await write(broker, state("b"))
    second = ReadModel(broker, NAMES, tmp_path / "runs")
    await second.catch_up()
    assert ids(second, RunQuery()) == ["b", "a"]
    second.close()


@pytest.mark.parametrize(
    "content", [bytes(4096), b"SQLite format 3\0" + b"\xff" * 4096], ids=["nothing but zeros", "spoilt database"]
)
async def test_a_spoilt_file_is_made_anew(broker: LocalBroker, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "runs").write_bytes(content)
    await write(broker, state("a"))
    model = ReadModel(broker, NAMES, tmp_path / "runs")
    await model.catch_up()
    assert ids(model, RunQuery()) == ["a"]
    model.close()


async def test_a_file_that_is_something_else_is_left_alone(broker: LocalBroker, tmp_path: Path) -> None:
    precious = tmp_path / "precious.json"
    precious.write_text('{"keep": "me"}', encoding="utf-8")
    with pytest.raises(DefinitionError, match=r"precious\.json holds something else than lists of runs"):
        ReadModel(broker, NAMES, precious)
    assert precious.read_text(encoding="utf-8") == '{"keep": "me"}'


async def test_a_run_that_was_deleted_is_listed_no_more(broker: LocalBroker, model: ReadModel) -> None:
    await write(broker, state("a"), state("b"))
    await model.catch_up()
    await delete(broker, 1, a=1)
    await model.catch_up()
    assert ids(model, RunQuery()) == ["b"]
    assert model.known(["a", "b", "c"]) == {"b"}


async def test_a_run_that_began_once_more_after_it_was_deleted_is_listed(broker: LocalBroker, model: ReadModel) -> None:
    await write(broker, state("a"))
    await model.catch_up()
    await broker.purge(bucket_stream(NAMES.runs_bucket), NAMES.run_key("a"))
    await write(broker, state("a", "waiting"))
    record = PurgedRuns(number=1, runs={"a": 1})
    await broker.publish(Publication(subject=NAMES.purged_key(1), payload=encode_record(record)))
    await model.catch_up()
    assert [found.status for found in model.query(RunQuery())] == ["waiting"]


async def test_who_has_missed_what_was_deleted_reads_all_anew(broker: LocalBroker, model: ReadModel) -> None:
    await write(broker, state("a"), state("b"), state("c"), state("d"))
    await model.catch_up()
    await delete(broker, 1, a=1)
    await model.catch_up()
    await delete(broker, 2, b=2)
    await broker.purge(bucket_stream(NAMES.runs_bucket), NAMES.purged_key(2))
    await delete(broker, 3, c=3)
    await model.catch_up()
    assert ids(model, RunQuery()) == ["d"]


async def test_runs_that_are_due_are_found_in_order_and_from_one_on_also_among_those_of_the_same_time(
    broker: LocalBroker, model: ReadModel
) -> None:
    resting = [replace(state(run, "waiting"), live=False, due_ms=due) for run, due in (("a", 30), ("c", 10), ("b", 10))]
    late = [replace(state(run, "waiting", at=at), timeout_ms=5) for run, at in (("d", 3), ("f", 2), ("e", 2))]
    await write(broker, *resting, *late)
    await model.catch_up()
    assert places(model.overdue(31, (0, ""), 9)) == [(10, "b"), (10, "c"), (30, "a")]
    assert places(model.overdue(30, (10, "b"), 9)) == [(10, "c")]
    assert places(model.overtime(9, (0, ""), 2)) == [(7, "e"), (7, "f")]
    assert places(model.overtime(9, (7, "e"), 9)) == [(7, "f"), (8, "d")]


async def test_a_run_that_is_due_before_all_time_is_overdue_and_one_behind_it_never_is(
    broker: LocalBroker, model: ReadModel
) -> None:
    resting = replace(state("a", "waiting"), live=False)
    await write(broker, replace(resting, due_ms=-(10**30)), replace(resting, id="b", due_ms=2**63))
    await write(broker, replace(resting, id="c", due_ms=9, timeout_ms=10**30))
    await model.catch_up()
    assert places(model.overdue(10, (0, ""), 9)) == [(1, "a"), (9, "c")]
    assert places(model.overtime(2**40, (0, ""), 9)) == []
    assert ids(model, RunQuery()) == ["c", "b", "a"]


async def test_a_run_that_the_database_does_not_take_is_left_out_and_the_others_are_shown(
    broker: LocalBroker, model: ReadModel
) -> None:
    await write(broker, state("a"), state("b", at=2**63), state("c", at=10**30), state("d"))
    await model.catch_up()
    assert ids(model, RunQuery()) == ["d", "a"]
    await write(broker, state("e"))
    await delete(broker, 1, a=1)
    await model.catch_up()
    assert ids(model, RunQuery()) == ["e", "d"]


async def test_live_runs_that_changed_at_the_same_time_are_all_found_one_page_after_the_other(
    broker: LocalBroker, model: ReadModel
) -> None:
    await write(broker, *(state(run) for run in "abcde"))  # on a virtual clock that is one moment
    await model.catch_up()
    found: list[str] = []
    after = (0, "")
    while page := places(model.live(2**62, after, 2)):
        found += [run for _, run in page]
        after = page[-1]
    assert found == [*"abcde"]


async def test_a_run_that_rests_and_waits_for_nothing_is_overdue(broker: LocalBroker, model: ReadModel) -> None:
    resting = replace(state("a", "waiting", at=5), live=False)
    await write(broker, resting, replace(resting, id="b", has_children=True), replace(resting, id="c", due_ms=50))
    await model.catch_up()
    assert places(model.overdue(40, (0, ""), 9)) == [(5, "a")]


async def test_finished_runs_are_found_in_the_order_of_their_ends(broker: LocalBroker, model: ReadModel) -> None:
    ended = [replace(state(run, "failed"), finished_at=at) for run, at in (("a", 30), ("b", 10))]
    await write(broker, *ended, state("c"), replace(state("d", "completed"), finished_at=10))
    await model.catch_up()
    assert [(revision, run.id) for revision, run in model.finished(31, (0, ""), 9)] == [(2, "b"), (4, "d"), (1, "a")]
    assert [run.id for _, run in model.finished(30, (10, "b"), 9)] == ["d"]
