"""Run states under compare-and-set, with answers that get lost."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator

import msgspec
import pytest

from ironflow.broker.local import LocalServer, Stage
from ironflow.broker.protocol import Ambiguous, BrokerError, Publication, StorageFull, Unavailable, WrongRevision
from ironflow.broker.topology import streams
from ironflow.names import Names
from ironflow.records import RunState, RunStatus
from ironflow_engine.run_store import ABSENT, RunStore, UnreadableState, Version

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")
STATE = RunState(
    id="r", function="f", queue="q", status="queued", started_at=1, event_id="e", event_name="n", event_sequence=1
)


@pytest.fixture
async def server() -> AsyncGenerator[LocalServer]:
    made = LocalServer()
    broker = made.connect()
    for stream in streams(NAMES):
        await broker.ensure_stream(stream)
    yield made
    made.interceptor = None
    await broker.close()


def store_on(server: LocalServer) -> RunStore:
    tokens = itertools.count()
    name = f"{id(tokens)}"
    return RunStore(server.connect(), NAMES, lambda: f"{name}-{next(tokens)}")


def version(answer: Version | BrokerError) -> Version:
    assert isinstance(answer, Version), answer
    return answer


async def test_a_state_that_was_written_is_remembered_and_read_by_others(server: LocalServer) -> None:
    ours, theirs = store_on(server), store_on(server)
    assert await ours.load("r") == ABSENT
    written = version((await ours.write_all([(STATE, 0)]))[0])
    assert ours.remembered("r") == written == await theirs.load("r")


async def test_a_write_that_follows_an_old_revision_is_refused_and_the_old_one_is_forgotten(
    server: LocalServer,
) -> None:
    ours, theirs = store_on(server), store_on(server)
    first = version((await ours.write_all([(STATE, 0)]))[0])
    newer = msgspec.structs.replace(STATE, woken_by=5)
    second = version((await theirs.write_all([(newer, first.revision)]))[0])
    (answer,) = await ours.write_all([(STATE, first.revision)])
    assert isinstance(answer, WrongRevision)
    assert ours.remembered("r") == second


@pytest.mark.parametrize("stage", ["before", "after"])
async def test_a_write_without_an_answer_is_ours_only_if_it_stands_there(server: LocalServer, stage: Stage) -> None:
    store = store_on(server)
    server.interceptor = lambda at, verb, _: Ambiguous("lost") if (at, verb) == (stage, "publish") else None
    (answer,) = await store.write_all([(STATE, 0)])
    server.interceptor = None
    if stage == "after":
        assert version(answer) == await store.load("r")
    else:
        assert isinstance(answer, WrongRevision)
        assert await store.load("r") == ABSENT


async def test_a_write_that_was_overtaken_before_it_could_be_looked_up_is_not_ours(server: LocalServer) -> None:
    ours, theirs = store_on(server), store_on(server)
    other = server.connect()

    def overtake(at: Stage, verb: str, subject: str) -> BrokerError | None:
        if (at, verb) != ("after", "publish"):
            return None
        server.interceptor = None
        server.store(
            Publication(subject=subject, payload=msgspec.json.encode(msgspec.structs.replace(STATE, token="theirs")))
        )
        return Ambiguous("lost")

    server.interceptor = overtake
    (answer,) = await ours.write_all([(STATE, 0)])
    assert isinstance(answer, WrongRevision)
    assert (await theirs.load("r")).revision == 2
    await other.close()


@pytest.mark.parametrize("error", [StorageFull("full"), Unavailable("gone")], ids=lambda error: type(error).__name__)
async def test_a_write_that_was_not_stored_says_why(server: LocalServer, error: BrokerError) -> None:
    store = store_on(server)
    server.interceptor = lambda _, verb, subject: error if verb == "publish" and subject.endswith(".r") else None
    answers = await store.write_all([(STATE, 0), (msgspec.structs.replace(STATE, id="other"), 0)])
    assert answers[0] is error
    assert version(answers[1]).revision > 0


async def test_what_cannot_be_read_does_not_hide_what_can(server: LocalServer) -> None:
    store = store_on(server)
    await store.write_all([(STATE, 0)])
    server.store(Publication(subject=NAMES.run_key("bad"), payload=b"{"))
    known, bad, missing = await store_on(server).load_all(["r", "bad", "missing"])
    assert version(known).state is not None
    assert isinstance(bad, UnreadableState)
    assert missing == ABSENT


async def test_the_runs_that_are_remembered_are_bounded_and_the_newest(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ironflow_engine.run_store._REMEMBERED_RUNS", 3)
    store = store_on(server)
    for name in "abcd":
        await store.write_all([(msgspec.structs.replace(STATE, id=name), 0)])
        store.remembered("a")
    assert [name for name in "abcd" if store.remembered(name)] == ["a", "c", "d"]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_a_run_that_has_ended_is_not_remembered(server: LocalServer, status: RunStatus) -> None:
    ours = store_on(server)
    first = version((await ours.write_all([(STATE, 0)]))[0])
    ended = msgspec.structs.replace(STATE, status=status)
    last = version((await ours.write_all([(ended, first.revision)]))[0])
    assert ours.remembered("r") is None
    assert await ours.load("r") == last
    assert ours.remembered("r") is None
