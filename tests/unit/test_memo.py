"""What a pass finds in the journal of its run."""

from __future__ import annotations

import msgspec
import pytest

from ironflow.broker.protocol import StoredMessage
from ironflow.codec import encode_record
from ironflow.errors import SerializationError
from ironflow.names import PASS_TOKEN, step_key, step_token
from ironflow.records import (
    ClosedRecord,
    DueRecord,
    ErrorRecord,
    EventRecord,
    InputRecord,
    OutcomeRecord,
    RetryRecord,
    StepKind,
    StepRecord,
    TryRecord,
    WaitRecord,
)
from ironflow_worker.memo import Memo

ERROR = ErrorRecord(type="E", message="m")


def stored(sequence: int, rest: str, record: msgspec.Struct) -> StoredMessage:
    return StoredMessage(f"ironflow.journal.orders.r1.{rest}", encode_record(record), sequence, 0)


def attempt(number: int) -> TryRecord:
    return TryRecord(name="s", kind="run", token="t", attempt=number, delay_ms=1, error=ERROR)


def read(*messages: StoredMessage) -> Memo:
    memo = Memo()
    memo.read(messages)
    return memo


def test_an_empty_journal_has_nothing() -> None:
    memo = read()
    assert (memo.event, memo.seen, memo.last_pass) == (None, 0, -1)
    assert memo.recorded_tokens() == frozenset()


def test_the_event_is_in_the_outcome_of_the_first_pass_or_in_a_record_of_its_own() -> None:
    event = EventRecord(id="e", name="go", time="")
    first = OutcomeRecord(number=0, status="suspended", token="t", event=event)
    later = OutcomeRecord(number=1, status="suspended", token="t")
    without = OutcomeRecord(number=0, status="compensating", token="t")
    assert read(stored(1, "outcome.0", first), stored(2, "outcome.1", later)).event == event
    assert read(stored(1, "input", InputRecord(event=event, token="t")), stored(2, "outcome.0", without)).event == event


def test_each_kind_of_record_is_found_where_it_is_asked_for() -> None:
    event = EventRecord(id="e", name="go", time="")
    step = StepRecord(name="a", kind="run", token="t")
    wait = WaitRecord(name="b", kind="sleep", token="t", delay_ms=5)
    memo = read(
        stored(3, "input", InputRecord(event=event, token="t")),
        stored(4, "step.a", step),
        stored(6, "wait.b", wait),
        stored(9, "outcome.0", OutcomeRecord(number=0, status="suspended", token="t")),
        stored(8, "try.c.1", attempt(1)),
    )
    assert memo.event == event
    assert (memo.step("a"), memo.wait("b"), memo.failed_attempt("c")) == (step, wait, attempt(1))
    assert (memo.seen, memo.last_pass) == (9, 0)
    assert {token: memo.kind(token) for token in "abcd"} == {"a": "run", "b": "sleep", "c": "run", "d": None}
    assert memo.recorded_tokens() == {"a", "b", "c"}


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_newest_failed_attempt_counts_whatever_the_order(order: tuple[int, int]) -> None:
    memo = read(*(stored(place, f"try.s.{number}", attempt(number)) for place, number in enumerate(order, 1)))
    assert memo.failed_attempt("s") == attempt(2)


def test_a_step_backs_off_until_its_newest_attempt_is_due() -> None:
    memo = read(stored(1, "try.s.1", attempt(1)))
    assert memo.is_backing_off("s")
    memo.read([stored(2, "due.s.1", DueRecord(token="t"))])
    assert not memo.is_backing_off("s")
    memo.read([stored(3, "try.s.2", attempt(2))])
    assert memo.is_backing_off("s")
    assert not memo.is_backing_off("another")


def test_the_retries_of_a_pass_are_no_step() -> None:
    memo = read(stored(1, f"try.{PASS_TOKEN}.1", attempt(1)))
    assert memo.is_backing_off(PASS_TOKEN)
    assert memo.recorded_tokens() == frozenset()


def test_the_newest_pass_with_an_outcome_is_the_one_with_the_highest_number() -> None:
    def outcome(number: int) -> OutcomeRecord:
        return OutcomeRecord(number=number, status="suspended", token="t")

    assert read(stored(1, "outcome.10", outcome(10)), stored(2, "outcome.9", outcome(9))).last_pass == 10


def test_a_kind_of_record_that_is_not_known_is_passed_over_and_counts_as_seen() -> None:
    memo = read(stored(7, "signal.a.1", DueRecord(token="t")), stored(8, "retry.1", RetryRecord(token="t")))
    assert memo.seen == 8
    assert memo.recorded_tokens() == frozenset()


def test_a_record_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(SerializationError):
        read(StoredMessage("ironflow.journal.orders.r1.step.a", b"{", 1, 0))


# Epochs: under which key a step stands in a run that was retried

KEY_CASES: dict[str, tuple[list[tuple[str, msgspec.Struct]], StepKind, str]] = {
    "nothing is recorded": ([], "run", "s.2"),
    "it succeeded": ([("step.s", StepRecord(name="s", kind="run", token="t"))], "run", "s"),
    "it succeeded in the second epoch": (
        [
            ("step.s", StepRecord(name="s", kind="run", token="t", status="failed", error=ERROR)),
            ("retry.1", RetryRecord(token="t")),
            ("step.s.1", StepRecord(name="s", kind="run", token="t")),
        ],
        "run",
        "s.1",
    ),
    "it is recorded in this epoch": (
        [("step.s.2", StepRecord(name="s", kind="run", token="t", status="failed", error=ERROR))],
        "run",
        "s.2",
    ),
    "it failed": (
        [("step.s", StepRecord(name="s", kind="run", token="t", status="failed", error=ERROR))],
        "run",
        "s.2",
    ),
    "it was to be tried again": ([("try.s.1", attempt(1))], "run", "s.2"),
    "it waited": (
        [("wait.s", WaitRecord(name="s", kind="wait_for_event", token="t", event="x"))],
        "wait_for_event",
        "s.2",
    ),
    "it slept": ([("wait.s", WaitRecord(name="s", kind="sleep", token="t", delay_ms=5))], "sleep", "s"),
    "it slept in a branch that was cancelled": (
        [
            ("wait.s", WaitRecord(name="s", kind="sleep", token="t", delay_ms=5)),
            ("closed.s", ClosedRecord(token="t", wait=WaitRecord(name="s", kind="sleep", token="t", delay_ms=5))),
        ],
        "sleep",
        "s.2",
    ),
    "it was undone": (
        [
            ("step.s", StepRecord(name="s", kind="run", token="t")),
            ("step.compensate=3As", StepRecord(name="compensate:s", kind="compensate", token="t")),
        ],
        "run",
        "s.2",
    ),
    "its undo failed": (
        [
            ("step.s", StepRecord(name="s", kind="run", token="t")),
            (
                "step.compensate=3As",
                StepRecord(name="compensate:s", kind="compensate", token="t", status="failed", error=ERROR),
            ),
        ],
        "run",
        "s",
    ),
    "it succeeded anew after it was undone": (
        [
            ("step.s", StepRecord(name="s", kind="run", token="t")),
            ("step.compensate=3As", StepRecord(name="compensate:s", kind="compensate", token="t")),
            ("retry.1", RetryRecord(token="t")),
            ("step.s.1", StepRecord(name="s", kind="run", token="t")),
        ],
        "run",
        "s.1",
    ),
    "it is an undo": ([("step.s", StepRecord(name="s", kind="compensate", token="t"))], "compensate", "s.2"),
    "a worker that a retry left behind recorded it": (
        [("retry.1", RetryRecord(token="t")), ("step.s", StepRecord(name="s", kind="run", token="t"))],
        "run",
        "s.2",
    ),
    "its sleep was over after the retry": (
        [
            ("wait.s", WaitRecord(name="s", kind="sleep", token="t", delay_ms=5)),
            ("retry.1", RetryRecord(token="t")),
            ("step.s", StepRecord(name="s", kind="sleep", token="t")),
        ],
        "sleep",
        "s",
    ),
}


@pytest.mark.parametrize("case", KEY_CASES)
def test_a_step_of_a_retried_run_stands_under_the_key_of_the_epoch_that_counts(case: str) -> None:
    records, kind, key = KEY_CASES[case]
    memo = Memo(epoch=2)
    memo.read(stored(place, rest, record) for place, (rest, record) in enumerate(records, 1))
    assert memo.key("s", kind) == key


@pytest.mark.parametrize(
    ("undone_in", "epoch", "expected"),
    [
        ((), 0, "s"),
        ((), 2, "s"),
        ((0,), 0, "s"),
        ((0,), 1, "s.1"),
        ((0,), 2, "s.1"),
        ((0, 1), 1, "s.1"),
        ((0, 1), 2, "s.2"),
        ((1, 0), 2, "s.2"),
        ((2,), 2, "s"),
    ],
)
def test_the_key_for_the_world_outside_changes_with_the_epoch_behind_an_undo(
    undone_in: tuple[int, ...], epoch: int, expected: str
) -> None:
    undo = StepRecord(name="compensate:s", kind="compensate", token="t")
    memo = Memo(epoch)
    for place, of_epoch in enumerate(undone_in, 1):
        memo.read([stored(place, f"step.{step_key(step_token((), undo.name), of_epoch)}", undo)])
    assert memo.effect_key("s") == expected


def test_in_the_first_epoch_the_key_of_a_step_is_its_token() -> None:
    assert read().key("s", "run") == "s"
    assert read(stored(1, "step.s", StepRecord(name="s", kind="run", token="t"))).key("s", "run") == "s"


def test_the_failures_of_an_earlier_epoch_are_no_failures_of_this_one() -> None:
    failed = StepRecord(name="s", kind="run", token="t", scope=("all", 1), status="failed", error=ERROR)
    memo = Memo(epoch=1)
    memo.read([stored(1, "step.all/1/s", failed)])
    assert memo.failed_branches(("all",)) == frozenset()
    assert memo.failures(("all",), but_of="") == []
    memo.read([stored(2, "retry.1", RetryRecord(token="t")), stored(3, "step.all/1/s.1", failed)])
    assert memo.failed_branches(("all",)) == {1}
    assert memo.failures(("all",), but_of="") == [3]


def test_what_the_code_did_not_ask_for_comes_once_in_the_order_of_the_journal_and_without_undos() -> None:
    done = StepRecord(name="s", kind="run", token="t")
    failed = StepRecord(name="s", kind="run", token="t", status="failed", error=ERROR)
    memo = Memo(epoch=1)
    memo.read(
        [
            stored(1, "step.z", done),
            stored(2, "step.b", failed),
            stored(3, "step.u", StepRecord(name="compensate:q", kind="compensate", token="t")),
            stored(4, "retry.1", RetryRecord(token="t")),
            stored(5, "step.b.1", done),
            stored(6, "step.asked", done),
            stored(7, "step.a", done),
        ]
    )
    assert memo.unasked({"a", "b", "u", "z"}, 10) == ("z", "b.1", "a")
    assert memo.unasked({"a", "b", "u", "z"}, 2) == ("z", "b.1")


def test_what_is_in_a_parallel_that_failed_is_not_all_replayed_and_so_not_reported() -> None:
    failed = StepRecord(name="s", kind="run", token="t", scope=("all", 1), status="failed", error=ERROR)
    beside = StepRecord(name="s", kind="run", token="t", scope=("all", 0))
    memo = read(stored(1, "step.all/0/s", beside), stored(2, "step.all/1/s", failed))
    assert memo.unasked({"all/0/s", "all/1/s"}, 10) == ()
