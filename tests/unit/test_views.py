"""How a run's journal is shown as steps."""

from __future__ import annotations

import msgspec
import pytest

from ironflow.broker.protocol import StoredMessage
from ironflow.clock import to_iso
from ironflow.codec import encode_record
from ironflow.messages import AwaitedView
from ironflow.names import PASS_TOKEN
from ironflow.records import (
    NULL,
    DueRecord,
    ErrorRecord,
    FunctionRecord,
    OutcomeRecord,
    RunState,
    StepRecord,
    TryRecord,
    WaitRecord,
)
from ironflow.retry import RetryPolicy
from ironflow_engine.views import StepHistory, function_view, run_view

NOW = 1_767_225_600_000
ERROR = ErrorRecord(type="E", message="m", step="a", attempts=1)


def stored(sequence: int, rest: str, record: msgspec.Struct, time_ms: int = NOW) -> StoredMessage:
    return StoredMessage(f"ironflow.journal.orders.r1.{rest}", encode_record(record), sequence, time_ms)


def attempt(number: int) -> TryRecord:
    return TryRecord(name="a", kind="run", token="t", attempt=number, delay_ms=9, error=ERROR, duration_ms=5)


def history(*messages: StoredMessage) -> StepHistory:
    made = StepHistory()
    made.read(messages)
    return made


def test_a_recorded_step_is_shown_with_its_times() -> None:
    record = StepRecord(name="a", kind="run", token="t", output=msgspec.Raw(b"[1]"), attempt=2, duration_ms=1_500)
    ((sequence, view),) = history(stored(4, "step.a", record, NOW + 2_000)).recorded()
    assert sequence == 4
    assert (view.name, view.status, view.attempt, bytes(view.output)) == ("a", "completed", 2, b"[1]")
    assert (view.started_at, view.finished_at) == (to_iso(NOW + 500), to_iso(NOW + 2_000))


def test_a_failed_step_shows_its_error() -> None:
    record = StepRecord(name="a", kind="run", token="t", status="failed", error=ERROR)
    ((_, view),) = history(stored(1, "step.a", record)).recorded()
    assert view.status == "failed"
    assert view.error is not None
    assert view.error.message == "m"


@pytest.mark.parametrize(
    ("messages", "shown"),
    [
        ([stored(1, "wait.a", WaitRecord(name="a", kind="sleep", token="t"))], [("sleeping", 1)]),
        ([stored(1, "wait.a", WaitRecord(name="a", kind="wait_for_event", token="t"))], [("waiting", 1)]),
        ([stored(1, "try.a.1", attempt(1))], [("retrying", 1)]),
        (
            [
                stored(1, "try.a.1", attempt(1)),
                stored(2, "due.a.1", DueRecord(token="t")),
                stored(3, "try.a.2", attempt(2)),
            ],
            [("retrying", 2)],
        ),
        (
            [
                stored(1, "wait.a", WaitRecord(name="a", kind="sleep", token="t")),
                stored(2, "step.a", StepRecord(name="a", kind="sleep", token="t")),
            ],
            [],
        ),
        ([stored(1, f"try.{PASS_TOKEN}.1", attempt(1))], []),
        ([stored(1, "outcome.0", OutcomeRecord(number=0, status="suspended", token="t"))], []),
        ([stored(1, "signal.a", DueRecord(token="t"))], []),
    ],
    ids=["sleep", "wait", "retry", "second retry", "over", "pass", "outcome", "unknown"],
)
def test_open_steps_are_what_has_no_result(messages: list[StoredMessage], shown: list[tuple[str, int]]) -> None:
    views = [view for _, view in history(*messages).open_steps()]
    assert [(view.status, view.attempt) for view in views] == shown
    assert all(view.finished_at is None and view.output == NULL for view in views)


def test_a_step_that_is_tried_again_shows_why_and_since_when() -> None:
    ((_, view),) = history(stored(1, "try.a.1", attempt(1), NOW + 5)).open_steps()
    assert view.error is not None
    assert view.error.type == "E"
    assert view.started_at == to_iso(NOW)


@pytest.mark.parametrize(
    ("record", "until", "awaits"),
    [
        (WaitRecord(name="a", kind="sleep", token="t", delay_ms=60_000), NOW + 60_000, None),
        (WaitRecord(name="a", kind="sleep", token="t", until_ms=NOW + 5), NOW + 5, None),
        (
            WaitRecord(name="a", kind="wait_for_event", token="t", event="paid", path="id", value='"o-1"', delay_ms=9),
            NOW + 9,
            AwaitedView(event="paid", path="data.id", value=msgspec.Raw(b'"o-1"')),
        ),
        (
            WaitRecord(name="a", kind="wait_for_event", token="t", event="paid", delay_ms=9),
            NOW + 9,
            AwaitedView(event="paid"),
        ),
        (WaitRecord(name="a", kind="invoke", token="t", function="pay"), None, AwaitedView(function="pay")),
    ],
    ids=["sleep", "sleep until", "event with a value", "any event", "child"],
)
def test_an_open_step_shows_what_it_waits_for_and_until_when(
    record: WaitRecord, until: int | None, awaits: AwaitedView | None
) -> None:
    ((_, view),) = history(stored(1, "wait.a", record)).open_steps()
    assert view.until == (None if until is None else to_iso(until))
    assert view.awaits == awaits


def test_a_step_that_failed_shows_when_it_is_tried_again_unless_that_is_now() -> None:
    tried = [stored(1, "try.a.1", attempt(1), NOW)]
    ((_, view),) = history(*tried).open_steps()
    assert view.until == to_iso(NOW + 9)
    ((_, view),) = history(*tried, stored(2, "due.a.1", DueRecord(token="t"), NOW + 9)).open_steps()
    assert view.until is None
    again = [*tried, stored(2, "due.a.1", DueRecord(token="t")), stored(3, "try.a.2", attempt(2), NOW + 20)]
    ((_, view),) = history(*again).open_steps()
    assert view.until == to_iso(NOW + 29)


def test_a_run_without_an_end_shows_none() -> None:
    state = RunState(
        id="r", function="f", queue="q", status="queued", started_at=NOW, event_id="e", event_name="n", event_sequence=1
    )
    view = run_view(state, status="running", event_data=NULL, output=NULL)
    assert (view.status, view.started_at, view.finished_at, view.error) == ("running", to_iso(NOW), None, None)


def test_a_function_shows_its_policy() -> None:
    record = FunctionRecord(id="f", queue="q", triggers=("a",), retry=RetryPolicy(max_attempts=7), timeout_ms=5)
    assert function_view(record).max_attempts == 7


def step(name: str = "a", kind: str = "run", status: str = "completed") -> StepRecord:
    return StepRecord(name=name, kind=kind, token="t", status=status)  # type: ignore[arg-type]


def test_a_step_that_was_done_again_is_shown_once_as_it_came_out_last() -> None:
    made = StepHistory(epoch=1)
    made.read(
        [stored(1, "step.a", step(status="failed")), stored(2, "step.b", step("b")), stored(3, "step.a.1", step())]
    )
    assert [(sequence, view.name, view.status) for sequence, view in made.recorded()] == [
        (2, "b", "completed"),
        (3, "a", "completed"),
    ]
    assert made.open_steps() == []


def test_a_step_that_is_being_done_again_is_open_as_long_as_the_run_is() -> None:
    made = StepHistory(epoch=1)
    made.read([stored(1, "step.a", step(status="failed")), stored(2, "try.a.1.1", attempt(1))])
    assert made.recorded() == []
    assert [view.status for _, view in made.open_steps()] == ["retrying"]
    assert [view.status for _, view in made.recorded(with_open=False)] == ["failed"]


def test_what_stayed_open_in_an_earlier_epoch_is_open_no_more_but_for_sleeps() -> None:
    made = StepHistory(epoch=1)
    made.read(
        [
            stored(1, "wait.a", WaitRecord(name="a", kind="sleep", token="t")),
            stored(2, "wait.b", WaitRecord(name="b", kind="wait_for_event", token="t")),
            stored(3, "try.c.1", attempt(1)),
        ]
    )
    assert [(view.name, view.status) for _, view in made.open_steps()] == [("a", "sleeping")]


@pytest.mark.parametrize(
    ("epoch", "over_ms"),
    [(0, 90_000), (1, 60_000)],  # the end that is recorded; the end of the sleep
    ids=["not retried", "retried"],
)
@pytest.mark.parametrize(
    "wait",
    [
        WaitRecord(name="a", kind="sleep", token="t", delay_ms=60_000),
        WaitRecord(name="a", kind="sleep", token="t", until_ms=NOW + 60_000),
    ],
    ids=["sleep", "sleep_until"],
)
def test_a_sleep_that_was_over_before_its_run_was_retried_took_no_longer_than_it_was_to(
    epoch: int, over_ms: int, wait: WaitRecord
) -> None:
    made = StepHistory(epoch=epoch)
    end = StepRecord(name="a", kind="sleep", token="t", duration_ms=90_000)
    made.read([stored(1, "wait.a", wait), stored(2, "step.a", end, NOW + 90_000)])
    ((_, view),) = made.recorded()
    assert (view.started_at, view.finished_at) == (to_iso(NOW), to_iso(NOW + over_ms))


def test_a_sleep_of_a_retried_run_that_ends_as_soon_as_it_is_due_shows_when_that_was() -> None:
    made = StepHistory(epoch=1)
    made.read(
        [
            stored(1, "wait.a", WaitRecord(name="a", kind="sleep", token="t", delay_ms=60_000)),
            stored(2, "step.a", StepRecord(name="a", kind="sleep", token="t", duration_ms=59_990), NOW + 59_990),
        ]
    )
    ((_, view),) = made.recorded()
    assert (view.started_at, view.finished_at) == (to_iso(NOW), to_iso(NOW + 59_990))


def test_what_was_shown_as_open_is_shown_neither_as_open_nor_as_recorded_again() -> None:
    made = history(
        stored(1, "wait.a", WaitRecord(name="a", kind="sleep", token="t")),
        stored(2, "step.b", step("b")),
        stored(3, "try.c.1", attempt(1)),
        stored(4, "try.c.2", attempt(2)),
        stored(5, "wait.d", WaitRecord(name="d", kind="sleep", token="t")),
        stored(6, "step.a", step("a", "sleep")),
        stored(7, "step.d", step("d", "sleep")),
        stored(8, "wait.e", WaitRecord(name="e", kind="sleep", token="t")),
    )
    assert [place for place, _ in made.open_steps()] == [3, 8]
    assert [(place, view.name) for place, view in made.open_steps(after=3)] == [(8, "e")]
    assert [(place, view.name) for place, view in made.recorded(but_of=3)] == [(2, "b"), (7, "d")]


def test_a_step_that_the_code_did_not_ask_for_says_so() -> None:
    made = StepHistory(epoch=1, unasked={"a.1"})
    made.read([stored(1, "step.a.1", step()), stored(2, "step.b", step("b"))])
    assert [view.unasked for _, view in made.recorded()] == [True, False]
