"""Durations as people write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.durations import LONGEST_DAYS, format_milliseconds, parse_duration
from ironflow.errors import LimitError

LONGEST_MS = LONGEST_DAYS * 86_400_000


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        ("250ms", 250),
        ("30s", 30_000),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("7d", 604_800_000),
        ("1h30m", 5_400_000),
        ("1.5h", 5_400_000),
        (" 1s ", 1_000),
        ("2.007s", 2_007),
        (30, 30_000),
        (0.25, 250),
        (2.007, 2_007),
        (0.0001, 1),
        (1e-12, 1),
        (timedelta(minutes=5), 300_000),
        (timedelta(microseconds=1), 1),
        (timedelta(days=LONGEST_DAYS), LONGEST_MS),
        ("366d", LONGEST_MS),
    ],
)
def test_a_duration_becomes_whole_milliseconds(value: Any, milliseconds: int) -> None:
    assert parse_duration(value) == milliseconds


@pytest.mark.parametrize(
    "value",
    ["", "30", "s", "5 m", "-5s", "1s2", "1w", "1.s", ".5s", "5M", "1h-30m", True, None, [], b"5s", object()],
)
def test_what_is_no_duration_is_refused_with_what_is_allowed(value: Any) -> None:
    with pytest.raises(ValueError, match=r'wait must be a text like "250ms".*; got '):
        parse_duration(value, "wait")


@pytest.mark.parametrize(
    "value", ["0s", "0.0h", 0, 0.0, -1, float("nan"), float("-inf"), -(10**400), timedelta(0), timedelta(-1)]
)
def test_zero_and_less_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="wait must be longer than zero, got "):
        parse_duration(value, "wait")


@pytest.mark.parametrize("value", ["367d", "9" * 400 + "s", float("inf"), 10**400, timedelta.max, LONGEST_MS])
def test_more_than_a_year_is_over_the_limit(value: Any) -> None:
    with pytest.raises(LimitError, match="wait must be at most 366 days, got "):
        parse_duration(value, "wait")


@given(st.integers(1, LONGEST_MS))
def test_what_is_written_reads_back_as_the_same(milliseconds: int) -> None:
    assert parse_duration(format_milliseconds(milliseconds)) == milliseconds


@given(st.integers(1, LONGEST_MS))
def test_seconds_with_three_digits_are_exact(milliseconds: int) -> None:
    seconds, rest = divmod(milliseconds, 1000)
    assert parse_duration(f"{seconds}.{rest:03}s") == milliseconds
    assert parse_duration(milliseconds / 1000) == milliseconds


@given(st.timedeltas(timedelta(microseconds=1), timedelta(days=LONGEST_DAYS)))
def test_a_wait_is_never_shorter_than_asked_for(value: timedelta) -> None:
    assert timedelta(0) <= timedelta(milliseconds=parse_duration(value)) - value < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(5_400_000, "1h30m"), (90_061_001, "1d1h1m1s1ms"), (1, "1ms"), (0, "0s"), (-5, "0s")],
)
def test_durations_are_shown_in_the_largest_units(milliseconds: int, text: str) -> None:
    assert format_milliseconds(milliseconds) == text
