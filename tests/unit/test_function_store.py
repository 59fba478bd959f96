"""Definitions of functions: who sees a change, and when."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
import pytest

from ironflow.broker.local import LocalServer, Stage
from ironflow.broker.protocol import Ambiguous, BrokerError, Publication, Unavailable
from ironflow.broker.topology import streams
from ironflow.names import Names, bucket_stream
from ironflow.records import FunctionRecord
from ironflow_engine.function_store import FunctionStore

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")
FUNCTION = FunctionRecord(id="f", queue="q", triggers=("a",))


@pytest.fixture
async def server() -> AsyncGenerator[LocalServer]:
    made = LocalServer()
    broker = made.connect()
    for stream in streams(NAMES):
        await broker.ensure_stream(stream)
    yield made
    made.interceptor = None
    await broker.close()


def store_on(server: LocalServer) -> FunctionStore:
    return FunctionStore(server.connect(), NAMES, lambda: "token")


async def ids(store: FunctionStore) -> list[str]:
    return sorted((await store.current()).functions)


async def test_a_function_is_seen_by_every_engine_from_then_on(server: LocalServer) -> None:
    ours, theirs = store_on(server), store_on(server)
    assert await ids(theirs) == []
    assert await ours.put(FUNCTION)
    assert await ids(theirs) == await ids(ours) == ["f"]


async def test_registering_the_same_again_writes_nothing(server: LocalServer) -> None:
    assert await store_on(server).put(FUNCTION)
    assert not await store_on(server).put(FUNCTION)
    assert await store_on(server).put(msgspec.structs.replace(FUNCTION, triggers=("b",)))


async def test_a_deleted_function_is_gone_until_it_is_registered_again(server: LocalServer) -> None:
    store = store_on(server)
    await store.put(FUNCTION)
    assert await store_on(server).delete("f")
    assert not await store.delete("f")
    assert not await store.delete("never there")
    assert await ids(store) == []
    assert await store.put(FUNCTION)
    assert await ids(store) == ["f"]


async def test_what_cannot_be_read_is_left_out(server: LocalServer) -> None:
    server.store(Publication(subject=NAMES.function_key("bad"), payload=b'{"id": 5}'))
    store = store_on(server)
    await store.put(FUNCTION)
    assert await ids(store) == ["f"]


async def test_a_lost_answer_is_asked_for_again(server: LocalServer) -> None:
    lost = iter([Ambiguous("lost")])
    server.interceptor = lambda at, verb, _: next(lost, None) if (at, verb) == ("after", "publish") else None
    assert await store_on(server).put(FUNCTION)


async def test_a_read_that_breaks_off_is_finished_by_the_next(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ironflow.broker.local.connection.PAGE", 2)
    writer = store_on(server)
    for number in range(5):
        await writer.put(FunctionRecord(id=f"f{number}", queue="q"))
    pages = iter(range(3))

    def break_off(at: Stage, verb: str, _: str) -> BrokerError | None:
        return Unavailable("gone") if (at, verb) == ("before", "read") and next(pages, None) is None else None

    store = store_on(server)
    server.interceptor = break_off
    with pytest.raises(Unavailable):
        await store.current()
    server.interceptor = None
    assert await ids(store) == [f"f{number}" for number in range(5)]


@pytest.mark.parametrize("changes", [1, 2, 3])
async def test_functions_of_a_bucket_that_was_deleted_are_gone_from_every_engine(
    server: LocalServer, changes: int
) -> None:
    ours, theirs = store_on(server), store_on(server)
    for old in ("a", "b"):
        await theirs.put(msgspec.structs.replace(FUNCTION, id=old))
    assert await ids(ours) == ["a", "b"]
    server.delete_stream(bucket_stream(NAMES.functions_bucket))
    for stream in streams(NAMES):
        server.ensure_stream(stream)
    assert await ids(theirs) == []
    for number in range(changes):
        await theirs.put(msgspec.structs.replace(FUNCTION, triggers=(f"{number}",)))
    assert await ids(ours) == await ids(theirs) == ["f"]
