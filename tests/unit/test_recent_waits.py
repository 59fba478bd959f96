"""Waits that an engine remembers: found by their place, bounded, and ended."""

from __future__ import annotations

from ironflow.records import WaitEntry, WaitRecord
from ironflow_engine.recent_waits import RecentWaits


def entry(run: str, step: str = "go", sequence: int = 1) -> WaitEntry:
    wait = WaitRecord(name=step, kind="wait_for_event", token="", event="x")
    return WaitEntry(run=run, queue="q", step=step, wait=wait, sequence=sequence, time_ms=1)


def test_waits_are_found_at_their_places_in_the_order_in_which_they_were_recorded() -> None:
    waits = RecentWaits()
    waits.keep("x.1", entry("late", sequence=9))
    waits.keep("x.2", entry("early", sequence=3))
    waits.keep("x.3", entry("elsewhere", sequence=1))
    assert [found.run for found in waits.at(["x.1", "x.2", "nowhere"])] == ["early", "late"]


def test_a_wait_that_has_ended_is_not_found_and_others_at_its_place_are() -> None:
    waits = RecentWaits()
    waits.keep("x", entry("a", "one", 1))
    waits.keep("x", entry("a", "two", 2))
    waits.end("a", "one")
    waits.end("a", "one")
    waits.end("never", "there")
    assert [found.step for found in waits.at(["x"])] == ["two"]


def test_a_wait_that_is_kept_twice_is_found_once() -> None:
    waits = RecentWaits()
    waits.keep("x", entry("a"))
    waits.keep("x", entry("a"))
    assert len(waits.at(["x"])) == 1


def test_the_ones_that_were_kept_first_make_room() -> None:
    waits = RecentWaits(most=2)
    for number in range(3):
        waits.keep("x", entry(f"run-{number}", sequence=number))
    assert [found.run for found in waits.at(["x"])] == ["run-1", "run-2"]


def test_a_wait_that_has_made_room_has_not_ended() -> None:
    waits = RecentWaits(most=1)
    waits.keep("x", entry("first"))
    waits.keep("x", entry("second"))
    waits.end("second", "go")
    assert not waits.has_ended("first", "go")
    assert waits.has_ended("second", "go")


def test_those_that_ended_last_are_known_to_be_over() -> None:
    waits = RecentWaits(most=2)
    for number in range(3):
        waits.end(f"run-{number}", "go")
    assert [waits.has_ended(f"run-{number}", "go") for number in range(3)] == [False, True, True]
