"""The documented limits."""

from __future__ import annotations

import pytest

from ironflow.codec import encode_record
from ironflow.errors import LimitError, PayloadTooLargeError
from ironflow.limits import DEFAULT_LIMITS, Limits, check_payload
from ironflow.names import mark
from ironflow.records import ErrorRecord, RunState


def test_the_defaults_are_the_documented_ones() -> None:
    assert DEFAULT_LIMITS.payload_bytes == 524_288
    assert DEFAULT_LIMITS.event_name_bytes == 256
    assert DEFAULT_LIMITS.step_name_bytes == 10_240
    assert DEFAULT_LIMITS.steps_per_run == 10_000
    assert DEFAULT_LIMITS.waits_per_run == 20_000
    assert DEFAULT_LIMITS.most_waits(1_048_576) == 20_000
    assert DEFAULT_LIMITS.most_waits(65_536) == 1_310


@pytest.mark.parametrize("max_payload", [65_536, 1_048_576])
def test_the_state_of_a_run_that_has_made_all_its_waits_fits_into_a_message(max_payload: int) -> None:
    waits = range(Limits(waits_per_run=10_000_000).most_waits(max_payload))
    state = RunState(
        id="r" * 26,
        function="f" * 128,
        queue="q" * 128,
        status="failed",
        started_at=1_800_000_000_000,
        event_id="i" * DEFAULT_LIMITS.id_bytes,
        event_name="n" * DEFAULT_LIMITS.event_name_bytes,
        event_sequence=1_000_000_000,
        error=ErrorRecord(type="LimitError", message="m" * 8_192),
        event_waits={mark(f"step {number}"): mark(f"event {number}") for number in waits},
    )
    assert len(encode_record(state)) < max_payload


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
