"""Runs that are too many to be looked at together: each has its turn."""

from __future__ import annotations

import pytest

from ironflow.records import RunState
from ironflow_engine.read_model import Moment
from ironflow_engine.turns import Turns


class Runs:
    """Runs of a letter each, with their times."""

    def __init__(self, **times: int) -> None:
        self.times = times

    def select(self, before_ms: int, after: Moment, limit: int) -> list[tuple[int, RunState]]:
        places = sorted((time_ms, run) for run, time_ms in self.times.items() if time_ms < before_ms)
        return [(time_ms, state(run)) for time_ms, run in places if (time_ms, run) > after][:limit]


def state(run: str) -> RunState:
    return RunState(
        id=run, function="f", queue="q", status="queued", started_at=1, event_id="e", event_name="n", event_sequence=1
    )


def take(turns: Turns, before_ms: int, most: int) -> str:
    return "".join(run.id for run in turns.take(before_ms, most))


@pytest.mark.parametrize("most", [3, 4])
def test_all_have_their_turn_each_time_where_they_are_not_too_many(most: int) -> None:
    turns = Turns(Runs(a=1, b=2, c=3).select)
    assert [set(take(turns, 9, most)) for _ in range(4)] == [set("abc")] * 4


def test_where_they_are_too_many_it_goes_on_with_the_next_and_begins_anew_at_the_end() -> None:
    turns = Turns(Runs(a=1, b=1, c=1, d=1, e=1).select)
    assert [take(turns, 9, 2) for _ in range(5)] == ["ab", "cd", "ea", "bc", "de"]


def test_more_may_be_taken_one_time_than_another() -> None:
    turns = Turns(Runs(a=1, b=2, c=3, d=4, e=5).select)
    assert [take(turns, 9, most) for most in (1, 3, 5, 1)] == ["a", "bcd", "eabcd", "e"]


def test_it_comes_back_to_the_first_however_many_come_meanwhile() -> None:
    runs = Runs(a=1, b=2, c=3)
    turns = Turns(runs.select)
    assert take(turns, 4, 2) == "ab"
    runs.times |= {"d": 4, "e": 5, "f": 6}
    assert take(turns, 7, 2) == "ca"


def test_those_of_a_later_time_have_no_turn_yet() -> None:
    turns = Turns(Runs(a=1, b=2, c=3).select)
    assert [take(turns, before_ms, 5) for before_ms in (1, 3, 4)] == ["", "ab", "abc"]


def test_who_is_gone_is_left_out() -> None:
    runs = Runs(a=1, b=2, c=3, d=4)
    turns = Turns(runs.select)
    assert take(turns, 9, 2) == "ab"
    del runs.times["b"], runs.times["c"]
    assert take(turns, 9, 2) == "da"
