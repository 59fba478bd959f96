"""``ctx.log``: a logger whose lines keep what they say of the run, whatever a handler calls its own facts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import structlog

_TAKEN = frozenset(
    {
        *("run", "function", "step", "attempt"),  # what lines are found by
        *("level", "logger", "timestamp", "error_text"),  # what is set, or left out, when a line is written
        *("self", "method_name", "positional_args"),  # what structlog calls arguments of its own
    }
)
_NAMED_AS_ARGUMENTS = frozenset({"event", "level"})
"""What may be given by name in place of the message and, to ``log``, of its level."""

_LOGS = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "a")
    for name in ("debug", "info", "warning", "warn", "error", "critical", "fatal", "exception", "log")
)
_BINDS = frozenset({"bind", "new", "unbind", "try_unbind"})
_OWN = frozenset({"_make_logger", "_logger"})


def run_log(make_logger: Callable[[], Any]) -> structlog.stdlib.BoundLogger:
    """Return a logger that writes a fact whose name is taken under that name with an underscore behind it.

    Args:
        make_logger: returns what it logs to, any logger of structlog's; called when it is first used, since most
            passes log nothing.

    """
    return cast("structlog.stdlib.BoundLogger", _RunLog(make_logger))


class _RunLog:
    def __init__(self, make_logger: Callable[[], Any]) -> None:
        self._make_logger = make_logger

    @functools.cached_property
    def _logger(self) -> Any:
        return self._make_logger()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in _OWN:  # what copies and pickles asks for it before there is a logger
            raise AttributeError(name)
        attribute = getattr(self._logger, name)
        if name in _LOGS:
            return functools.partial(_log, attribute)
        return functools.partial(_bind, attribute) if name in _BINDS else attribute


def _log(write: Callable[..., Any], /, *message: Any, **facts: Any) -> Any:
    return write(*message, **_renamed(facts, _TAKEN | _NAMED_AS_ARGUMENTS if message else _TAKEN - _NAMED_AS_ARGUMENTS))


def _bind(bind: Callable[..., Any], /, *keys: str, **facts: Any) -> _RunLog:
    bound = bind(*keys, **_renamed(facts, _TAKEN | _NAMED_AS_ARGUMENTS))
    return _RunLog(lambda: bound)


def _renamed(facts: dict[str, Any], taken: frozenset[str]) -> dict[str, Any]:
    """Return facts under names that are free."""
    if taken.isdisjoint(facts):
        return facts
    renamed = {name: fact for name, fact in facts.items() if name not in taken}
    for name in filter(taken.__contains__, facts):
        free = f"{name}_"
        while free in renamed:
            free += "_"
        renamed[free] = facts[name]
    return renamed
