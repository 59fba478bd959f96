"""What commands print: JSON for programs, tables and views for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from ironflow.cli.common import put
from ironflow.clock import now_ms, parse_when
from ironflow.durations import format_milliseconds
from ironflow.errors import DefinitionError, named_error
from ironflow.names import step_path

if TYPE_CHECKING:
    from ironflow.messages import AwaitedView, ErrorView, RunView, StepView

_SECOND = 1_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR

_INTERNAL = frozenset({"left_out"})
"""Fields of answers that tell this program what to fetch besides; nobody else needs them."""

_NOTHING = ("", "null")
_VALUE_SHOWN = 80
"""So much is shown to people of a value that is waited for, which may have kilobytes."""


# JSON


def print_json(value: object) -> None:
    """Print one JSON document; parts of runs and events that are JSON already are embedded as they are."""
    put(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_json_line(value: object) -> None:
    """Print a JSON document as one line."""
    put(msgspec.json.format(msgspec.json.encode(value), indent=-1))


def document(view: msgspec.Struct) -> dict[str, object]:
    """Return what ``--json`` shows of an answer."""
    return {field: getattr(view, field) for field in view.__struct_fields__ if field not in _INTERNAL}


def run_document(view: RunView, steps: Iterable[StepView] | None = None) -> dict[str, object]:
    """Return what ``--json`` shows of a run; without *steps* it has no such field."""
    shown = document(view)
    return shown if steps is None else {**shown, "steps": [_step_document(step) for step in steps]}


def _step_document(step: StepView) -> dict[str, object]:
    shown = document(step)
    # It is said of the few steps of which it is true.
    for field in ("unasked", "until", "awaits"):
        if not shown[field]:
            del shown[field]
    return shown


# Tables


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], nothing: str) -> None:
    """Print a table in which nothing is cut off.

    Args:
        headers: the columns' names.
        rows: a value for each column.
        nothing: what is said on stderr where there are no rows.

    """
    text = format_table(headers, rows)
    if text:
        put(text)
    else:
        click.echo(nothing, err=True)


def format_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as text; empty without rows."""
    from tabulate import tabulate  # noqa: PLC0415 - a command that prints no table starts sooner without it

    cells = [[printable(str(cell)) for cell in row] for row in rows]
    if not cells:
        return ""
    # The last column may hold whole payloads: padded to the longest, every line would be as long as it.
    table = tabulate(
        [[*row[:-1], "."] for row in cells], headers=[*headers[:-1], "."], tablefmt="plain", disable_numparse=True
    )
    last = [headers[-1], *(row[-1] for row in cells)]
    return "\n".join((line[:-1] + end).rstrip() for line, end in zip(table.splitlines(), last, strict=True))


def printable(text: str) -> str:
    """Return a text on one line, without what would move a terminal's cursor."""
    if text.isprintable():
        return text
    line = " ".join(part.strip() for part in text.splitlines())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


# Times


def format_age(time: str, now: int | None = None) -> str:
    """Return how long ago an ISO 8601 time was: "42s", "5m", "3h", "12d"; what is no such time as it is.

    The times of events are their publishers', who may have another notion of time, and must not hide all other events.
    """
    try:
        age = max(0, (now_ms() if now is None else now) - parse_when(time))
    except DefinitionError:
        return time
    for unit, size, until in (("s", _SECOND, _MINUTE), ("m", _MINUTE, _HOUR), ("h", _HOUR, 2 * _DAY)):
        if age < until:
            return f"{age // size}{unit}"
    return f"{age // _DAY}d"


def format_elapsed(start: str, end: str | None, now: int | None = None) -> str:
    """Return the time between two ISO 8601 times: "12ms", "1.5s", "2m5s"; up to now without an end."""
    until = parse_when(end) if end else now_ms() if now is None else now
    elapsed = max(0, until - parse_when(start))
    if elapsed < _SECOND:
        return f"{elapsed}ms"
    if elapsed < _MINUTE:
        return f"{elapsed / _SECOND:.1f}s"
    return format_milliseconds(elapsed // _SECOND * _SECOND)


# Runs


def print_runs(views: Iterable[RunView]) -> None:
    """Print a table of runs."""
    print_table(
        ("RUN", "FUNCTION", "STATUS", "AGE", "TOOK", "EVENT"),
        (
            (
                view.id,
                view.function,
                format_status(view.status, view.compensation),
                format_age(view.started_at),
                format_elapsed(view.started_at, view.finished_at),
                f"{view.event.name} {view.event.id}",
            )
            for view in views
        ),
        "no runs",
    )


def format_status(status: str, compensation: str | None) -> str:
    """Return a run's status, with what somebody has to see to by hand."""
    return f"{status} (undo failed)" if compensation == "failed" else status


def format_run(view: RunView, steps: Sequence[StepView], now: int | None = None) -> str:
    """Return a run with its steps, for people."""
    facts = [
        ("run", view.id),
        ("function", view.function),
        ("queue", view.queue),
        ("status", view.status),
        ("compensation", view.compensation),
        ("event", f"{view.event.name} {view.event.id}"),
        ("data", format_json(view.event.data)),
        ("attempt", view.attempt),
        ("started", f"{view.started_at} ({format_age(view.started_at, now)} ago)"),
        ("finished", _finish(view)),
        ("output", format_json(view.output)),
        ("error", format_error(view.error)),
    ]
    lines = [f"{name:<13}{printable(str(fact))}" for name, fact in facts if fact]
    if steps:
        lines += ["", _steps_table(steps, now)]
    unasked = [printable(path_of(step)) for step in steps if step.unasked]
    if unasked:
        lines += ["", f"recorded, but the code did not ask for it any more: {', '.join(unasked)}"]
    return "\n".join(lines)


def _finish(view: RunView) -> str:
    if view.finished_at is None:
        return ""
    return f"{view.finished_at} (after {format_elapsed(view.started_at, view.finished_at)})"


def _steps_table(steps: Iterable[StepView], now: int | None) -> str:
    return format_table(
        ("STEP", "KIND", "STATUS", "ATTEMPT", "TOOK", "RESULT"),
        [
            (
                path_of(step),
                step.kind,
                step.status,
                step.attempt,
                format_elapsed(step.started_at, step.finished_at, now),
                _outcome_of(step),
            )
            for step in steps
        ],
    )


def _outcome_of(step: StepView) -> str:
    """Return what has come of a step, or what it waits for."""
    parts = [format_error(step.error) or format_json(step.output)]
    if step.awaits is not None:
        parts.append(_format_awaited(step.awaits))
    if step.until is not None:
        parts.append(f"{'again at' if step.status == 'retrying' else 'until'} {step.until}")
    return ", ".join(part for part in parts if part)


def _format_awaited(awaited: AwaitedView) -> str:
    if awaited.function:
        return f"awaits a run of {awaited.function}"
    value = format_json(awaited.value) or "null"
    shown = value if len(value) <= _VALUE_SHOWN else f"{value[:_VALUE_SHOWN]}…"
    return f"awaits {awaited.event}" + ("" if awaited.path is None else f" with {awaited.path} {shown}")


def path_of(step: StepView) -> str:
    """Return a step's name behind the parallels around it."""
    return step_path(step.scope, step.name)


def format_error(error: ErrorView | None) -> str:
    """Return an error as a text; empty for none."""
    if error is None:
        return ""
    details = [
        f"step {error.step}" if error.step else "",
        f"{error.attempts} attempt{'s' if error.attempts > 1 else ''}" if error.attempts else "",
        f"at {error.path}" if error.path else "",
    ]
    known = ", ".join(detail for detail in details if detail)
    return named_error(error.type, error.message) + (f" ({known})" if known else "")


def format_json(payload: msgspec.Raw) -> str:
    """Return JSON as a text; empty for null."""
    text = bytes(payload).decode("utf-8", "replace")
    return "" if text in _NOTHING else text
