"""JSON in and out."""

from __future__ import annotations

import dataclasses
import enum
import math
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.codec import decode_record, decode_value, encode_record, encode_value
from ironflow.decodable import undecodable
from ironflow.errors import SerializationError
from ironflow.records import EventRecord, FunctionRecord, OutcomeRecord, StepRecord, WaitRecord

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
NAN, INFINITY = math.nan, math.inf


class Line(msgspec.Struct):
    price: float
    note: str | None = None


@dataclasses.dataclass
class Rate:
    """It complains of its values with what is neither a ValueError nor a TypeError."""

    percent: float

    def __post_init__(self) -> None:
        if self.percent > 100:
            raise LookupError(self.percent)


class Quota(pydantic.BaseModel):
    """It does as well."""

    percent: float

    @pydantic.field_validator("percent")
    @classmethod
    def check(cls, value: float) -> float:
        if value > 100:
            raise LookupError(value)
        return value


@dataclasses.dataclass
class Order:
    lines: list[Line]
    total: float = 0.0


@attrs.define
class Parcel:
    weight: float
    order: Order | None = None


class Invoice(pydantic.BaseModel):
    total: float
    lines: list[float] = []


class Point(NamedTuple):
    x: float
    y: float | None = None


class Address(TypedDict):
    city: str


class Color(enum.Enum):
    RED = "red"


class Unknown:
    """JSON cannot carry it."""


@given(JSON)
def test_plain_json_comes_back_as_it_was(value: object) -> None:
    assert decode_value(encode_value(value, "it"), Any, "it") == value


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, "null"),
        ((1, "a"), '[1,"a"]'),
        ({7}, "[7]"),
        (frozenset({7}), "[7]"),
        (b"\x00\xff", '"AP8="'),
        (bytearray(b"a"), '"YQ=="'),
        (datetime(2027, 1, 31, 9, tzinfo=UTC), '"2027-01-31T09:00:00Z"'),
        (date(2027, 1, 31), '"2027-01-31"'),
        (Decimal("1.50"), '"1.50"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (timedelta(seconds=90), '"PT90S"'),
        (Color.RED, '"red"'),
        (OrderedDict(a=1), '{"a":1}'),
        ({1: "a"}, '{"1":"a"}'),
        (2**70, str(2**70)),
        (Line(price=1.5), '{"price":1.5,"note":null}'),
        (Order(lines=[Line(price=1)]), '{"lines":[{"price":1,"note":null}],"total":0.0}'),
        ([Parcel(weight=2.0)], '[{"order":null,"weight":2.0}]'),
        (Invoice(total=1.0), '{"total":1.0,"lines":[]}'),
        ([Invoice(total=1.0)], '[{"total":1.0,"lines":[]}]'),
        (Point(1.0), "[1.0,null]"),
        (msgspec.Raw(b'{"a":1.00,"b":null}'), '{"a":1.00,"b":null}'),
        ("NaN", '"NaN"'),
        ("null", '"null"'),
    ],
)
def test_values_become_the_json_that_is_documented(value: object, encoded: str) -> None:
    assert bytes(encode_value(value, "it")).decode() == encoded


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (NAN, "it"),
        (-INFINITY, "it"),
        ([1.0, None, NAN], "it[2]"),
        ({"a": {"b": (0, INFINITY)}}, "it.a.b[1]"),
        ({"a": None, "b": NAN}, "it.b"),
        (Line(price=NAN), "it.price"),
        (Order(lines=[Line(price=1), Line(price=INFINITY)]), "it.lines[1].price"),
        (Parcel(weight=1, order=Order(lines=[], total=NAN)), "it.order.total"),
        (Invoice(total=NAN), "it.total"),
        ({"invoices": [Invoice(total=1, lines=[2, INFINITY])]}, "it.invoices[0].lines[1]"),
        (Point(NAN), "it[0]"),
        ({NAN}, "it[0]"),
        (Address(city=NAN), "it.city"),  # type: ignore[typeddict-item]
    ],
)
def test_a_number_that_json_has_not_is_refused_with_its_place(value: object, place: str) -> None:
    with pytest.raises(SerializationError, match="is not a JSON number") as caught:
        encode_value(value, "it")
    assert str(caught.value).startswith(f"{place}: ")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (Unknown(), "it: Objects of type Unknown cannot be written as JSON"),
        (
            [1, ValueError("no")],
            "it[1]: an exception (ValueError) cannot be written as JSON; return what you want of it",
        ),
        ({"a": [1, Unknown()]}, "it.a[1]: Objects of type Unknown cannot be written as JSON"),
        (Order(lines=[Unknown()]), "it.lines[0]: Objects of type Unknown"),  # type: ignore[list-item]
        ({"f": len}, "it.f: Objects of type builtin_function_or_method"),
        ({"t": Invoice}, "it.t: Objects of type"),
        ([1j], "it[0]: Objects of type complex"),
        ({"a": "\ud800"}, "it.a: 'utf-8' codec can't encode"),
        (Parcel(weight=Unknown()), "it.weight: Objects of type Unknown"),  # type: ignore[arg-type]
        (MappingProxyType({"a": 1}), "it: Objects of type mappingproxy"),
    ],
)
def test_what_json_cannot_carry_is_refused_with_its_place(value: object, complaint: str) -> None:
    with pytest.raises(SerializationError) as caught:
        encode_value(value, "it")
    assert ascii(str(caught.value))[1:].startswith(ascii(complaint)[1:-1].replace("'", "'"))


def test_a_model_that_cannot_be_dumped_is_refused_with_its_place() -> None:
    class Broken:
        def model_dump(self, mode: str) -> object:
            msg = f"no {mode}"
            raise RuntimeError(msg)

    with pytest.raises(SerializationError, match=r"it\.a: no json"):
        encode_value({"a": Broken()}, "it")


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = [None]
    loop.append(loop)
    with pytest.raises(SerializationError, match="it is nested too deep, or contains itself"):
        encode_value(loop, "it")


def test_a_value_of_ordinary_depth_is_not_too_deep() -> None:
    value: object = None
    for _ in range(150):
        value = [value]
    assert bytes(encode_value(value, "it")) == b"[" * 150 + b"null" + b"]" * 150


@pytest.mark.parametrize(
    ("value", "value_type"),
    [
        (Line(price=1.5, note="x"), Line),
        (Order(lines=[Line(price=1.0)]), Order),
        (Parcel(weight=2.0), Parcel),
        (Invoice(total=1.0, lines=[2.0]), Invoice),
        ([Invoice(total=1.0)], list[Invoice]),
        (Address(city="Bern"), Address),
        (Point(1.0, 2.0), Point),
        (datetime(2027, 1, 31, 9, tzinfo=UTC), datetime),
        (b"\x00\xff", bytes),
        ({1, 2}, set[int]),
        (Color.RED, Color),
        ("a", Literal["a", "b"]),
        (None, None),
        (Decimal("1.50"), Decimal),
    ],
)
def test_a_value_comes_back_as_the_declared_type(value: object, value_type: Any) -> None:
    assert undecodable(value_type) is None
    assert decode_value(encode_value(value, "it"), value_type, "it") == value


@pytest.mark.parametrize(
    ("payload", "value_type", "complaint"),
    [
        (b'{"lines":[{"price":"x"}]}', Order, "data.lines[0].price: Expected `float`, got `str`"),
        (b'{"lines":[{}]}', Order, "data.lines[0]: Object missing required field `price`"),
        (b"3", Order, "data: Expected `object`, got `int`"),
        (b'{"city":1}', Address, "data.city: Expected `str`, got `int`"),
        (b'{"total":"x"}', Invoice, "data.total: Input should be a valid number, unable to parse string"),
        (b'{"a":[{"total":1,"lines":[1,"x"]}]}', dict[str, list[Invoice]], "data[...][0].lines[1]: Input should be"),
        (b"[3]", list[Invoice], "data[0]: Input should be an object"),
        (b"[{}]", list[Unknown], "data[0]: cannot make a Unknown of a dict"),
        (b'"2027-01-31"', datetime, "data: Invalid RFC3339 encoded datetime"),
        (b'{"a":1,}', Any, "data: JSON is malformed: trailing comma"),
        (b"", Any, "data: Input data was truncated"),
        (b'"\xff"', Any, "data: 'utf-8' codec can't decode"),
        (b"[" * 100_000, Any, "data: maximum recursion depth exceeded"),
        (b"{}", Unknown, "data: cannot make a Unknown of a dict"),
        (b'{"percent":101}', Rate, f"data: cannot decode into {Rate!r}: LookupError: 101.0"),
        (b'[{"percent":101}]', list[Quota], f"data: cannot decode into {list[Quota]!r}: LookupError: 101.0"),
        (b"{}", pydantic.BaseModel | int, "data: cannot decode into "),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(payload: bytes, value_type: Any, complaint: str) -> None:
    with pytest.raises(SerializationError) as caught:
        decode_value(payload, value_type, "data")
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("value_type", "expected"),
    [(Any, True), (int, True), (Invoice, True), (Mapping[str, int], True), (list[Order] | None, True)],
)
def test_types_that_json_decodes_into_are_known(value_type: Any, *, expected: bool) -> None:
    assert (undecodable(value_type) is None) is expected


@pytest.mark.parametrize("value_type", [Order | Line, int | Line | Order, dict[str, Line] | Line])
def test_types_that_json_cannot_tell_apart_are_known(value_type: Any) -> None:
    assert undecodable(value_type) is not None


def test_records_come_back_as_they_were_and_newer_fields_are_ignored() -> None:
    record = EventRecord(id="o-1", name="order.placed", time="2026-11-21T20:03:00.000Z")
    encoded = encode_record(record)
    assert decode_record(EventRecord, encoded) == record
    assert decode_record(EventRecord, encoded[:-1] + b',"newer":[1]}') == record


def test_nesting_is_bounded_by_levels_and_not_by_the_stack() -> None:
    value: object = 1
    for _ in range(200):
        value = {"a": value}
    assert encode_value(value, "it")
    with pytest.raises(SerializationError, match="it is nested too deep, or contains itself; at most 200 levels"):
        encode_value([value], "it")


def test_a_record_of_the_codec_takes_texts_of_every_class() -> None:
    class Text(str):
        __slots__ = ()

    record = EventRecord(id=Text("o-1"), name="order.placed", time="2026-11-21T20:03:00.000Z")
    assert decode_record(EventRecord, encode_record(record)).id == "o-1"


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"id":1}', b'"\xff"', b"null", b'{"a":' + b"[" * 5_000])
def test_what_is_no_record_is_refused(payload: bytes) -> None:
    with pytest.raises(SerializationError, match="not a EventRecord: "):
        decode_record(EventRecord, payload)


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**63, 2**64, 10**30])
@pytest.mark.parametrize(
    ("record", "field"),
    [
        (EventRecord(id="e", name="n", time=""), "depth"),
        (StepRecord(name="s", kind="run", token="t"), "duration_ms"),
        (WaitRecord(name="s", kind="sleep", token="t"), "delay_ms"),
        (WaitRecord(name="s", kind="sleep", token="t"), "until_ms"),
        (OutcomeRecord(number=0, status="suspended", token="t"), "due_ms"),
        (OutcomeRecord(number=0, status="suspended", token="t"), "seen"),
        (FunctionRecord(id="f", queue="q"), "timeout_ms"),
    ],
)
def test_a_record_with_a_number_that_not_everybody_can_hold_is_refused(
    record: msgspec.Struct, field: str, number: int
) -> None:
    too_large = msgspec.structs.replace(record, **{field: number})
    with pytest.raises(SerializationError, match=f"not a {type(record).__name__}: "):
        decode_record(type(record), encode_record(too_large))
    fits = msgspec.structs.replace(record, **{field: number // abs(number) * (2**53 - 1)})
    assert decode_record(type(record), encode_record(fits)) == fits
