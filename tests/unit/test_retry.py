"""When a failed step is tried again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.errors import DefinitionError
from ironflow.retry import Retry, RetryPolicy


def test_the_defaults_are_the_documented_ones() -> None:
    expected = RetryPolicy(max_attempts=3, initial_delay_ms=1_000, backoff=2.0, max_delay_ms=300_000, jitter=0.1)
    assert Retry().policy == RetryPolicy() == expected


def test_delays_grow_up_to_the_longest() -> None:
    policy = Retry(max_attempts=6, initial_delay="1s", backoff=3, max_delay="20s", jitter=0).policy
    assert [policy.delay_ms(attempt, 0.5) for attempt in range(1, 7)] == [1_000, 3_000, 9_000, 20_000, 20_000, None]


def test_jitter_spreads_in_both_directions() -> None:
    policy = Retry(initial_delay="10s", jitter=0.1).policy
    assert [policy.delay_ms(1, chance) for chance in (0.0, 0.5, 0.999999)] == [9_000, 10_000, 11_000]


@given(
    st.integers(1, 100),
    st.integers(1, 10_000),
    st.floats(1, 100),
    st.integers(0, 10_000),
    st.floats(0, 1),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 200),
)
def test_a_delay_is_positive_and_never_over_the_longest(
    most: int, initial: int, backoff: float, extra: int, jitter: float, chance: float, attempt: int
) -> None:
    policy = RetryPolicy(
        max_attempts=most, initial_delay_ms=initial, backoff=backoff, max_delay_ms=initial + extra, jitter=jitter
    )
    delay = policy.delay_ms(attempt, chance)
    if attempt >= most:
        assert delay is None
    else:
        assert delay is not None
        assert 1 <= delay <= policy.max_delay_ms


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_attempts": 0}, "max_attempts must be a whole number from 1 to 100, got 0"),
        ({"max_attempts": 101}, "max_attempts must be a whole number from 1 to 100, got 101"),
        ({"max_attempts": 2.0}, "max_attempts must be a whole number from 1 to 100, got 2.0"),
        ({"max_attempts": True}, "max_attempts must be a whole number from 1 to 100, got True"),
        ({"backoff": 0.5}, "backoff must be a number from 1 to 100, got 0.5"),
        ({"backoff": float("nan")}, "backoff must be a number from 1 to 100, got nan"),
        ({"backoff": "2"}, "backoff must be a number from 1 to 100, got '2'"),
        ({"jitter": -0.1}, "jitter must be a number from 0 to 1, got -0.1"),
        ({"jitter": 1.1}, "jitter must be a number from 0 to 1, got 1.1"),
        ({"initial_delay": "soon"}, "initial_delay must be a text like"),
        ({"initial_delay": 0}, "initial_delay must be longer than zero, got 0"),
        ({"max_delay": "367d"}, "max_delay must be at most 366 days, got '367d'"),
        ({"initial_delay": "10m"}, "max_delay ('5m') must not be shorter than initial_delay ('10m')"),
    ],
)
def test_a_value_out_of_its_range_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        Retry(**options)
    assert str(caught.value).startswith(complaint)


def test_equal_policies_are_equal() -> None:
    assert Retry(initial_delay="1s") == Retry(initial_delay=1)
    assert len({Retry(), Retry(max_attempts=3), Retry(max_attempts=4)}) == 2
    assert Retry() != "Retry()"


def test_its_text_form_says_what_it_is() -> None:
    assert repr(Retry(max_attempts=1)) == (
        "Retry(max_attempts=1, initial_delay=1.0, backoff=2.0, max_delay=300.0, jitter=0.1)"
    )
