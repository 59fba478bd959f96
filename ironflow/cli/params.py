"""How texts of the command line become values. What is refused is a ValueError that says where and why."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar, cast

import click
import msgspec

from ironflow.clock import now_ms, parse_when
from ironflow.durations import parse_duration
from ironflow.errors import LimitError
from ironflow.events import check_event_id
from ironflow.limits import DEFAULT_LIMITS, check_payload

T = TypeVar("T")

_NUMBER = re.compile(r"\d+(\.\d+)?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_BYTE = re.compile(r" \(byte (\d+)\)$")
_TOO_FAR = ("invalid character", "trailing characters")
"""For these msgspec names a place behind the one that is meant: of "nope" it has read all that "null" has."""
_AROUND = 20
"""How many characters of a malformed text are shown on either side of the place."""


class Parsed(click.ParamType[T], Generic[T]):
    """An option or argument that a function reads.

    Args:
        name: what the help calls its value.
        parse: makes the value of the text; a ValueError is a usage error.

    """

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Return the value of a text; what is a value already stays as it is."""
        if not isinstance(value, str):
            return cast("T", value)
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_milliseconds(text: str) -> int:
    """Return a duration ("30s", "1h30m", or a number of seconds) in milliseconds."""
    return parse_duration(f"{text.strip()}s" if _NUMBER.fullmatch(text.strip()) else text, "it")


def parse_kept_milliseconds(text: str) -> int:
    """Return in milliseconds for how long something is kept; seconds for what was meant as days would delete it."""
    if _NUMBER.fullmatch(text.strip()) and float(text):
        msg = f"say of what unit it is, like {text.strip()}d for days or {text.strip()}s for seconds; got {text!r}"
        raise ValueError(msg)
    return parse_duration(text, "it")


def parse_since(text: str, now: int | None = None) -> int:
    """Return a point in time, in milliseconds: an ISO 8601 time, a date (its midnight, UTC), or how long ago ("1h").

    Args:
        text: what was written.
        now: the present, in milliseconds; default what the clock says.

    """
    try:
        return (now_ms() if now is None else now) - parse_duration(text, "it")
    except LimitError:
        raise
    except ValueError:
        pass
    try:
        return parse_when(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text, "it")
    except ValueError as error:
        msg = f"{error}; or say how long ago, like '1h'"
        raise ValueError(msg) from error


def parse_pair(text: str) -> tuple[str, str]:
    """Return key and value of "KEY=VALUE"; the value may hold further equals signs."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        msg = f"write KEY=VALUE, got {text!r}"
        raise ValueError(msg)
    return key, value


def parse_event_id(text: str) -> str:
    """Return an event's id, where it may have that one."""
    check_event_id(text)
    return text


def parse_data(text: str) -> msgspec.Raw:
    """Return JSON: the text itself, a file's for "@file", or stdin's for "-".

    Its numbers stay as they are written, and the spaces between its parts go.
    """
    where, content = _load(text)
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"{where} is not JSON: {locate(content, str(error))}"
        raise ValueError(msg) from error
    compact = msgspec.json.format(content, indent=-1)
    check_payload(compact, where, DEFAULT_LIMITS.payload_bytes)
    return msgspec.Raw(compact)


def _load(text: str) -> tuple[str, bytes]:
    if text == "-":
        return "stdin", sys.stdin.buffer.read()
    if not text.startswith("@"):
        return "it", text.encode("utf-8", "surrogateescape")
    if text == "@":
        msg = "name a file behind the '@', like @order.json"
        raise ValueError(msg)
    try:
        # Some editors and shells begin a file with a mark that JSON does not know.
        return text[1:], Path(text[1:]).read_bytes().removeprefix(b"\xef\xbb\xbf")
    except (OSError, ValueError) as error:
        msg = f"cannot read {text[1:]!r}: {getattr(error, 'strerror', None) or error}"
        raise ValueError(msg) from error


def locate(content: bytes, reason: str) -> str:
    """Return msgspec's complaint about JSON with line, column and what stands there, instead of the byte."""
    found = _BYTE.search(reason)
    ends_early = "truncated" in reason
    if not found and not ends_early:
        return reason
    offset = int(found[1]) if found else len(content.rstrip())
    if any(text in reason for text in _TOO_FAR):
        offset = min(offset, _first_misfit(content))
    before = content[:offset].decode("utf-8", "replace")
    line_start = before.rfind("\n") + 1
    column = len(before) - line_start
    line = (before[line_start:] + content[offset:].decode("utf-8", "replace")).split("\n")[0]
    explained = "it ends too early" if ends_early else _BYTE.sub("", reason).removeprefix("JSON is malformed: ")
    return f"line {before.count(chr(10)) + 1}, column {column + 1}: {explained}: {_excerpt(line, column)}"


def _first_misfit(content: bytes) -> int:
    """Return at which byte Python's own decoder stops; behind the end where it does not."""
    try:
        json.loads(content)
    except json.JSONDecodeError as error:
        return len(error.doc[: error.pos].encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        pass
    return len(content)


def _excerpt(line: str, column: int) -> str:
    start, end = max(0, column - _AROUND), column + _AROUND
    shown = line[start:column] + "⟨here⟩" + line[column:end]
    return f"{'…' if start else ''}{shown.strip()}{'…' if end < len(line) else ''}"


DURATION = Parsed("DURATION", parse_milliseconds)
KEPT = Parsed("DURATION", parse_kept_milliseconds)
SINCE = Parsed("TIME", parse_since)
PAIR = Parsed("KEY=VALUE", parse_pair)
EVENT_ID = Parsed("ID", parse_event_id)
DATA = Parsed("JSON", parse_data)
