"""What is known of the events that EVENTS retains: it is what a reader of all of them would find."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncGenerator

import pytest

from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.broker.protocol import Publication
from ironflow.broker.topology import streams
from ironflow.codec import encode_record, encode_value
from ironflow.matching import canonical
from ironflow.names import Names
from ironflow.records import EventRecord
from ironflow_engine import event_index
from ironflow_engine.event_index import EventIndex, Key

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")
PAID: Key = ("order.paid", "user")


class Events:
    """EVENTS, and what stands in there.

    Attributes:
        places: where the events of each name with each user stand.

    """

    def __init__(self) -> None:
        self.server = LocalServer()
        self.broker: LocalBroker = self.server.connect()
        self.index = EventIndex(self.broker, NAMES)
        self.places: dict[tuple[str, object], list[int]] = {}
        self.newest = 0

    def put(self, name: str, user: object) -> None:
        data = encode_value({"user": user}, "data")
        record = EventRecord(id=str(self.newest), name=name, time="2026-01-01T00:00:00Z", data=data)
        self.server.store(Publication(subject=NAMES.event(name), payload=encode_record(record)))
        self.newest += 1
        self.places.setdefault((name, user), []).append(self.newest)

    async def found(self, user: object, after: int, *, key: Key = PAID, oldest: int = 1) -> list[int]:
        async with self.index.between(key, after, self.newest, oldest) as places:
            return places.of(canonical(user), after)

    def standing(self, user: object, after: int, name: str = "order.paid") -> list[int]:
        return [place for place in self.places.get((name, user), []) if place > after][:100]


@pytest.fixture
async def events() -> AsyncGenerator[Events]:
    made = Events()
    for stream in streams(NAMES):
        await made.broker.ensure_stream(stream)
    yield made
    made.index.close()
    await made.broker.close()


@pytest.mark.parametrize("seed", range(5))
async def test_it_knows_what_a_reader_would_find_in_whatever_order_it_is_asked(
    events: Events, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_index, "_SEGMENT", 60)
    chance = random.Random(seed)
    for _ in range(30):
        for _ in range(chance.randrange(60)):
            events.put(chance.choice(["order.paid", "order.paid", "order.sent"]), chance.randrange(8))
        after, user = chance.randrange(events.newest + 1), chance.randrange(8)
        assert await events.found(user, after) == events.standing(user, after)
    assert sum(map(len, events.places.values())) > 500


async def test_what_it_knows_is_not_read_again(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(700):
        events.put("order.paid", number)
    await events.found(3, 0)
    begins: list[int] = []
    read = events.broker.read

    def counted(stream: str, subject_filter: str, after: int = 0, *, one_each: bool = False) -> object:
        begins.append(after)
        return read(stream, subject_filter, after, one_each=one_each)

    monkeypatch.setattr(events.broker, "read", counted)
    assert await events.found(650, 10) == [651]
    assert begins == []
    events.put("order.paid", 650)
    assert await events.found(650, 10) == [651, 701]
    assert begins == [700]


async def test_those_who_ask_at_the_same_time_have_it_read_once(events: Events) -> None:
    for number in range(1_000):
        events.put("order.paid", number % 10)
    found = await asyncio.gather(*(events.found(user, user * 50) for user in range(10)))
    assert found == [events.standing(user, user * 50) for user in range(10)]


async def test_of_very_many_the_next_ones_are_found_behind_the_first(events: Events) -> None:
    for _ in range(250):
        events.put("order.paid", "often")
    first = await events.found("often", 0)
    assert first == list(range(1, 101))
    assert await events.found("often", first[-1]) == list(range(101, 201))


async def test_values_are_equal_as_json_has_them_and_what_cannot_be_read_has_none(events: Events) -> None:
    for user in (1, "1", None):
        events.put("order.paid", user)
    events.server.store(Publication(subject=NAMES.event("order.paid"), payload=b"{"))
    events.newest += 1
    events.put("order.paid", 1.0)
    assert await events.found(1, 0) == [1, 5]
    assert await events.found(None, 0) == [3]


async def test_what_the_server_has_forgotten_is_forgotten(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_index, "_SEGMENT", 100)
    for _ in range(1_000):
        events.put("order.paid", "x")
    assert len(await events.found("x", 0)) == 100
    assert await events.found("x", 0, oldest=501) == list(range(501, 601))


async def test_only_so_many_names_and_paths_are_known(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_index, "_MOST", 2)
    for name in ("a", "b", "c"):
        events.put(name, 1)
    for name in ("a", "b", "a", "c"):
        assert await events.found(1, 0, key=(name, "user")) == events.standing(1, 0, name)
    known = [name for name in ("a", "b", "c") if events.index.is_behind((name, "user"), 0)]
    assert known == ["a", "c"]


async def test_what_somebody_needs_now_stays_known(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_index, "_MOST", 1)
    for name in ("a", "b"):
        events.put(name, 1)
    async with events.index.between(("a", "user"), 0, events.newest, 1) as places:
        assert await events.found(1, 0, key=("b", "user")) == [2]
        assert places.of("1", 0) == [1]
    await events.found(1, 0, key=("b", "user"))
    assert not events.index.is_behind(("a", "user"), 0)


async def test_what_was_not_read_whole_is_not_taken_for_it(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(600):
        events.put("order.paid", "x")
    await events.found("x", 550)

    def full(*_: object) -> str:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(event_index, "_value_of", full)
        with pytest.raises(sqlite3.OperationalError):
            await events.found("x", 0)
    assert await events.found("x", 0) == events.standing("x", 0)
