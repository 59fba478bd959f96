"""Subjects, streams, buckets and ids."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ironflow.errors import DefinitionError, SerializationError
from ironflow.names import (
    LONGEST_TOKEN,
    PASS_TOKEN,
    Names,
    Scope,
    bucket_stream,
    check_step_key,
    digest,
    escape_event,
    escape_token,
    parse_journal,
    parse_step_key,
    run_id,
    start_event_id,
    step_key,
    step_token,
)

SAFE_TOKEN = re.compile(r"[A-Za-z0-9_=/-]+")
"""What may stand in a subject's token, in a key of a bucket, and in a filter without being a wildcard."""

TEXT = st.text() | st.text("=spe0aF/.>* -_", max_size=100) | st.text(min_size=30, max_size=300)
SCOPE = st.lists(st.tuples(TEXT, st.integers(0, 99)), max_size=3).map(
    lambda branches: tuple(part for branch in branches for part in branch)
)
NAMES = Names("shop")


@given(TEXT)
def test_a_token_is_safe_in_subjects_and_keys(text: str) -> None:
    token = escape_token(text)
    assert SAFE_TOKEN.fullmatch(token)
    assert "/" not in token
    assert len(token) <= LONGEST_TOKEN


@given(TEXT, TEXT)
def test_different_texts_give_different_tokens(one: str, other: str) -> None:
    assume(one != other)
    assert escape_token(one) != escape_token(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", "=e"),
        ("", "e"),
        ("a b", "a=20b"),
        ("a.b", "a=2Eb"),
        ("=pass", "pass"),
        ("A", "a"),
        ("é", "e\N{COMBINING ACUTE ACCENT}"),
        ("x" * 80, "x" * 81),
        ("x" * 81, "x" * 82),
        ("\ud800", "\ud801"),
        ("\ud800", "?"),
    ],
)
def test_texts_that_look_alike_give_different_tokens(one: str, other: str) -> None:
    assert escape_token(one) != escape_token(other)


@given(st.text(min_size=81, max_size=200))
def test_no_text_has_the_token_of_a_longer_one(text: str) -> None:
    assert escape_token(escape_token(text)) != escape_token(text)


@given(TEXT, SCOPE)
def test_no_step_has_the_token_of_a_whole_pass(name: str, scope: Scope) -> None:
    assert step_token(scope, name) != PASS_TOKEN
    assert step_token((), PASS_TOKEN) != PASS_TOKEN


@given(SCOPE, TEXT)
def test_a_token_of_a_step_is_safe_and_short(scope: Scope, name: str) -> None:
    token = step_token(scope, name)
    assert SAFE_TOKEN.fullmatch(token)
    assert len(token) <= LONGEST_TOKEN


@given(SCOPE, TEXT, SCOPE, TEXT)
def test_different_steps_have_different_tokens(scope: Scope, name: str, scope2: Scope, name2: str) -> None:
    assume((scope, name) != (scope2, name2))
    assert step_token(scope, name) != step_token(scope2, name2)


def test_a_slash_in_a_name_is_no_scope() -> None:
    assert step_token((), "all/0/pay") != step_token(("all", 0), "pay")
    assert step_token(("a", 0, "b", 1), "c") == "a/0/b/1/c"


@given(st.lists(st.text(min_size=1).filter(lambda text: "." not in text), min_size=1, max_size=5))
def test_an_event_name_keeps_its_parts(parts: list[str]) -> None:
    tokens = escape_event(".".join(parts)).split(".")
    assert tokens == [escape_token(part) for part in parts]


def test_a_readable_name_stays_readable() -> None:
    assert NAMES.event("order.placed_2-x") == "shop.events.order.placed_2-x"
    assert escape_token("send e-mail") == "send=20e-mail"


def test_an_event_always_starts_the_same_run() -> None:
    assert run_id("process-order", "o-1") == "62p23wkzd637mbzqvvjz4hihz4"
    assert run_id("a", "b") != run_id("a", "c")


@given(TEXT, TEXT, TEXT, TEXT)
def test_different_functions_or_events_start_different_runs(f1: str, e1: str, f2: str, e2: str) -> None:
    assume((f1, e1) != (f2, e2))
    assume("\0" not in f1 + f2)  # a function's id has none
    assert run_id(f1, e1) != run_id(f2, e2)


@given(st.binary())
def test_a_digest_is_a_safe_lower_case_token(data: bytes) -> None:
    assert re.fullmatch(r"[a-z2-7]{26}", digest(data))


@given(st.binary())
def test_a_digest_is_the_base_32_of_half_a_hash(data: bytes) -> None:
    encoded = base64.b32encode(hashlib.sha256(data).digest()[:16])
    assert digest(data) == encoded.decode().rstrip("=").lower()


def test_start_ids_are_one_space_for_each_function() -> None:
    assert start_event_id("f", "1") != start_event_id("g", "1")


@pytest.mark.parametrize("namespace", ["", "A", "1a", "a.b", "a b", "a>", "ü", "a" * 33, "-a", "a\n"])
def test_a_namespace_that_is_not_allowed_is_refused(namespace: str) -> None:
    with pytest.raises(DefinitionError, match=r"namespace .* is not allowed; use a lower-case letter"):
        Names(namespace)


@pytest.mark.parametrize("namespace", ["a", "ironflow", "t-1_x", "a" * 32])
def test_other_namespaces_are_allowed(namespace: str) -> None:
    assert Names(namespace).namespace == namespace


def test_the_names_of_a_namespace() -> None:
    assert (NAMES.events, NAMES.all_shards[0].tasks, NAMES.all_shards[0].journal, NAMES.all_shards[0].timers) == (
        "SHOP_EVENTS",
        "SHOP_TASKS",
        "SHOP_JOURNAL",
        "SHOP_TIMERS",
    )
    assert NAMES.task("orders", "r1", 2) == "shop.tasks.orders.r1.2"
    assert NAMES.run_key("r1") == "$KV.shop_runs.r1"
    assert NAMES.function_key("a.b") == "$KV.shop_functions.a=2Eb"
    assert bucket_stream(NAMES.waits_bucket) == "KV_shop_waits"


def test_an_overdue_timer_is_told_by_its_bucket() -> None:
    assert NAMES.timer(59_999, "r1", 0, "t") == "shop.timers.r1.0.1.t"
    assert NAMES.timer(60_000, "r1", 3, "t") == "shop.timers.r1.3.2.t"


@pytest.mark.parametrize(
    "subject_filter",
    [
        NAMES.timers_of_run("r1"),
        NAMES.timers_of_epoch("r1", 0),
        NAMES.tasks_of_run("q", "r1"),
        NAMES.journal_of_run("q", "r1"),
        NAMES.journal_of_run("q", "r1", "wait"),
        NAMES.fired("r1", ">"),
        NAMES.waits_for("e", "path", "value"),
    ],
)
def test_what_one_run_or_one_event_has_is_found_without_a_look_at_all_others(subject_filter: str) -> None:
    before, wildcard, _ = subject_filter.partition("*" if "*" in subject_filter else ">")
    assert wildcard
    assert "r1" in before or "waits" in before


@pytest.mark.parametrize(
    ("subject", "kind", "rest"),
    [
        (NAMES.journal_input("q", "r1"), "input", ()),
        (NAMES.journal_step("q", "r1", "s"), "step", ("s",)),
        (NAMES.journal_wait("q", "r1", "s"), "wait", ("s",)),
        (NAMES.journal_try("q", "r1", "s", 2), "try", ("s", "2")),
        (NAMES.journal_due("q", "r1", "s", 2), "due", ("s", "2")),
        (NAMES.journal_outcome("q", "r1", 3), "outcome", ("3",)),
    ],
)
def test_a_journal_subject_reads_back(subject: str, kind: str, rest: tuple[str, ...]) -> None:
    address = parse_journal(subject)
    assert (address.queue, address.run, address.kind, address.rest) == ("q", "r1", kind, rest)
    assert _covers(NAMES.journal_of_run("q", "r1"), subject)
    assert not rest or _covers(NAMES.all_shards[0].journal_kind(kind), subject)


@pytest.mark.parametrize("subject", ["", "shop", "shop.journal", "shop.journal.q", "shop.journal.q.r1"])
def test_what_is_no_subject_of_a_record_is_unreadable(subject: str) -> None:
    with pytest.raises(SerializationError, match="is not the subject of a record"):
        parse_journal(subject)


@pytest.mark.parametrize("rest", ["", ".x", ".-1", ".+1", ".1_0", ".1 ", ".²", ".٣", f".{10**15}"])
def test_a_record_without_the_number_that_belongs_there_is_unreadable(rest: str) -> None:
    with pytest.raises(SerializationError, match="where a number belongs"):
        _ = parse_journal(f"shop.journal.q.r1.retry{rest}").number


@pytest.mark.parametrize("epoch", ["x", "-1", "1.2", "1_0", "²", str(10**15)])
def test_a_step_of_no_epoch_is_unreadable(epoch: str) -> None:
    with pytest.raises(SerializationError, match="where a number belongs"):
        parse_step_key(f"charge.{epoch}")
    with pytest.raises(SerializationError, match="is not the key of a step"):
        check_step_key(f"charge.{epoch}")


@pytest.mark.parametrize("key", ["", ".", ".1", "*", ">", "charge.", "a b", "ü"])
def test_what_would_mean_something_else_in_a_subject_is_no_step(key: str) -> None:
    with pytest.raises(SerializationError, match="is not the key of a step"):
        check_step_key(key)


@given(st.lists(st.text() | st.integers(0, 10**6)), st.text(), st.integers(0, 10**6))
def test_the_key_of_every_step_in_every_epoch_reads_back(scope: list[str | int], name: str, epoch: int) -> None:
    token = step_token(tuple(scope), name)
    assert parse_step_key(check_step_key(step_key(token, epoch))) == (token, epoch)
    assert check_step_key(step_key(PASS_TOKEN, epoch))


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        (NAMES.all_shards[0].tasks_of_queue("q"), NAMES.task("q", "r1", 0)),
        (NAMES.timers_of_run("r1"), NAMES.timer(5, "r1", 0, "t")),
        (NAMES.timers_of_epoch("r1", 2), NAMES.timer(5, "r1", 2, "t")),
        (NAMES.every_end, NAMES.ended("r1")),
    ],
)
def test_a_filter_covers_what_it_is_for(pattern: str, subject: str) -> None:
    assert _covers(pattern, subject)


def _covers(pattern: str, subject: str) -> bool:
    parts: dict[str, Any] = {"*": r"[^.]+", ">": r".+"}
    return bool(re.fullmatch(r"\.".join(parts.get(p, re.escape(p)) for p in pattern.split(".")), subject))
