"""Where ``match`` looks, and what it finds equal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ironflow.errors import DefinitionError
from ironflow.matching import MISSING, canonical, canonical_at, parse_path, read_data, show_path, value_at

DATA = {"orderId": "o-1", "items": [{"sku": "a"}, {"sku": "b"}], "none": None, "data": {"x": 1}, "0": "zero", "": 5}


@pytest.mark.parametrize(
    ("match", "path", "shown"),
    [
        ("orderId", "orderId", "data.orderId"),
        ("data.orderId", "orderId", "data.orderId"),
        ("data.data.x", "data.x", "data.data.x"),
        ("data", "", "data"),
        ("items.0.sku", "items.0.sku", "data.items.0.sku"),
        ("dataset.x", "dataset.x", "data.dataset.x"),
    ],
)
def test_a_path_may_begin_with_data(match: str, path: str, shown: str) -> None:
    assert parse_path(match) == path
    assert show_path(path) == shown


@pytest.mark.parametrize("match", ["", ".", "a..b", ".a", "a.", "data.", 5, b"a", ["a"], "\ud800"], ids=repr)
def test_what_is_no_path_is_refused(match: Any) -> None:
    with pytest.raises(DefinitionError, match="match"):
        parse_path(match)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("orderId", "o-1"),
        ("items.1.sku", "b"),
        ("items.01.sku", MISSING),
        ("items.2.sku", MISSING),
        ("items.-1.sku", MISSING),
        ("items.²", MISSING),
        (f"items.{'9' * 5000}", MISSING),
        ("items.sku", MISSING),
        ("none", None),
        ("none.x", MISSING),
        ("orderId.0", MISSING),
        ("data.x", 1),
        ("0", "zero"),
        ("missing", MISSING),
        ("", DATA),
    ],
    ids=lambda value: str(value)[:20],
)
def test_keys_lead_into_objects_and_indexes_into_lists(path: str, found: Any) -> None:
    assert value_at(DATA, path) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"),
        ("1", "1e0"),
        ("0", "-0.0"),
        ("100000000000000000000", "1e20"),
        ('{"a": 1, "b": 2}', '{"b": 2.0, "a": 1}'),
        ('"\\u00e9"', '"é"'),
        ("[1, 2]", "[1.0,2]"),
        ("0.1", "0.10"),
        ("null", " null "),
    ],
)
def test_what_json_has_equal_is_equal(one: str, other: str) -> None:
    assert canonical(msgspec.json.decode(one)) == canonical(msgspec.json.decode(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "true"),
        ("0", "false"),
        ("1", '"1"'),
        ("null", "false"),
        ("null", '""'),
        ("[1, 2]", "[2, 1]"),
        ("[]", "{}"),
        ('{"a": 1}', '{"a": 1, "b": null}'),
        ('"o-1"', '"O-1"'),
        ("123456789012345678901234567890", "123456789012345678901234567891"),
        ("[true]", "[1]"),
    ],
)
def test_what_json_tells_apart_is_not_equal(one: str, other: str) -> None:
    assert canonical(msgspec.json.decode(one)) != canonical(msgspec.json.decode(other))


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[" * 100_000 + b"]" * 100_000], ids=lambda data: str(data[:5]))
def test_data_that_cannot_be_read_matches_nothing(data: bytes) -> None:
    assert canonical_at(read_data(data), "") is None
    assert canonical_at(read_data(data), "a") is None


def test_null_is_a_value() -> None:
    assert canonical_at(DATA, "none") == "null"
