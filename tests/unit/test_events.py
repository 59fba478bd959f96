"""Events as handlers see them, and how they become what is stored."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from ironflow.errors import DefinitionError, LimitError, PayloadTooLargeError, SerializationError
from ironflow.events import Event, make_event, read_event
from ironflow.limits import Limits
from ironflow.records import EventRecord

TIME = "2026-11-21T20:03:00.123Z"


class Placed(msgspec.Struct):
    price: float


def _make(**changes: Any) -> EventRecord:
    return make_event(**{"event_id": "o-1", "name": "order.placed", "data": None, "time": TIME, **changes})


def test_an_event_reads_back_as_it_was_made() -> None:
    record = _make(data={"price": 1.5}, source="shop", metadata={"k": "v"})
    expected = Event(
        id="o-1",
        name="order.placed",
        data=Placed(price=1.5),
        time=datetime(2026, 11, 21, 20, 3, 0, 123_000, tzinfo=UTC),
        source="shop",
        metadata={"k": "v"},
    )
    assert read_event(record, Placed) == expected
    assert read_event(record).data == {"price": 1.5}


def test_an_event_cannot_be_changed() -> None:
    event = read_event(_make())
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.id = "other"  # type: ignore[misc]


def test_data_that_does_not_fit_is_refused_with_its_place() -> None:
    with pytest.raises(SerializationError, match=r"data\.price: Expected `float`, got `str`"):
        read_event(_make(data={"price": "x"}), Placed)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"event_id": ""}, "an event id must be a non-empty printable text without spaces around it, got ''"),
        ({"event_id": " a"}, "an event id must be"),
        ({"event_id": "a\nb"}, "an event id must be"),
        ({"event_id": "\ud800"}, "an event id must be"),
        ({"event_id": 5}, "an event id must be"),
        ({"source": 5}, "source must be a text, got 5"),
        ({"source": "\ud800"}, "source is not valid text"),
        ({"metadata": ["a"]}, "metadata must map texts to texts, got ['a']"),
        ({"metadata": {1: "a"}}, "each key of metadata must be a text, got 1"),
        ({"metadata": {"a": 1}}, "metadata 'a' must be a text, got 1"),
        ({"metadata": {"a": "\ud800"}}, "metadata 'a' is not valid text"),
        ({"metadata": {"\ud800": "a"}}, "each key of metadata is not valid text"),
    ],
)
def test_a_wrong_value_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        _make(**changes)
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize("event_id", ["o-1", "a b", "ü💥", "x" * 256, "a.b>*/="])
def test_any_printable_text_is_an_id(event_id: str) -> None:
    assert _make(event_id=event_id).id == event_id


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"event_id": "ü" * 129}, "an event id may have at most 256 bytes, got 258"),
        ({"metadata": {"k": "ü" * 5_000}}, "metadata is 10,001 bytes; at most 8,192 are allowed"),
    ],
)
def test_what_is_too_long_is_over_a_limit(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(LimitError) as caught:
        _make(**changes)
    assert str(caught.value) == complaint


def test_data_counts_as_json() -> None:
    limits = Limits(payload_bytes=10)
    assert bytes(_make(data="x" * 8, limits=limits).data) == b'"xxxxxxxx"'
    with pytest.raises(PayloadTooLargeError, match=r"data of event 'order\.placed' is 11 bytes as JSON; at most 10"):
        _make(data="x" * 9, limits=limits)


def test_data_that_json_cannot_carry_is_refused_with_its_place() -> None:
    with pytest.raises(SerializationError, match=r"data\.x: nan is not a JSON number"):
        _make(data={"x": float("nan")})
