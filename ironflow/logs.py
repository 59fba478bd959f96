"""Loggers of ours that keep to what the process has decided about logs, since it may be somebody else's.

Left alone, structlog prints everything to stdout, which in a program that uses us is for the program's data. So where
nobody has configured structlog, our lines go through the standard library's logging: warnings to stderr, and less
severe ones only where that is configured. Our own commands configure structlog, and so may the program.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import structlog

_PASSED_ON = ("exc_info", "stack_info")
"""What the standard library's loggers know themselves."""


def get_logger(name: str, **bound: Any) -> structlog.stdlib.BoundLogger:
    """Return a logger.

    Args:
        name: what the standard library calls it.
        bound: what all of its lines say.

    """
    return cast("structlog.stdlib.BoundLogger", _Logger(name, bound))


class _Logger:
    """Looks whether structlog is configured each time it is used: loggers are made before programs configure it."""

    def __init__(self, name: str, bound: dict[str, Any]) -> None:
        self._name = name
        self._bound = bound

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # what copies and pickles asks for it before there is a name
            raise AttributeError(attribute)
        if structlog.is_configured():
            return getattr(structlog.get_logger(self._name, **self._bound), attribute)
        plain = structlog.wrap_logger(
            logging.getLogger(self._name),
            processors=_PROCESSORS,
            wrapper_class=structlog.stdlib.BoundLogger,
            **self._bound,
        )
        return getattr(plain, attribute)


def _as_text(
    _logger: object, _method: str, entry: structlog.typing.EventDict
) -> tuple[tuple[str], structlog.typing.EventDict]:
    """Return what a method of the standard library's loggers is called with."""
    passed_on = {key: entry.pop(key) for key in _PASSED_ON if key in entry}
    text = str(entry.pop("event", ""))
    facts = (f"{key}={value!r}" for key, value in entry.items())
    return (" ".join((text, *facts)),), passed_on


_PROCESSORS: tuple[structlog.typing.Processor, ...] = (
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.PositionalArgumentsFormatter(),
    _as_text,
)
