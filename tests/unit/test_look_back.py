"""What came before a wait is found, however much stands in EVENTS."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncGenerator

import pytest

from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.broker.protocol import Publication
from ironflow.broker.topology import streams
from ironflow.codec import encode_record, encode_value
from ironflow.matching import canonical
from ironflow.names import Names, mark
from ironflow.records import EventRecord, WaitEntry, WaitRecord
from ironflow_engine import event_index, look_back
from ironflow_engine.facts import EventArrived, RegisterWait
from ironflow_engine.look_back import LookBack

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")
PAID = "order.paid"


class Events:
    """EVENTS, and who looks back on it."""

    def __init__(self) -> None:
        self.server = LocalServer()
        self.broker: LocalBroker = self.server.connect()
        self.look_back = LookBack(self.broker, NAMES)
        self.users: list[tuple[str, int]] = []

    def put(self, *users: int, name: str = PAID) -> None:
        for user in users:
            self.users.append((name, user))
            data = encode_value({"user": user}, "data")
            record = EventRecord(id=f"e{len(self.users)}", name=name, time="2026-01-01T00:00:00Z", data=data)
            self.server.store(Publication(subject=NAMES.event(name), payload=encode_record(record)))

    async def found(self, *waits: RegisterWait) -> list[tuple[str, int]]:
        return places(await self.look_back.find(waits))

    async def glanced(self, *waits: RegisterWait) -> tuple[list[tuple[str, int]], list[str]]:
        found, left = await self.look_back.glance(waits)
        return places(found), [wait.entry.run for wait in left]

    def first(self, wait: RegisterWait, user: int | None) -> list[tuple[str, int]]:
        """Return what a wait for a user, or for anybody, may take first."""
        for place, (name, paid_by) in enumerate(self.users, 1):
            counts = place > wait.after and mark(f"e{place}") not in wait.consumed and f"e{place}" != wait.trigger
            if name == PAID and user in (None, paid_by) and counts:
                return [(wait.entry.run, place)]
        return []


def places(found: list[EventArrived]) -> list[tuple[str, int]]:
    return [(arrival.run, arrival.sequence) for arrival in found]


def wait(
    run: str, user: int | None, after: int = 0, consumed: frozenset[str] = frozenset(), trigger: str = "t"
) -> RegisterWait:
    path, value = (None, None) if user is None else ("user", canonical(user))
    record = WaitRecord(name="paid", kind="wait_for_event", token="", event=PAID, path=path, value=value)
    entry = WaitEntry(run=run, queue="q", step="paid", wait=record, sequence=1, time_ms=1)
    return RegisterWait(entry=entry, after=after, trigger=trigger, consumed=consumed)


@pytest.fixture
async def events(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Events]:
    monkeypatch.setattr(look_back, "_GLANCE", 20)
    monkeypatch.setattr(event_index, "_CANDIDATES", 3)
    made = Events()
    for stream in streams(NAMES):
        await made.broker.ensure_stream(stream)
    yield made
    made.look_back.close()
    await made.broker.close()


@pytest.mark.parametrize("seed", range(10))
async def test_each_wait_gets_the_first_event_that_it_may_take(events: Events, seed: int) -> None:
    chance = random.Random(seed)
    found = 0
    for turn in range(20):
        events.put(*chance.choices(range(6), k=chance.randrange(40)))
        events.put(*chance.choices(range(6), k=3), name="order.sent")
        newest = len(events.users)
        asked: dict[str, tuple[RegisterWait, int | None]] = {}
        for number in range(chance.randrange(1, 5)):
            after, user = chance.randrange(newest + 1), chance.choice([None, 0, 1, 2, 3, 4, 5, 99])
            seen = chance.sample(range(1, newest + 1), k=newest // 2)
            run = f"{turn}-{number}"
            asked[run] = wait(run, user, after, frozenset(mark(f"e{place}") for place in seen), "e3"), user
        waits = [each for each, _ in asked.values()]
        soon, left = await events.look_back.glance(waits)
        late = await events.look_back.find(left)
        expected = sorted(first for each, user in asked.values() for first in events.first(each, user))
        assert sorted(places(soon) + places(late)) == expected
        found += len(late)
    assert found > 5  # or this shows nothing of what takes longer


async def test_of_many_events_only_some_are_looked_at_while_others_wait(events: Events) -> None:
    events.put(*[1] * 2_000, 2)
    assert await events.glanced(wait("soon", 1), wait("late", 2)) == ([("soon", 1)], ["late"])
    assert await events.found(wait("late", 2)) == [("late", 2_001)]


async def test_what_an_index_knows_is_not_looked_at_while_others_wait(events: Events) -> None:
    events.put(*range(2_000))
    assert await events.found(wait("first", 1_500)) == [("first", 1_501)]
    assert await events.glanced(wait("second", 3), wait("third", 5, after=2_000)) == ([], ["second"])
    assert await events.found(wait("second", 3)) == [("second", 4)]


async def test_no_index_is_brought_up_to_date_for_a_wait_that_needs_little(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    events.put(*range(100))
    await events.found(wait("first", 3))
    events.put(*range(100, 2_000))
    begins: list[int] = []
    read = events.broker.read

    def counted(stream: str, subject_filter: str, after: int = 0, *, one_each: bool = False) -> object:
        begins.append(after)
        return read(stream, subject_filter, after, one_each=one_each)

    monkeypatch.setattr(events.broker, "read", counted)
    assert await events.found(wait("second", 1_990, after=1_950)) == [("second", 1_991)]
    assert begins == [1_950]


async def test_two_waits_of_a_run_for_one_event_come_in_the_order_in_which_they_were_recorded(events: Events) -> None:
    events.put(*[0] * 30, 1)
    anybody, somebody = wait("run", None), wait("run", 0)
    found = await events.look_back.find([anybody, somebody])
    assert [(arrival.sequence, arrival.entry.wait.path) for arrival in found] == [(1, None), (1, "user")]


async def test_an_event_that_has_ended_the_wait_is_found_again_and_no_other(events: Events) -> None:
    events.put(*[7] * 40)
    record = wait("run", 7).entry
    again = RegisterWait(entry=record, after=0, trigger="t", consumed=frozenset(), ended_by=mark("e33"))
    assert await events.found(again) == [("run", 33)]


async def test_where_no_index_can_be_kept_all_events_are_read(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(event_index, "_value_of", full)
    events.put(*range(1_500))
    assert await events.found(wait("a", 1_400), wait("b", 5), wait("c", None)) == [("c", 1), ("b", 6), ("a", 1_401)]
