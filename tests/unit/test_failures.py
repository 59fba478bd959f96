"""What exceptions become: records, delays, ends."""

from __future__ import annotations

from typing import Any

import pytest

from ironflow.codec import decode_record, encode_record
from ironflow.errors import (
    DefinitionError,
    DuplicateStepError,
    InvokeError,
    IronflowError,
    LimitError,
    NondeterminismError,
    NonRetryableError,
    PayloadTooLargeError,
    RetryAfter,
    RunFailedError,
    SerializationError,
    StepError,
    StepTimeoutError,
)
from ironflow.records import ErrorRecord, StepRecord
from ironflow.retry import RetryPolicy
from ironflow_worker.failures import delay_after, error_record, is_final, is_parked, raise_recorded, recorded_at

NOW_MS = 1_792_000_000_000  # Wed, 14 Oct 2026 17:46:40 GMT
POLICY = RetryPolicy(max_attempts=3, initial_delay_ms=1_000, backoff=2.0, jitter=0.0)


class Unprintable(Exception):  # noqa: N818 - it is what it says
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no"), ErrorRecord(type="ValueError", message="no", step="s", attempts=2)),
        (KeyError("a"), ErrorRecord(type="KeyError", message="'a'", step="s", attempts=2)),
        (SystemExit(3), ErrorRecord(type="SystemExit", message="3", step="s", attempts=2)),
        (
            Unprintable(),
            ErrorRecord(type="Unprintable", message="(its text cannot be shown: RuntimeError)", step="s", attempts=2),
        ),
        (ValueError("\ud800"), ErrorRecord(type="ValueError", message="\\ud800", step="s", attempts=2)),
        (
            SerializationError("bad", "data.x"),
            ErrorRecord(type="SerializationError", message="bad", step="s", attempts=2, path="data.x"),
        ),
        (
            StepError("inner", 7, "ValueError", "no"),
            ErrorRecord(
                type="StepError",
                message="step 'inner' failed after 7 attempt(s): ValueError: no",
                step="inner",
                attempts=7,
            ),
        ),
        (
            ExceptionGroup("two", [ValueError("a"), ExceptionGroup("more", [KeyError("b")])]),
            ErrorRecord(
                type="ExceptionGroup",
                message=(
                    "two (2 sub-exceptions): ValueError: a; ExceptionGroup: more (1 sub-exception): KeyError: 'b'"
                ),
                step="s",
                attempts=2,
            ),
        ),
    ],
    ids=["plain", "KeyError", "SystemExit", "unprintable", "surrogate", "with a path", "StepError", "group"],
)
def test_an_exception_is_recorded_as_data(error: BaseException, expected: ErrorRecord) -> None:
    assert error_record(error, step="s", attempts=2) == expected


def test_a_part_that_has_its_own_group_as_its_context_is_looked_at_once() -> None:
    part = ValueError("part")
    part.__context__ = ExceptionGroup("group", [part])
    assert recorded_at(part) is None


def test_groups_may_be_nested_deeper_than_calls() -> None:
    error: Exception = NondeterminismError()
    for _ in range(5_000):
        error = ExceptionGroup[Exception]("group", [error])
    assert is_parked(error)
    assert is_final(error)
    assert recorded_at(error) is None
    assert len(error_record(error).message) < 1_000


def test_our_errors_with_odd_arguments_make_records_that_can_be_read() -> None:
    odd: Any = object()
    for error in (StepError(odd, odd, odd, odd), SerializationError("no", odd)):
        record = error_record(error, step="s", attempts=2)
        assert decode_record(ErrorRecord, encode_record(record)) == record


def test_another_librarys_error_of_our_name_is_told_apart() -> None:
    theirs = type("SerializationError", (Exception,), {"__module__": "search"})
    assert error_record(theirs()).type == "search.SerializationError"


def test_a_huge_text_is_cut() -> None:
    message = error_record(ValueError("x" * 1_000_000)).message
    assert len(message) == 8_193
    assert message.endswith("x…")


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (ValueError(), False),
        (TimeoutError(), False),
        (SystemExit(), False),
        (StepTimeoutError(), False),
        (RetryAfter(1), False),
        (NonRetryableError(), True),
        (StepError("s", 1, "E", ""), True),
        (InvokeError("r", "E", ""), True),
        (SerializationError(""), True),
        (DuplicateStepError(), True),
        (NondeterminismError(), True),
        (DefinitionError(), True),
        (LimitError(), True),
        (PayloadTooLargeError(), True),
        (IronflowError(), True),
        (ExceptionGroup("", [ValueError(), TimeoutError()]), False),
        (ExceptionGroup("", [ValueError(), ExceptionGroup("", [NonRetryableError()])]), True),
    ],
    ids=repr,
)
def test_whether_an_error_is_final(error: BaseException, final: bool) -> None:  # noqa: FBT001 - an expectation
    assert is_final(error) is final
    assert (delay_after(error, POLICY, 1, 0.5, NOW_MS) is None) is final


@pytest.mark.parametrize(
    ("error", "attempt", "delay_ms"),
    [
        (ValueError(), 1, 1_000),
        (ValueError(), 2, 2_000),
        (ValueError(), 3, None),
        (RetryAfter("5m"), 1, 300_000),
        (RetryAfter(0.25), 2, 250),
        (RetryAfter("5m"), 3, None),
        (RetryAfter("soon"), 1, 1_000),
        (RetryAfter(-5), 1, 1_000),
        (RetryAfter("9999d"), 1, 1_000),
        (RetryAfter("120"), 1, 120_000),
        (RetryAfter(" 7 "), 1, 7_000),
        (RetryAfter("0"), 1, 1_000),
        (RetryAfter("-7"), 1, 1_000),
        (RetryAfter("9" * 5_000, "more digits than Python reads"), 1, 1_000),
        (RetryAfter("Wed, 14 Oct 2026 17:48:40 GMT"), 1, 120_000),
        (RetryAfter("Wed, 14 Oct 2026 17:46:40 GMT"), 1, 1_000),
        (RetryAfter("Wed, 14 Oct 2020 17:46:40 GMT"), 1, 1_000),
        (RetryAfter("Wed, 14 Oct 2926 17:46:40 GMT"), 1, 1_000),
        (RetryAfter("Wed, 99 Oct 2026 17:46:40 GMT"), 1, 1_000),
        (RetryAfter("tomorrow GMT"), 1, 1_000),
        (RetryAfter(None), 1, 1_000),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ],
    ids=repr,
)
def test_when_an_attempt_is_made_again(error: Exception, attempt: int, delay_ms: int | None) -> None:
    assert delay_after(error, POLICY, attempt, 0.5, NOW_MS) == delay_ms


@pytest.mark.parametrize(
    ("recorded", "raised"),
    [
        (ErrorRecord(type="ValueError", message="no"), StepError("s", 2, "ValueError", "no")),
        (ErrorRecord(type="SerializationError", message="no", path="x"), SerializationError("no", "x")),
        (ErrorRecord(type="PayloadTooLargeError", message="no"), PayloadTooLargeError("no")),
        # No class is looked up by its name, be it one of ours.
        (ErrorRecord(type="SystemExit", message="0"), StepError("s", 2, "SystemExit", "0")),
        (ErrorRecord(type="NonRetryableError", message="no"), StepError("s", 2, "NonRetryableError", "no")),
        (None, StepError("s", 2, "Unknown", "no reason recorded")),
    ],
)
def test_a_recorded_failure_is_raised_again(recorded: ErrorRecord | None, raised: Exception) -> None:
    record = StepRecord(name="s", kind="run", token="t", status="failed", attempt=2, error=recorded)
    with pytest.raises(type(raised)) as again:
        raise_recorded(record, 7)
    assert str(again.value) == str(raised)
    assert vars(raised).items() <= vars(again.value).items()
    assert recorded_at(again.value) == 7


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (StepError("check", 2, "AssertionError", ""), "step 'check' failed after 2 attempt(s): AssertionError"),
        (InvokeError("r1", "AssertionError", ""), "child run r1 failed: AssertionError"),
        (RunFailedError("r1", "AssertionError", ""), "run r1 failed: AssertionError"),
        (RunFailedError("r1", "ValueError", "no"), "run r1 failed: ValueError: no"),
    ],
)
def test_an_error_without_a_text_is_its_name_with_nothing_behind_it(error: IronflowError, shown: str) -> None:
    assert str(error) == shown


def test_a_failure_in_a_branch_says_in_which() -> None:
    record = StepRecord(
        name="reserve",
        scope=("all", 1, "inner", 0),
        kind="run",
        status="failed",
        token="t",
        attempt=2,
        error=ErrorRecord(type="LookupError", message="no stock"),
    )
    with pytest.raises(StepError) as caught:
        raise_recorded(record, 7)
    assert str(caught.value) == "step 'all[1] / inner[0] / reserve' failed after 2 attempt(s): LookupError: no stock"
    assert caught.value.step == "reserve"
