"""Logs of the long-running processes: structlog and the standard library's, together on stderr."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

R = TypeVar("R")

LEVELS = ("debug", "info", "warning", "error")


def configure_logging(level: str = "info", *, json: bool = False) -> None:
    """Send all logs of this process to stderr; stdout is for data.

    Args:
        level: the least severe level that is shown, one of LEVELS.
        json: one JSON object a line, instead of text for people.

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
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(json=json)],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def logging_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add ``--log-level`` and ``--log-format``, and configure logging with them before the command runs."""

    @functools.wraps(command)
    def with_logging(*args: Any, log_level: str, log_format: str, **kwargs: Any) -> R:
        configure_logging(log_level, json=log_format == "json")
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
    return level(form(with_logging))


def _renderers(*, json: bool) -> list[Processor]:
    if json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
