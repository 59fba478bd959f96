"""What commands print."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.cli.output import (
    document,
    format_age,
    format_elapsed,
    format_error,
    format_json,
    format_run,
    format_table,
    path_of,
    print_json,
    print_json_line,
    print_table,
    printable,
    run_document,
)
from ironflow.clock import parse_when
from ironflow.messages import AwaitedView, ErrorView, EventView, RunView
from ironflow.records import NULL
from tests.unit.fake_engine import raw, run_view, running_view, step_view

START = "2026-11-21T20:03:00.000Z"
NOW = parse_when("2026-11-21T20:04:05.000Z")


def _error(
    step: str | None = None, attempts: int | None = None, path: str | None = None, message: str = "no"
) -> ErrorView:
    return ErrorView(type="ValueError", message=message, step=step, attempts=attempts, path=path)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0.5, "0s"),
        (59, "59s"),
        (60, "1m"),
        (3_599, "59m"),
        (3_600, "1h"),
        (47 * 3_600, "47h"),
        (48 * 3_600, "2d"),
        (400 * 86_400, "400d"),
    ],
)
def test_ages_are_short(seconds: float, shown: str) -> None:
    assert format_age(START, parse_when(START) + round(seconds * 1000)) == shown


@pytest.mark.parametrize("time", ["9999999999", "", "yesterday", "2026-11-21T20:03:00"])
def test_an_age_that_is_not_known_is_the_time_as_it_was_given(time: str) -> None:
    assert format_age(time) == time


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        ("2026-11-21T20:03:00.012Z", "12ms"),
        ("2026-11-21T20:03:01.540Z", "1.5s"),
        ("2026-11-21T20:05:05.999Z", "2m5s"),
        ("2026-11-21T20:02:59.000Z", "0ms"),
        (None, "1m5s"),
    ],
)
def test_what_took_long_is_shown_less_exactly(end: str | None, shown: str) -> None:
    assert format_elapsed(START, end, NOW) == shown


def test_tables_are_aligned_and_nothing_is_cut_off() -> None:
    rows = [("a" * 90, 1, "x" * 5_000), ("b", 22, "y")]
    header, first, second = format_table(("ID", "NUMBER", "DATA"), rows).splitlines()
    assert first == f"{'a' * 90}  1         {'x' * 5_000}"
    assert second == f"b{' ' * 89}  22        y"
    assert header == f"ID{' ' * 88}  NUMBER    DATA"


def test_numbers_and_empty_cells_of_a_table_are_shown_as_they_are() -> None:
    assert format_table(("A", "B", "C"), [("1e5", "", "007")]) == "A    B    C\n1e5       007"


def test_a_cell_takes_one_line() -> None:
    assert format_table(("A", "B"), [("x\ny", "\x1b[31mred")]).splitlines()[1] == "x y  \\x1b[31mred"


def test_a_table_without_rows_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [], "no things")
    assert capsys.readouterr() == ("", "no things\n")


@given(st.text())
def test_no_text_moves_the_cursor(text: str) -> None:
    assert printable(text).isprintable()


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_text_that_can_be_printed_stays_as_it_is(text: str) -> None:
    if text.isprintable():
        assert printable(text) == text


def test_json_is_indented_and_a_line_is_one_line(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    value = {"a": raw('{"b":\n[1.00, 2]}'), "text": "ü\n"}
    print_json(value)
    print_json_line(value)
    printed = '{\n  "a": {\n    "b": [\n      1.00,\n      2\n    ]\n  },\n  "text": "ü\\n"\n}\n'
    assert capsysbinary.readouterr().out.decode() == printed + '{"a":{"b":[1.00,2]},"text":"ü\\n"}\n'


def test_json_shows_no_field_that_only_this_program_needs() -> None:
    assert "left_out" not in run_document(run_view())
    shown = document(run_view())
    assert list(shown) == [field for field in RunView.__struct_fields__ if field != "left_out"]


def test_a_run_document_has_steps_only_where_they_are_given() -> None:
    assert "steps" not in run_document(run_view())
    assert run_document(run_view(), [])["steps"] == []


@pytest.mark.parametrize(
    ("scope", "path"),
    [((), "pay"), (("all", 0), "all[0] / pay"), (("all", 0, "inner", 12), "all[0] / inner[12] / pay")],
)
def test_a_step_is_shown_with_the_branches_around_it(scope: tuple[str | int, ...], path: str) -> None:
    assert path_of(step_view("pay", scope=scope)) == path


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (None, ""),
        (_error(), "ValueError: no"),
        (_error(step="pay", attempts=3, path="data.x"), "ValueError: no (step pay, 3 attempts, at data.x)"),
        (_error(attempts=1), "ValueError: no (1 attempt)"),
        (_error(message=""), "ValueError"),
        (_error(message="", attempts=1), "ValueError (1 attempt)"),
    ],
)
def test_an_error_is_shown_with_what_is_known_of_it(error: ErrorView | None, shown: str) -> None:
    assert format_error(error) == shown


@pytest.mark.parametrize(("payload", "shown"), [(NULL, ""), (raw("0"), "0"), (raw('""'), '""'), (raw("[1]"), "[1]")])
def test_only_null_is_not_shown(payload: msgspec.Raw, shown: str) -> None:
    assert format_json(payload) == shown


def test_a_completed_run_is_shown_with_its_steps() -> None:
    shown = format_run(run_view(), [step_view(), step_view("pay", scope=("all", 0), attempt=2)], NOW)
    assert shown.splitlines() == [
        "run          r1",
        "function     process-order",
        "queue        orders",
        "status       completed",
        "event        order.placed o-1",
        'data         {"orderId":"o-1"}',
        "attempt      1",
        "started      2026-11-21T20:03:00.000Z (1m ago)",
        "finished     2026-11-21T20:03:01.500Z (after 1.5s)",
        'output       {"total":1.00}',
        "",
        "STEP          KIND    STATUS     ATTEMPT    TOOK    RESULT",
        "fetch         run     completed  1          12ms    1",
        "all[0] / pay  run     completed  2          12ms    1",
    ]


UNTIL = "2026-12-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"kind": "sleep", "status": "sleeping", "until": UNTIL}, f"until {UNTIL}"),
        (
            {"kind": "wait_for_event", "status": "waiting", "until": UNTIL, "awaits": AwaitedView(event="paid")},
            f"awaits paid, until {UNTIL}",
        ),
        (
            {"status": "waiting", "awaits": AwaitedView(event="paid", path="data.id", value=raw('"o-1"'))},
            'awaits paid with data.id "o-1"',
        ),
        (
            {"status": "waiting", "awaits": AwaitedView(event="paid", path="data.id", value=NULL)},
            "awaits paid with data.id null",
        ),
        (
            {"status": "waiting", "awaits": AwaitedView(event="paid", path="data.id", value=raw(f'"{"x" * 99}"'))},
            f'awaits paid with data.id "{"x" * 79}…',
        ),
        ({"kind": "invoke", "status": "waiting", "awaits": AwaitedView(function="pay")}, "awaits a run of pay"),
        ({"status": "retrying", "until": UNTIL, "error": _error()}, f"ValueError: no, again at {UNTIL}"),
        ({"status": "retrying", "error": _error()}, "ValueError: no"),
    ],
)
def test_an_open_step_is_shown_with_what_it_waits_for(changes: dict[str, Any], shown: str) -> None:
    step = step_view("a", output=NULL, finished_at=None, started_at="2026-11-21T20:03:00.000Z", **changes)
    line = format_run(running_view(), [step], NOW).splitlines()[-1]
    assert line.endswith(f"    {shown}")


def test_an_open_run_shows_only_what_there_is() -> None:
    view = running_view(event=EventView(id="e", name="n"), compensation="failed", error=_error())
    names = [line.split()[0] for line in format_run(view, [], NOW).splitlines()]
    assert names == ["run", "function", "queue", "status", "compensation", "event", "attempt", "started", "error"]
