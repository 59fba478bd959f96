"""Events find waits, whichever engine has written them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from ironflow.broker.local import LocalServer, Stage
from ironflow.broker.protocol import Ambiguous, BrokerError, Publication, StorageFull
from ironflow.broker.topology import streams
from ironflow.codec import encode_record
from ironflow.matching import canonical_at, read_data
from ironflow.names import Names, bucket_stream
from ironflow.records import EventRecord, WaitEntry, WaitPath, WaitRecord
from ironflow_engine.wait_store import WaitStore
from tests.unit.fake_engine import raw

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")
DATA = raw('{"a":1,"b":2,"c":3}')
EVENT = EventRecord(id="e", name="go", time="", data=DATA)


@pytest.fixture
async def server() -> AsyncGenerator[LocalServer]:
    server = LocalServer()
    broker = server.connect()
    for stream in streams(NAMES):
        await broker.ensure_stream(stream)
    yield server
    server.interceptor = None
    await broker.close()


def waits_of(server: LocalServer) -> WaitStore:
    """Return the waits as one more engine knows them."""
    return WaitStore(server.connect(), NAMES)


def wait(run: str, path: str | None) -> WaitEntry:
    value = None if path is None else canonical_at(read_data(DATA), path)
    record = WaitRecord(name="s", kind="wait_for_event", token="", event="go", path=path, value=value)
    return WaitEntry(run=run, queue="q", step="s", wait=record, sequence=1, time_ms=1)


async def found(waits: WaitStore) -> set[str]:
    (entries,) = await waits.matching([EVENT])
    return {entry.run for entry in entries}


def reads(server: LocalServer) -> list[str]:
    """Return which streams are read from now on."""
    streams_read: list[str] = []

    def note(at: Stage, verb: str, subject: str) -> BrokerError | None:
        if (at, verb) == ("before", "read"):
            streams_read.append(subject)
        return None

    server.interceptor = note
    return streams_read


async def test_paths_that_an_engine_has_written_itself_are_not_read(server: LocalServer) -> None:
    waits = waits_of(server)
    await waits.put_all([wait("r1", "a"), wait("r2", None)])
    await waits.put_all([wait("r3", "b")])
    streams_read = reads(server)
    assert await found(waits) == {"r1", "r2", "r3"}
    once = len(streams_read)
    assert await found(waits) == {"r1", "r2", "r3"}
    assert len(streams_read) == 2 * once  # of the waits at each path, and of the paths neither time


async def test_paths_that_another_engine_writes_in_between_are_read(server: LocalServer) -> None:
    one, other = waits_of(server), waits_of(server)
    await one.put_all([wait("r1", "a")])
    await other.put_all([wait("r2", "b")])
    await one.put_all([wait("r3", "c")])
    assert await found(one) == await found(other) == {"r1", "r2", "r3"}


async def test_a_path_written_by_another_engine_right_before_ours_is_read(server: LocalServer) -> None:
    one, other = waits_of(server), waits_of(server)
    await one.put_all([wait("r1", "a")])
    mark = Publication(subject=NAMES.wait_path_key("go", "b"), payload=encode_record(WaitPath(event="go", path="b")))

    def write_in_between(at: Stage, verb: str, _subject: str) -> BrokerError | None:
        if (at, verb) == ("after", "stream_state"):
            server.interceptor = None
            server.store(mark)
        return None

    server.interceptor = write_in_between
    await one.put_all([wait("r3", "c")])
    await other.put_all([wait("r2", "b")])
    assert await found(one) == {"r1", "r2", "r3"}


@pytest.mark.parametrize("stage", ["before", "after"])
async def test_a_path_whose_answer_was_lost_is_known(server: LocalServer, stage: Stage) -> None:
    waits = waits_of(server)
    lost = [Ambiguous("lost")]
    server.interceptor = lambda at, verb, subject: (
        lost.pop() if lost and (at, verb) == (stage, "publish") and "=paths" in subject else None
    )
    assert await waits.put_all([wait("r1", "a")]) == [None]
    assert lost == []
    assert await found(waits) == {"r1"}


async def test_a_wait_whose_path_could_not_be_written_is_not_put(server: LocalServer) -> None:
    waits = waits_of(server)
    server.interceptor = lambda _, verb, subject: (
        StorageFull("full") if verb == "publish" and "=paths" in subject else None
    )
    (failure,) = await waits.put_all([wait("r1", "a")])
    assert isinstance(failure, StorageFull)
    server.interceptor = None
    assert await waits.put_all([wait("r1", "a")]) == [None]
    assert await found(waits) == {"r1"}


@pytest.mark.parametrize("stage", ["before", "after"])
async def test_a_wait_that_is_put_again_stays_as_it_is(server: LocalServer, stage: Stage) -> None:
    waits = waits_of(server)
    assert await waits.put_all([wait("r1", "a")]) == [None]
    broker, bucket = server.connect(), bucket_stream(NAMES.waits_bucket)
    stored = await broker.stream_state(bucket)
    lost = [Ambiguous("lost")]
    server.interceptor = lambda at, verb, subject: (
        lost.pop() if lost and (at, verb) == (stage, "publish") and "=paths" not in subject else None
    )
    assert await waits_of(server).put_all([wait("r1", "a")]) == [None]
    assert await broker.stream_state(bucket) == stored


@pytest.mark.parametrize("paths", [("b",), ("b", "c"), ("b", "c", None)])
async def test_paths_of_a_bucket_that_was_deleted_hide_none_of_the_new_one(
    server: LocalServer, paths: tuple[str | None, ...]
) -> None:
    ours, theirs = waits_of(server), waits_of(server)
    await theirs.put_all([wait("r1", "a")])
    assert await found(ours) == {"r1"}
    server.delete_stream(bucket_stream(NAMES.waits_bucket))
    for stream in streams(NAMES):
        server.ensure_stream(stream)
    await theirs.put_all([wait(f"new-{path}", path) for path in paths])
    assert await found(ours) == {f"new-{path}" for path in paths}
