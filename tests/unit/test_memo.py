"""What a pass finds in the journal of its run."""

from __future__ import annotations

import msgspec
import pytest

from ironflow.broker.protocol import StoredMessage
from ironflow.codec import encode_record
from ironflow.errors import SerializationError
from ironflow.names import PASS_TOKEN
from ironflow.records import (
    DueRecord,
    ErrorRecord,
    EventRecord,
    InputRecord,
    OutcomeRecord,
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
    assert memo.event is not None
    assert memo.event.event == event
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
    memo = read(stored(7, "signal.a.1", DueRecord(token="t")), stored(8, "retry.1", DueRecord(token="t")))
    assert memo.seen == 8
    assert memo.recorded_tokens() == frozenset()


def test_a_record_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(SerializationError):
        read(StoredMessage("ironflow.journal.orders.r1.step.a", b"{", 1, 0))
