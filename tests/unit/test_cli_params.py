"""How texts of the command line become values."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.cli.params import parse_data, parse_kept_milliseconds, parse_milliseconds, parse_pair, parse_since

NOW = 1_795_291_380_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(("text", "milliseconds"), [("30", 30_000), ("1.5", 1_500), ("2m", 120_000), (" 5 ", 5_000)])
def test_a_bare_number_is_a_duration_in_seconds(text: str, milliseconds: int) -> None:
    assert parse_milliseconds(text) == milliseconds


@pytest.mark.parametrize("parse", [parse_milliseconds, parse_kept_milliseconds])
@pytest.mark.parametrize("text", ["", "nan", "inf", "-5", "1e3", "0", "5 minutes"])
def test_other_texts_are_no_durations(parse: Callable[[str], int], text: str) -> None:
    with pytest.raises(ValueError, match="it must be"):
        parse(text)


@pytest.mark.parametrize("text", ["30", " 1.5 ", "0.5"])
def test_how_long_something_is_kept_needs_a_unit(text: str) -> None:
    with pytest.raises(
        ValueError, match=rf"like {text.strip()}d for days or {text.strip()}s for seconds; got '{text}'"
    ):
        parse_kept_milliseconds(text)
    assert parse_kept_milliseconds("30d") == 30 * 86_400_000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1h", NOW - 3_600_000),
        ("2026-11-21T20:03:00Z", NOW),
        ("2026-11-21T21:03:00+01:00", NOW),
        ("2026-11-21", NOW - 72_180_000),
    ],
)
def test_since_is_how_long_ago_or_a_time(text: str, milliseconds: int) -> None:
    assert parse_since(text, NOW) == milliseconds


@pytest.mark.parametrize(
    ("text", "key", "value"), [("a=b", "a", "b"), ("a=b=c", "a", "b=c"), ("a=", "a", ""), (" a= b", " a", " b")]
)
def test_a_pair_is_split_at_its_first_equals_sign(text: str, key: str, value: str) -> None:
    assert parse_pair(text) == (key, value)


@given(JSON)
def test_all_json_is_accepted_and_keeps_its_meaning(value: object) -> None:
    text = json.dumps(value, indent=2)
    assert json.loads(bytes(parse_data(text))) == json.loads(text)


@pytest.mark.parametrize("text", ["1.00", "1e5", "123456789012345678901234567890", '{"a":-0.0}'])
def test_numbers_stay_as_they_were_written(text: str) -> None:
    assert bytes(parse_data(text)) == text.encode()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a":1,}', 'line 1, column 8: trailing comma in object: {"a":1,⟨here⟩}'),
        ('{"ü": 1\n\t"b": 2}', "line 2, column 2: expected ',' or '}': ⟨here⟩\"b\": 2}"),
        ('{"ü" 1}', "line 1, column 6: expected ':': {\"ü\" ⟨here⟩1}"),
        ('{"a": [1, 2', "line 1, column 12: it ends too early"),
        ("Infinity", "line 1, column 1: invalid character: ⟨here⟩Infinity"),
        ("'single'", "line 1, column 1: invalid character"),
        ('{"ü": [nope]}', 'line 1, column 8: invalid character: {"ü": [⟨here⟩nope]}'),
        ("1 2", "line 1, column 3: trailing characters: 1 ⟨here⟩2"),
        ("1e400", "out of range"),
        ("[" * 100_000, "recursion"),
        ('"\udcff"', "is not JSON"),
    ],
)
def test_what_is_not_json_is_refused_with_the_place(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r"^it is not JSON: ") as caught:
        parse_data(text)
    assert complaint in str(caught.value)


def test_a_long_line_is_shown_around_the_place() -> None:
    with pytest.raises(ValueError, match="column 105") as caught:
        parse_data(json.dumps(["x" * 100])[:-1] + " y" + "z" * 100 + "]")
    assert str(caught.value).endswith(': …xxxxxxxxxxxxxxxxxx" ⟨here⟩yzzzzzzzzzzzzzzzzzzz…')


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"a": \xc3}', b"\x00", b""])
def test_any_bytes_in_a_file_are_accepted_or_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "data.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.json is not JSON: "):
        parse_data(f"@{file}")


@pytest.mark.parametrize("name", ["missing.json", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^cannot read "):
        parse_data(f"@{name}")


def test_a_file_that_is_not_named_is_asked_for() -> None:
    with pytest.raises(ValueError, match="name a file behind the '@'"):
        parse_data("@")


def test_stdin_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"[1, 2]\n")))
    assert parse_data("-") == msgspec.Raw(b"[1,2]")
