"""Times as they are stored and as they are shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.clock import now_ms, parse_when, to_iso, to_ms

NINE = datetime(2027, 1, 31, 9, tzinfo=UTC)
NINE_MS = 1_801_386_000_000


@given(st.integers(0, 253_402_300_799_999))
def test_a_time_reads_back_as_it_is_shown(milliseconds: int) -> None:
    assert parse_when(to_iso(milliseconds)) == milliseconds


@given(st.datetimes(datetime(1970, 1, 2), timezones=st.just(UTC)))  # noqa: DTZ001 - the strategy adds the zone
def test_a_time_is_rounded_up_and_never_early(when: datetime) -> None:
    late = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=to_ms(when)) - when
    assert timedelta(0) <= late < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    "when",
    [
        NINE,
        NINE.astimezone(timezone(timedelta(hours=5, minutes=30))),
        "2027-01-31T09:00:00Z",
        "2027-01-31T09:00:00.000+00:00",
        "2027-01-31T10:00:00+01:00",
        "2027-01-31 04:00-05:00",
        "20270131T090000Z",
    ],
)
def test_the_same_instant_is_the_same_number(when: str | datetime) -> None:
    assert parse_when(when) == NINE_MS


def test_times_are_shown_in_utc_with_milliseconds() -> None:
    assert to_iso(NINE_MS) == "2027-01-31T09:00:00.000Z"
    assert to_iso(NINE_MS + 7) == "2027-01-31T09:00:00.007Z"


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(2**53, "9999-12-31T23:59:59.999Z"), (2**63, "9999-12-31T23:59:59.999Z"), (-(2**53), "0001-01-01T00:00:00.000Z")],
)
def test_what_lies_beyond_the_calendar_is_shown_as_its_end(milliseconds: int, shown: str) -> None:
    assert to_iso(milliseconds) == shown


@pytest.mark.parametrize(
    ("when", "complaint"),
    [
        ("soon", "until must be an ISO 8601 time like '2027-01-31T09:00:00+01:00', got 'soon'"),
        ("", "until must be an ISO 8601 time"),
        ("2027-02-30T00:00:00Z", "until must be an ISO 8601 time"),
        (5, "until must be an ISO 8601 text or a datetime, got 5"),
        (None, "until must be an ISO 8601 text or a datetime, got None"),
        (NINE.date(), "until must be an ISO 8601 text or a datetime, got datetime.date(2027, 1, 31)"),
        ("2027-01-31T09:00:00", "until has no time zone: '2027-01-31T09:00:00'; add one"),
        ("2027-01-31", "until has no time zone"),
        (NINE.replace(tzinfo=None), "until has no time zone"),
    ],
)
def test_what_is_no_point_in_time_is_refused(when: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=r"^until ") as caught:
        parse_when(when, "until")
    assert str(caught.value).startswith(complaint)


def test_now_is_now() -> None:
    before = datetime.now(UTC)
    assert to_ms(before) <= now_ms() <= to_ms(datetime.now(UTC))
