"""attrs classes with private fields, which msgspec leaves out."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import attrs
import msgspec
import pytest

from ironflow.codec import decode_value, encode_value
from ironflow.errors import SerializationError
from ironflow.private_fields import may_lose_fields


@attrs.define
class Account:
    name: str
    _balance: int = 0


@attrs.define
class Cached:
    name: str
    _length: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._length = len(self.name)


@dataclasses.dataclass
class Holder:
    _note: str
    account: Account | Cached | str


@dataclasses.dataclass
class Bank:
    accounts: list[Account]
    parent: Bank | None = None


class Branch(msgspec.Struct):
    banks: dict[str, Bank]


ACCOUNT = Account("a", 7)
REFUSED: dict[str, tuple[Any, str]] = {
    "itself": (ACCOUNT, "it"),
    "in a list": ([1, ACCOUNT], "it[1]"),
    "deep in plain values": ({"a": [(1, {"b": ACCOUNT})]}, "it.a[0][1].b"),
    "in a dataclass": (Bank([], Bank([ACCOUNT])), "it.parent.accounts[0]"),
    "in a struct": ([Branch({"x": Bank([ACCOUNT])})], "it[0].banks.x.accounts[0]"),
    "in a union that cannot be read": (Holder("n", ACCOUNT), "it.account"),
    "in an ordered dict": (OrderedDict(a=ACCOUNT), "it.a"),
}


@pytest.mark.parametrize(("value", "place"), REFUSED.values(), ids=REFUSED)
def test_a_private_field_that_would_be_left_out_is_refused_with_its_place(value: object, place: str) -> None:
    with pytest.raises(SerializationError) as caught:
        encode_value(value, "it")
    assert caught.value.path == place
    assert str(caught.value) == (
        f"{place}: the attrs class Account has the private field '_balance', which is not written; "
        "give it a name without an underscore in front, or make Account a dataclass"
    )


@pytest.mark.parametrize("value", [Cached("abc"), Bank([]), Branch({}), Branch({"x": Bank([])})], ids=repr)
def test_what_has_no_private_field_in_it_comes_back_as_it_was(value: object) -> None:
    assert decode_value(encode_value(value, "it"), type(value), "it") == value


@pytest.mark.parametrize(
    "value", [None, 1, "a", [1, "a", None], {"a": [[{"b": 1.5}]]}, Cached("abc"), Holder], ids=repr
)
def test_where_no_private_field_can_be_nobody_searches_for_one(value: object) -> None:
    assert not may_lose_fields(value)
