"""Which functions an event starts."""

from __future__ import annotations

import pytest

from ironflow.records import EventRecord, FunctionRecord
from ironflow.triggers import INVOKED
from ironflow_engine.matcher import Matcher


def function(id: str, *triggers: str, deleted: bool = False) -> FunctionRecord:
    return FunctionRecord(id=id, queue="q", triggers=triggers, deleted=deleted)


MATCHER = Matcher(
    [
        function("exact", "order.placed"),
        function("one", "order.*"),
        function("middle", "*.placed"),
        function("rest", "order.>"),
        function("everything", ">"),
        function("several", "order.placed", "order.*", "order.>"),
        function("untriggered"),
        function("gone", "order.placed", ">", deleted=True),
    ]
)


@pytest.mark.parametrize(
    ("name", "started"),
    [
        ("order.placed", {"exact", "one", "middle", "rest", "everything", "several"}),
        ("order.shipped", {"one", "rest", "everything", "several"}),
        ("order.placed.twice", {"rest", "everything", "several"}),
        ("order", {"everything"}),
        ("user.placed", {"middle", "everything"}),
        ("Order.placed", {"middle", "everything"}),
        ("ironflow.invoked", set()),
        ("ironflow.anything", set()),
    ],
)
def test_an_event_starts_each_function_that_triggers_on_it_once(name: str, started: set[str]) -> None:
    starts = MATCHER.starts(EventRecord(id="e", name=name, time=""), 7, 8)
    assert sorted(start.function.id for start in starts if start.function) == sorted(started)
    assert len({start.run for start in starts}) == len(starts)
    assert {(start.sequence, start.time_ms) for start in starts} <= {(7, 8)}


def test_an_event_with_a_target_starts_that_function_only_triggered_or_not() -> None:
    (start,) = MATCHER.starts(EventRecord(id="e", name=INVOKED, time="", target="untriggered"), 1, 1)
    assert start.function is not None
    assert start.function.id == "untriggered"


@pytest.mark.parametrize("target", ["missing", "gone"])
def test_a_target_that_is_not_registered_is_started_as_missing(target: str) -> None:
    (start,) = MATCHER.starts(EventRecord(id="e", name=INVOKED, time="", target=target), 1, 1)
    assert start.function is None
    assert start.run


def test_the_run_depends_on_the_event_and_the_function_and_on_nothing_else() -> None:
    def runs(name: str, id: str, sequence: int) -> set[str]:
        return {start.run for start in MATCHER.starts(EventRecord(id=id, name=name, time=""), sequence, sequence)}

    assert runs("order.placed", "a", 1) == runs("order.placed", "a", 2)
    assert not runs("order.placed", "a", 1) & runs("order.placed", "b", 1)
