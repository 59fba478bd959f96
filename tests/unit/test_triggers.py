"""Event names, and the patterns that functions trigger on."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.errors import DefinitionError, LimitError
from ironflow.triggers import check_event_name, check_trigger, matches

TOKEN = st.sampled_from(["a", "b", "ab", "a b", "ü", "*a"])
NAME = st.lists(TOKEN, min_size=1, max_size=4).map(".".join)
PATTERN = st.builds(
    lambda tokens, rest: ".".join(tokens + rest),
    st.lists(TOKEN | st.just("*"), min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("order.placed", "order.placed", True),
        ("order.placed", "order.Placed", False),
        ("order.placed", "order.placed.late", False),
        ("order.*", "order.placed", True),
        ("order.*", "order", False),
        ("order.*", "order.placed.late", False),
        ("*.placed", "order.placed", True),
        ("*", "order", True),
        ("*", "order.placed", False),
        ("order.>", "order.placed", True),
        ("order.>", "order.placed.late", True),
        ("order.>", "order", False),
        ("order.>", "orders.placed", False),
        (">", "a", True),
        (">", "a.b.c", True),
        ("*.>", "a", False),
        ("*.>", "a.b", True),
        ("order.p*", "order.placed", False),
        ("order.p*", "order.p*", True),
    ],
)
def test_a_star_is_one_part_and_an_arrow_the_rest(pattern: str, name: str, *, expected: bool) -> None:
    assert matches(pattern, name) is expected


@pytest.mark.parametrize("pattern", [">", "*.*", "ironflow.*", "ironflow.>", "ironflow.invoked"])
def test_no_pattern_matches_our_own_events(pattern: str) -> None:
    assert not matches(pattern, "ironflow.invoked")


@given(PATTERN, NAME)
def test_matching_agrees_with_regular_expressions(pattern: str, name: str) -> None:
    parts = {"*": r"[^.]+", ">": r".+"}
    expression = r"\.".join(parts.get(token, re.escape(token)) for token in pattern.split("."))
    assert matches(pattern, name) == bool(re.fullmatch(expression, name))


@given(NAME)
def test_a_name_triggers_on_itself(name: str) -> None:
    assert matches(check_trigger(name), check_event_name(name))


NOT_TEXT = "must be a non-empty text without spaces around it, got "
BAD: list[tuple[Any, str]] = [
    ("", NOT_TEXT + "''"),
    (" a", NOT_TEXT + "' a'"),
    ("a\n", NOT_TEXT + "'a\\n'"),
    (None, NOT_TEXT + "None"),
    (5, NOT_TEXT + "5"),
    (b"a", NOT_TEXT + "b'a'"),
    (["a"], NOT_TEXT + "['a']"),
    ("a..b", "'a..b' has an empty part; write the parts with one dot between them, like 'order.placed'"),
    (".a", "'.a' has an empty part"),
    ("a.", "'a.' has an empty part"),
    ("\ud800", "is not valid text: surrogates not allowed"),
]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        *BAD,
        ("order.*", '\'order.*\' has a wildcard; "*" and ">" are allowed in triggers only'),
        (">", "'>' has a wildcard"),
        ("ironflow.x", "'ironflow.x' is reserved: names that start with 'ironflow.' are Ironflow's own"),
    ],
)
def test_a_name_that_is_not_allowed_is_refused(name: Any, complaint: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        check_event_name(name)
    assert str(caught.value).startswith("event name ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(("pattern", "complaint"), [*BAD, ("a.>.b", 'has ">" before the end'), (">.a", 'has ">"')])
def test_a_trigger_that_is_not_allowed_is_refused(pattern: Any, complaint: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        check_trigger(pattern)
    assert str(caught.value).startswith("trigger ")
    assert complaint in str(caught.value)


def test_the_length_counts_in_bytes() -> None:
    assert check_event_name("ü" * 128) == "ü" * 128
    with pytest.raises(LimitError, match="event name is 258 bytes long; at most 256 are allowed"):
        check_event_name("ü" * 129)
    with pytest.raises(LimitError, match="trigger is 257 bytes long"):
        check_trigger("x" * 257)


@pytest.mark.parametrize("name", ["a", "order.placed", "ü.é", "a b.c", "a>b", "x*y", "ironflow", "ironflowx.y", "💥"])
def test_any_other_text_is_a_name(name: str) -> None:
    assert check_event_name(name) == name
