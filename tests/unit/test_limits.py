"""The documented limits."""

from __future__ import annotations

import pytest

from ironflow.errors import LimitError, PayloadTooLargeError
from ironflow.limits import DEFAULT_LIMITS, check_payload


def test_the_defaults_are_the_documented_ones() -> None:
    assert DEFAULT_LIMITS.payload_bytes == 524_288
    assert DEFAULT_LIMITS.event_name_bytes == 256
    assert DEFAULT_LIMITS.step_name_bytes == 10_240
    assert DEFAULT_LIMITS.steps_per_run == 10_000


@pytest.mark.parametrize("payload", [b"", b"12345", bytearray(b"12345"), memoryview(b"12345")])
def test_a_payload_up_to_the_limit_is_accepted(payload: bytes | bytearray | memoryview) -> None:
    check_payload(payload, "it", 5)


def test_a_payload_over_the_limit_says_how_large_it_is_and_what_to_do() -> None:
    with pytest.raises(PayloadTooLargeError) as caught:
        check_payload(b"x" * 1_234, "result of step 'fetch'", 1_000)
    assert isinstance(caught.value, LimitError)
    assert str(caught.value) == (
        "result of step 'fetch' is 1,234 bytes as JSON; at most 1,000 are allowed. "
        "Keep large data elsewhere and pass a reference to it"
    )
