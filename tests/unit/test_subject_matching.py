"""Subjects, filters, and the index that finds messages by them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.broker.local.index import SubjectIndex
from ironflow.broker.local.subjects import is_literal, is_valid, matcher_of_any, matches, overlap

TOKENS = st.sampled_from(["a", "b", "aa", "$KV", "=20"])
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)


@st.composite
def filters(draw: st.DrawFn) -> str:
    tokens = draw(st.lists(st.one_of(TOKENS, st.just("*")), max_size=4))
    if not tokens or draw(st.booleans()):
        tokens.append(">")
    return ".".join(tokens)


def by_regex(subject_filter: str) -> re.Pattern[str]:
    """Return the same filter in another notation."""
    pieces = {"*": r"[^.]+", ">": r".+"}
    return re.compile(r"\.".join(pieces.get(token) or re.escape(token) for token in subject_filter.split(".")))


@pytest.mark.parametrize(
    ("subject_filter", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.bc", False),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("*", "a", True),
        ("*", "a.b", False),
        (">", "a", True),
        (">", "a.b.c", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "ab.c", False),
        ("a.*.>", "a.b", False),
        ("a.*.>", "a.b.c.d", True),
        ("$KV.runs.>", "$KV.runs.1", True),
        ("a*", "ab", False),
        ("a*", "a*", True),
    ],
)
def test_a_filter_matches_token_by_token(subject_filter: str, subject: str, *, expected: bool) -> None:
    assert matches(subject_filter, subject) is expected


@given(subject_filter=filters(), subject=SUBJECTS)
def test_matching_agrees_with_a_regular_expression(subject_filter: str, subject: str) -> None:
    assert matches(subject_filter, subject) == bool(by_regex(subject_filter).fullmatch(subject))


@given(subject_filters=st.lists(filters(), min_size=1, max_size=3), subject=SUBJECTS)
def test_one_of_several_filters_is_enough(subject_filters: list[str], subject: str) -> None:
    expected = any(matches(each, subject) for each in subject_filters)
    assert matcher_of_any(tuple(subject_filters))(subject) == expected


@given(one=filters(), other=filters(), subject=SUBJECTS)
def test_filters_that_name_the_same_subject_overlap(one: str, other: str, subject: str) -> None:
    if matches(one, subject) and matches(other, subject):
        assert overlap(one, other)
    assert overlap(one, other) == overlap(other, one)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "*.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a", False),
        ("a.>", "*.*.c", True),
        ("a.>", "b.>", False),
        (">", "a", True),
        ("a.*.c", "a.b.d", False),
    ],
)
def test_filters_overlap_where_some_subject_matches_both(one: str, other: str, *, expected: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is expected


@pytest.mark.parametrize("subject", ["a", "a.b", "*.>", "$KV.b.k", "=20", "Ω"])
def test_subjects_and_filters_are_valid(subject: str) -> None:
    assert is_valid(subject)


@pytest.mark.parametrize("subject", ["", ".", "a.", ".a", "a..b", "a b", " a", "a\t", "a\r\n", ">.a", "a.>.b"])
def test_other_texts_are_not(subject: str) -> None:
    assert not is_valid(subject)


def test_a_literal_names_one_subject() -> None:
    assert is_literal("a.b")
    assert is_literal("a*.b>")
    assert not is_literal("a.*")
    assert not is_literal("a.>")


@given(
    stored=st.lists(SUBJECTS, max_size=30),
    removed=st.sets(st.integers(1, 30)),
    subject_filter=st.one_of(filters(), SUBJECTS),
)
def test_the_index_selects_what_matches(stored: list[str], removed: set[int], subject_filter: str) -> None:
    index = SubjectIndex()
    messages = dict(enumerate(stored, start=1))
    for sequence, subject in messages.items():
        index.add(subject, sequence)
    for sequence in removed & messages.keys():
        index.remove(messages.pop(sequence), sequence)
    expected = [sequence for sequence, subject in messages.items() if matches(subject_filter, subject)]
    assert index.select(subject_filter) == expected
    assert index.at_most(subject_filter) >= len(expected)
    for subject in set(stored):
        sequences = [sequence for sequence, each in messages.items() if each == subject]
        assert index.last(subject) == max(sequences, default=0)
