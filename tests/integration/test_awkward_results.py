"""Results that are awkward to record: what a pass sees of them, and that a replay sees the very same.

Exceptions are in test_awkward_exceptions.py, event data, typed handlers and outputs in test_workflow_data.py, sizes in
test_workflow_semantics.py, and what becomes which JSON in tests/unit/test_codec.py.
"""

from __future__ import annotations

import array
import asyncio
import collections
import dataclasses
import enum
import functools
import io
import math
import pathlib
import types
import uuid
from collections.abc import Callable, Coroutine, Generator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict
from unittest.mock import MagicMock

import attrs
import msgspec
import pydantic
import pytest

import ironflow
from ironflow import Context, Retry
from tests.integration.two_passes import two_passes
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

NAN, INFINITY = math.nan, math.inf
NOTHING = object()


def returning(value: object, annotation: Any = NOTHING) -> Callable[[], Any]:
    def body() -> Any:
        return value

    body.__annotations__ = {} if annotation is NOTHING else {"return": annotation}
    return body


def nested(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value]
    return value


# Bodies without an annotation: plain JSON


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Number(int):
    def __repr__(self) -> str:
        return "many"

    __str__ = __repr__


class Share(float):
    pass


class Blob(bytes):
    pass


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Kind(str, enum.Enum):  # noqa: UP042 - it differs from a StrEnum in what str() makes of it
    ORDER = "order"


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Address(TypedDict):
    city: str


@dataclasses.dataclass
class Item:
    name: str
    price: Decimal = Decimal("1.10")


@dataclasses.dataclass
class Half:
    there: int = 1
    gone: int = dataclasses.field(init=False)


@dataclasses.dataclass
class Node:
    next: Node | None = None


class Line(msgspec.Struct):
    name: str
    note: str | None = None


@attrs.define
class Parcel:
    weight: float


class Invoice(pydantic.BaseModel):
    total: float
    anything: Any = None


PLAIN: dict[str, tuple[Any, Any]] = {
    "None": (None, None),
    "minus nought": (-0.0, -0.0),
    "the smallest number": (5e-324, 5e-324),
    "a large number": (1e308, 1e308),
    "a whole number as a float": (3.0, 3.0),
    "2**53 + 1": (2**53 + 1, 2**53 + 1),
    "2**63": (2**63, 2**63),
    "2**64": (2**64, 2**64),
    "-2**63 - 1": (-(2**63) - 1, -(2**63) - 1),
    "4,300 digits": (10**4299, 10**4299),
    "a decimal": (Decimal("1.50"), "1.50"),
    "a decimal that is no number": (Decimal("NaN"), "NaN"),
    "a uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "a date": (date(2026, 2, 28), "2026-02-28"),
    "a time": (time(1, 2, 3, 4), "01:02:03.000004"),
    "a time delta": (timedelta(days=-1, microseconds=3), "-PT86399.999997S"),
    "a naive datetime": (datetime(2026, 1, 1), "2026-01-01T00:00:00"),  # noqa: DTZ001 - that is the point
    "an aware datetime": (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z"),
    "an offset": (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5.5))), "2026-01-01T00:00:00+05:30"),
    "a tuple": ((1, (2,)), [1, [2]]),
    "a set": ({7}, [7]),
    "a frozen set": (frozenset({"a"}), ["a"]),
    "an enum": (Color.RED, "red"),
    "an int enum": (Level.HIGH, 3),
    "a str enum": (Kind.ORDER, "order"),
    "a dataclass": (Item("mug"), {"name": "mug", "price": "1.10"}),
    "a field that is not set": (Half(), {"there": 1}),
    "a struct": (Line("mug"), {"name": "mug", "note": None}),
    "an attrs class": (Parcel(1.5), {"weight": 1.5}),
    "a pydantic model": (Invoice(total=1, anything={2}), {"total": 1.0, "anything": [2]}),
    "a typed dict": (Address(city="Bern"), {"city": "Bern"}),
    "a named tuple": (Point(1.0), [1.0, 0.0]),
    "bytes": (b"\x00\xff", "AP8="),
    "a bytearray": (bytearray(b"\x00\xff"), "AP8="),
    "a memoryview": (memoryview(b"\x00\xff"), "AP8="),
    "a subclass of str": (Text("a"), "a"),
    "a subclass of int": (Number(7), 7),
    "a subclass of float": (Share(0.5), 0.5),
    "a subclass of bytes": (Blob(b"\x00\xff"), "AP8="),
    "subclasses within": ({Text("k"): [Number(2**70)]}, {"k": [2**70]}),
    "a counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "an ordered dict": (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "numbers as keys": ({1: "a", -2.5: "b", 2**64: "c"}, {"1": "a", "-2.5": "b", str(2**64): "c"}),
    "dates, uuids and enums as keys": (
        {date(2026, 1, 1): 1, uuid.UUID(int=1): 2, Color.RED: 3},
        {"2026-01-01": 1, str(uuid.UUID(int=1)): 2, "red": 3},
    ),
    "NaN as a key": ({NAN: 1}, {"nan": 1}),
    "no key at all": ({"": {}}, {"": {}}),
    "NUL, a line separator, the last code point": ("\0\u2028\U0010ffff", "\0\u2028\U0010ffff"),
    "a combining character": ("e\u0301", "e\u0301"),
    "what looks like an escape": ('\\ud800 \\u0000 " ]}', '\\ud800 \\u0000 " ]}'),
    "brackets in texts": (["[" * 500, '"[{' * 500], ["[" * 500, '"[{' * 500]),
    "200 levels": (nested(200), nested(200)),
    "a wide list": ([[]] * 1000, [[]] * 1000),
    "JSON that is written already": (msgspec.Raw(b'{ "a": 1.00 }'), {"a": 1.0}),
}


@pytest.mark.parametrize(("value", "expected"), PLAIN.values(), ids=PLAIN)
async def test_without_an_annotation_a_result_is_plain_json_in_every_pass(value: object, expected: object) -> None:
    for seen in await two_passes(returning(value)):
        assert type(seen) is type(expected)
        # Two numbers may be equal and not the same: -0.0 and 0, 1.0 and 1.
        assert repr(seen) == repr(expected)


async def test_a_set_of_mixed_things_is_a_list_in_the_same_order_in_every_pass() -> None:
    mixed = {1, "a", None, 2.5, (3,)}
    first, second = await two_passes(returning(mixed))
    assert isinstance(first, list)
    assert first == second
    assert {tuple(item) if isinstance(item, list) else item for item in first} == mixed


# Bodies with an annotation: what it says

OrderId = NewType("OrderId", str)

DECLARED: dict[str, tuple[Any, Any, Any]] = {
    "a struct": (Line("mug"), Line, Line("mug")),
    "a dataclass": (Item("mug"), Item, Item("mug")),
    "an attrs class": (Parcel(1.5), Parcel, Parcel(1.5)),
    "a pydantic model": (Invoice(total=1), Invoice, Invoice(total=1)),
    "a list of models": ([Invoice(total=1)], list[Invoice], [Invoice(total=1)]),
    "a typed dict": (Address(city="Bern"), Address, Address(city="Bern")),
    "a named tuple": (Point(1.0), Point, Point(1.0)),
    "a cyclic type that ends": (Node(Node()), Node, Node(Node())),
    "a decimal": (Decimal("1.50"), Decimal, Decimal("1.50")),
    "a uuid": (uuid.UUID(int=1), uuid.UUID, uuid.UUID(int=1)),
    "a date": (date(2026, 2, 28), date, date(2026, 2, 28)),
    "a time": (time(1, 2, 3, 4), time, time(1, 2, 3, 4)),
    "a time delta": (timedelta(days=-1, microseconds=3), timedelta, timedelta(days=-1, microseconds=3)),
    "a naive datetime": (datetime(2026, 1, 1), datetime, datetime(2026, 1, 1)),  # noqa: DTZ001 - that is the point
    "an aware datetime": (datetime(2026, 1, 1, tzinfo=UTC), datetime, datetime(2026, 1, 1, tzinfo=UTC)),
    "a tuple": ((1, "a"), tuple[int, str], (1, "a")),
    "a set": ({1, 2}, set[int], {1, 2}),
    "a frozen set of tuples": (frozenset({(1, 2)}), frozenset[tuple[int, int]], frozenset({(1, 2)})),
    "an enum": (Color.RED, Color, Color.RED),
    "an int enum": (Level.HIGH, Level, Level.HIGH),
    "a str enum": (Kind.ORDER, Kind, Kind.ORDER),
    "bytes": (b"\x00\xff", bytes, b"\x00\xff"),
    "a bytearray": (bytearray(b"\x00"), bytearray, bytearray(b"\x00")),
    "numbers as keys": ({1: "a"}, dict[int, str], {1: "a"}),
    "a literal": ("a", Literal["a", "b"], "a"),
    "a new type": (OrderId("o-1"), OrderId, "o-1"),
    "a subclass of str": (Text("a"), Text, Text("a")),
    "a subclass of int": (Number(7), Number, Number(7)),
    "a subclass of float": (Share(0.5), Share, Share(0.5)),
    "a whole number for a float": (3, float, 3.0),
    "a number as a decimal's text": ("1.50", Decimal, Decimal("1.50")),
    "a subclass of what is declared": (Level.HIGH, int, 3),
    "one of several": (None, Line | None, None),
    "anything": ((1, 2), Any, [1, 2]),
    "an object": ((1, 2), object, [1, 2]),
    "structs that cannot be told apart": (Line("mug"), Line | Parcel, {"name": "mug", "note": None}),
    "a class that no JSON is made": ("/tmp/x", pathlib.Path, "/tmp/x"),  # noqa: S108 - it is not opened
    "a name that only a type checker knows": (Item("mug"), "Missing", {"name": "mug", "price": "1.10"}),
}


@pytest.mark.parametrize(("value", "annotation", "expected"), DECLARED.values(), ids=DECLARED)
async def test_a_result_is_what_its_body_declares_in_every_pass(value: Any, annotation: Any, expected: Any) -> None:
    for seen in await two_passes(returning(value, annotation)):
        assert type(seen) is type(expected)
        assert seen == expected


MISDECLARED: dict[str, tuple[Any, Any, str, str]] = {
    "a text for a number": ([1, "two"], list[int], "[1]", "Expected `int`, got `str`"),
    "a bool for a number": (True, int, "", "Expected `int`, got `bool`"),
    "a fraction for a whole number": (1.5, int, "", "Expected `int`, got `float`"),
    "something for nothing": (1, None, "", "Expected `null`, got `int`"),
    "nothing for something": (None, Line, "", "Expected `object`, got `null`"),
    "a field that is not there": ({"note": "x"}, Line, "", "Object missing required field `name`"),
    "what a model refuses": ({"total": "x"}, Invoice, ".total", "Input should be a valid number"),
    "an unknown member": ("green", Color, "", "Invalid enum value 'green'"),
    "a naive datetime for an aware one": (
        datetime(2026, 1, 1),  # noqa: DTZ001 - that is the point
        Annotated[datetime, msgspec.Meta(tz=True)],
        "",
        "Expected `datetime` with a timezone component",
    ),
}


@pytest.mark.parametrize(("value", "annotation", "place", "reason"), MISDECLARED.values(), ids=MISDECLARED)
async def test_a_result_that_is_not_what_its_body_declares_is_refused_alike_in_every_pass(
    value: Any, annotation: Any, place: str, reason: str
) -> None:
    for seen in await two_passes(returning(value, annotation)):
        assert type(seen) is ironflow.SerializationError
        assert seen.path == f"result of step 'work'{place}"
        assert str(seen).startswith(f"{seen.path}: {reason}")


# What JSON cannot carry


class Opaque:
    pass


class Untellable:
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


class NotANumber(enum.Enum):
    NAN = NAN


def looped_list() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def looped_dict() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["a"] = [value]
    return value


def looped_dataclass() -> Node:
    value = Node()
    value.next = value
    return value


class Later:
    def __await__(self) -> Generator[Any, None, int]:
        yield from asyncio.sleep(0).__await__()
        return 1


async def later() -> int:
    return 1


async def many_later() -> Any:
    yield 1


def generated() -> Generator[int]:
    yield 1


PENDING: list[Coroutine[Any, Any, Any]] = []


def pending() -> Coroutine[Any, Any, Any]:
    """Return a coroutine that nobody awaits; it is closed in the end, since Python complains of what is not."""
    PENDING.append(later())
    return PENDING[-1]


@pytest.fixture(autouse=True)
def nothing_pending() -> Any:
    yield
    while PENDING:
        PENDING.pop().close()


DEEP = "is nested too deep, or contains itself; at most 200 levels are allowed"

REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "NaN": (lambda: NAN, "", "nan is not a JSON number"),
    "Infinity in a list": (lambda: [1.0, INFINITY], "[1]", "inf is not a JSON number"),
    "minus Infinity, deep": (lambda: {"a": {"b": (0.0, -INFINITY)}}, ".a.b[1]", "-inf is not a JSON number"),
    "NaN beside null": (lambda: [None, {"a": NAN}], "[1].a", "nan is not"),
    "NaN of a subclass": (lambda: [Share(NAN)], "[0]", "nan is not"),
    "NaN in a pydantic model": (lambda: {"bill": Invoice(total=NAN)}, ".bill.total", "nan is not"),
    "NaN where a pydantic model takes anything": (
        lambda: [Invoice(total=1, anything={"a": [1, NAN]})],
        "[0].anything.a[1]",
        "nan is not",
    ),
    "NaN in a dataclass": (lambda: dataclasses.make_dataclass("D", ["x"])(NAN), ".x", "nan is not"),
    "NaN in a struct": (lambda: Line("a", NAN), ".note", "nan is not"),  # type: ignore[arg-type]
    "NaN in an attrs class": (lambda: Parcel(NAN), ".weight", "nan is not"),
    "NaN in a named tuple": (lambda: Point(0, NAN), "[1]", "nan is not"),
    "NaN in an enum": (lambda: {"a": [NotANumber.NAN]}, ".a[0]", "nan is not"),
    "a complex number": (lambda: [1j], "[0]", "Objects of type complex cannot be written as JSON"),
    "4,301 digits": (lambda: {"n": 10**4300}, ".n", "Exceeds the limit (4300 digits)"),
    "an object": (lambda: {"a": Opaque()}, ".a", "Objects of type Opaque cannot"),
    "a mock": (lambda: {"a": MagicMock()}, ".a", "Objects of type MagicMock cannot"),
    "a function": (lambda: {"a": [print]}, ".a[0]", "Objects of type builtin_function_or_method cannot"),
    "a lambda": (lambda: [lambda: None], "[0]", "Objects of type function cannot"),
    "a class": (lambda: [Line], "[0]", "Objects of type StructMeta cannot"),
    "a model's class": (lambda: [Invoice], "[0]", "Objects of type ModelMetaclass cannot"),
    "a module": (lambda: types, "", "Objects of type module cannot"),
    "a path": (lambda: pathlib.Path("a"), "", "Objects of type PosixPath cannot"),
    "an open file": (lambda: {"file": io.StringIO("a")}, ".file", "Objects of type StringIO cannot"),
    "an exception": (lambda: [ValueError("no")], "[0]", "an exception (ValueError) cannot"),
    "a range": (lambda: range(3), "", "Objects of type range cannot"),
    "a deque": (lambda: collections.deque([1]), "", "Objects of type deque cannot"),
    "the values of a dict": ({"a": 1}.values, "", "Objects of type dict_values cannot"),
    "an array": (lambda: array.array("i", [1]), "", "Objects of type array cannot"),
    "every other byte": (lambda: memoryview(b"abcd")[::2], "", "memoryview: underlying buffer is not C-contiguous"),
    "a generator": (generated, "", "Objects of type generator cannot"),
    "an async generator": (many_later, "", "Objects of type async_generator cannot"),
    "an awaitable in a list": (lambda: [1, Later()], "[1]", "an awaitable (Later) cannot be written as JSON; await it"),
    "a coroutine in a list": (lambda: [pending()], "[0]", "an awaitable (coroutine) cannot"),
    "an Ellipsis": (lambda: ..., "", "Objects of type ellipsis cannot"),
    "half a character": (lambda: ["\ud800"], "[0]", "'utf-8' codec can't encode character"),
    "half a character as a key": (lambda: {"a": {"\ud800": 1}}, ".a", "key '\\ud800': 'utf-8' codec can't encode"),
    "NaN behind half a character": (lambda: {"\ud800": NAN}, ".\\ud800", "nan is not"),
    "a tuple as a key": (lambda: {"a": {(1, 2): 3}}, ".a", "key (1, 2): Objects of type tuple cannot"),
    "None as a key": (lambda: {None: 1}, "", "key None: Objects of type NoneType cannot"),
    "True as a key": (lambda: {True: 1}, "", "key True: Objects of type bool cannot"),
    "a key that cannot be told": (lambda: {Untellable(): 1}, "", ""),
    "keys of one text": (lambda: {"a": [{1: "x", "1": "y"}]}, ".a[0]", "the keys 1 and '1' are both written as '1'"),
    "bytes and their text as keys": (lambda: {b"a": 1, "YQ==": 2}, "", "the keys b'a' and 'YQ==' are both written"),
    "JSON that is none": (lambda: {"a": msgspec.Raw(b"{bad")}, ".a", "JSON is malformed"),
    "a list that contains itself": (looped_list, "", DEEP),
    "a dict that contains itself": (looped_dict, "", DEEP),
    "a dataclass that contains itself": (looped_dataclass, "", DEEP),
    "201 levels": (lambda: nested(201), "", DEEP),
    "201 levels of a dict without a null": (
        lambda: functools.reduce(lambda inner, _: {"a": inner}, range(201), 1),  # type: ignore[arg-type, return-value]
        "",
        DEEP,
    ),
    "10,000 levels": (lambda: nested(10_000), "", DEEP),
}


@pytest.mark.parametrize(("make", "place", "reason"), REFUSED.values(), ids=REFUSED)
async def test_a_result_that_json_cannot_carry_is_refused_alike_in_every_pass(
    make: Callable[[], Any], place: str, reason: str
) -> None:
    first, second = await two_passes(make)
    assert type(first) is type(second) is ironflow.SerializationError
    assert first.path == second.path == f"result of step 'work'{place}"
    assert str(first) == str(second)
    assert str(first).startswith(f"{first.path}{'' if reason is DEEP else ':'} {reason}")


@pytest.mark.parametrize(("make", "place", "reason"), REFUSED.values(), ids=REFUSED)
async def test_an_output_that_json_cannot_carry_fails_its_run_at_once(
    make: Callable[[], Any], place: str, reason: str
) -> None:
    @ironflow.function(id="f", retry=Retry(max_attempts=3))
    async def f(ctx: Context) -> Any:
        return make()

    async with running_system(f) as system:
        run = await system.run(f)
    assert run.error is not None
    assert (run.error.type, run.error.path) == ("SerializationError", f"output{place}")
    assert reason in run.error.message
