"""What JSON can be decoded into, beside what msgspec knows itself."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import pydantic
import pytest

from ironflow.codec import decode_value, encode_value
from ironflow.decodable import undecodable
from ironflow.errors import SerializationError

T = TypeVar("T")


@dataclasses.dataclass
class Order:
    id: int
    parts: Orders | None = None
    tags: Iterable[str] | None = None


class Orders(list[Order]):
    pass


class Named:
    pass


class Both(Named, Orders, Iterable[Order]):
    pass


class ById(dict[int, T]):
    pass


class Nested(OrderedDict[str, Orders]):
    pass


class Invoice(pydantic.BaseModel):
    total: float


class Priced(Protocol):
    price: int


@runtime_checkable
class Sized(Protocol):
    def __len__(self) -> int: ...


class Misspelt(list["Ordr"]):  # type: ignore[name-defined]  # noqa: F821 - that is the point
    pass


@dataclasses.dataclass
class Basket:
    priced: list[Priced]


@dataclasses.dataclass
class Circle:
    circles: Circles | None = None
    lock: threading.Event | None = None


class Circles(list[Circle]):
    pass


@pytest.mark.parametrize(
    ("value", "value_type"),
    [
        (["a"], Iterable[str]),
        ([Order(1)], Iterable[Order]),
        ([1], Iterable),
        (Counter("aab"), Counter),
        (Counter([1, 1, 2]), Counter[int]),
        (OrderedDict(b=1, a=2), OrderedDict),
        (OrderedDict(b=Order(2), a=Order(1)), OrderedDict[str, Order]),
        (defaultdict(list, a=[1]), defaultdict[str, list[int]]),
        (Orders([Order(1, Orders([Order(2)]))]), Orders),
        (Both([Order(1)]), Both),
        (ById({1: Order(1)}), ById[Order]),
        (Nested(a=Orders([Order(1)])), Nested),
        ([Counter("a")], list[Counter[str]]),
        ({"a": Orders([Order(1)])}, dict[str, Orders]),
        (OrderedDict(a=Invoice(total=1)), OrderedDict[str, Invoice]),
        ("a", Hashable),
        ([1], Sized),
    ],
    ids=str,
)
def test_a_collection_comes_back_as_the_declared_type(value: Any, value_type: Any) -> None:
    assert undecodable(value_type) is None
    back = decode_value(encode_value(value, "it"), value_type, "it")
    assert back == value
    assert type(back) is type(value)


def test_a_defaultdict_that_comes_back_has_no_default() -> None:
    back = decode_value(b'{"a":1}', defaultdict[str, int], "it")
    with pytest.raises(KeyError):
        back["b"]


@pytest.mark.parametrize(
    ("payload", "value_type", "complaint"),
    [
        (b'["a",1]', Iterable[str], "it[1]: Expected `str`, got `int`"),
        (b'{"a":1}', Iterable[str], "it: cannot make a Iterable of a dict"),
        (b"[1]", Counter[str], "it: cannot make a Counter of a list"),
        (b'{"a":"b"}', Counter[str], "it[...]: Expected `int`, got `str`"),
        (b'{"id":1,"parts":[{"id":2,"parts":[{"id":"x"}]}]}', Order, "it.parts[0].parts[0].id: Expected `int`"),
        (b'[{"a":[{"total":"x"}]}]', list[OrderedDict[str, list[Invoice]]], "it[0][...][0].total: Input should be"),
    ],
)
def test_a_collection_that_does_not_fit_is_refused_with_its_place(
    payload: bytes, value_type: Any, complaint: str
) -> None:
    with pytest.raises(SerializationError) as caught:
        decode_value(payload, value_type, "it")
    assert str(caught.value).startswith(complaint)


@pytest.mark.parametrize(
    ("value_type", "reason"),
    [
        (Priced, "no JSON can be made a Priced"),
        (Basket, "no JSON can be made a Priced"),
        (list[Iterator[int]], "no JSON can be made a Iterator"),
        (Callable[[], int], "no JSON can be made a Callable"),
        (deque[int], "no JSON can be made a deque"),
        (Circle, "no JSON can be made a Event"),
        (Misspelt, "Type ''Ordr'' is not supported"),
        (Order | Basket, "Type unions may not contain more than one dataclass or attrs type - type "),
    ],
)
def test_what_no_json_can_be_decoded_into_is_known_with_the_reason(value_type: Any, reason: str) -> None:
    assert str(undecodable(value_type)).startswith(reason)
