"""Logs of the long-running processes: structlog and the standard library's, together on stderr.

The texts of exceptions may hold anything that user code has at hand: event data, passwords. So logs have the types of
exceptions and where they came from, and texts only on request. The texts are in the runs' records, which are read by
whoever may read the data of the runs.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click
import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

R = TypeVar("R")

LEVELS = ("debug", "info", "warning", "error")

ERROR_TEXT = "error_text"
"""The key of an exception's text in a log entry; it is left out where texts are."""

_NO_HALF_CLOSED_TLS = "returning true from eof_received() has no effect"

_KEPT_BREAKS = frozenset("\n\t")

_DEEPEST_SHOWN = 20
"""How many exceptions are shown of those that led to one another, or are groups within groups."""


def configure_logging(level: str = "info", *, json: bool = False, error_texts: bool = False) -> None:
    """Send all logs of this process to stderr; stdout is for data.

    Args:
        level: the least severe level that is shown, one of LEVELS.
        json: one JSON object a line, instead of text for people.
        error_texts: whether exceptions are shown with their texts, which may hold secrets of user code.

    """
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *common,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_says_something)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[
                *(() if error_texts else (_withhold_texts,)),
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(json=json),
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def logging_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options of logging, and configure logging with them before the command runs."""

    @functools.wraps(command)
    def with_logging(*args: Any, log_level: str, log_format: str, log_errors: str, **kwargs: Any) -> R:
        configure_logging(log_level, json=log_format == "json", error_texts=log_errors == "full")
        return command(*args, **kwargs)

    level = click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        envvar="IRONFLOW_LOG_LEVEL",
        show_default=True,
        show_envvar=True,
        help="Least severe level to log.",
    )
    form = click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        envvar="IRONFLOW_LOG_FORMAT",
        show_default=True,
        show_envvar=True,
        help="How log lines are written.",
    )
    errors = click.option(
        "--log-errors",
        type=click.Choice(["type", "full"]),
        default="type",
        envvar="IRONFLOW_LOG_ERRORS",
        show_default=True,
        show_envvar=True,
        help="Whether exceptions are logged with their texts, which may hold data and secrets.",
    )
    return level(form(errors(with_logging)))


def _renderers(*, json: bool) -> list[Processor]:
    if json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return [_without_controls, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_print_traceback)]


def _without_controls(_logger: object, _method: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape what would move the terminal's cursor: subjects, names and ids in lines may be of who has broken in."""
    return {_visible(str(key)): _visible(value) if isinstance(value, str) else value for key, value in entry.items()}


def _print_traceback(file: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    file.write(_visible(text.getvalue()))


def _visible(text: str) -> str:
    """Return a text with escapes in place of what is not shown; it keeps its lines."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in _KEPT_BREAKS else char.encode("unicode_escape").decode() for char in text
    )


def _says_something(record: logging.LogRecord) -> bool:
    """Leave out what asyncio says of each TLS connection that a server closes, before a line of ours that says why."""
    return not (record.name == "asyncio" and str(record.msg).startswith(_NO_HALF_CLOSED_TLS))


def _withhold_texts(_logger: object, _method: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace exceptions by what is no secret of them."""
    entry.pop(ERROR_TEXT, None)
    if entry.get("logger") == "asyncio":
        # What it adds to its first words are representations of tasks and arguments, with their exceptions.
        entry["event"] = str(entry["event"]).partition("\n")[0].partition("(")[0]
    error = _exception_of(entry.pop("exc_info", None))
    if error is not None:
        entry["exception"] = "\n".join(_without_texts(error, set(), 1))
    return entry


def _exception_of(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, tuple):
        return cast("BaseException | None", exc_info[1])
    if isinstance(exc_info, BaseException):
        return exc_info
    return sys.exc_info()[1] if exc_info else None


def _without_texts(error: BaseException, seen: set[int], depth: int) -> Iterator[str]:
    """Yield the lines of a traceback that has types and places, and no texts."""
    seen.add(id(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen:
        yield from _without_texts(cause, seen, depth + 1) if depth < _DEEPEST_SHOWN else ("…",)
        yield "which led to:"
    for frame in traceback.extract_tb(error.__traceback__):
        yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
    yield type(error).__qualname__
    if isinstance(error, BaseExceptionGroup):
        if depth == _DEEPEST_SHOWN:
            yield "  | …"
            return
        for each in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from (f"  | {line}" for line in _without_texts(each, seen, depth + 1))
