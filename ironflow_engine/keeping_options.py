"""The options of an engine that say what is kept, where and for how long."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import click

from ironflow.cli.params import KEPT
from ironflow.errors import DefinitionError
from ironflow.names import Names
from ironflow_engine.history import Archive

F = TypeVar("F", bound=Callable[..., object])


def keeping_options(command: F) -> F:
    """Add the options ``archive_url`` and ``retention`` (in milliseconds; 0 for ever) to a command."""
    command = click.option(
        "--retention",
        type=KEPT,
        default=0,
        envvar="IRONFLOW_RETENTION",
        show_default="for ever",
        show_envvar=True,
        help="How long NATS keeps runs after their end: 7d, say. With an archive, none goes that is not there.",
    )(command)
    return click.option(
        "--archive-url",
        metavar="URL",
        envvar="IRONFLOW_ARCHIVE_URL",
        show_envvar=True,
        help="postgresql://user:password@host:port/database, where runs, steps and events are kept for good. "
        "Set the variable instead of the option: other users of a machine see options.",
    )(command)


@contextlib.asynccontextmanager
async def opened_archive(url: str | None, names: Names) -> AsyncGenerator[Archive | None]:
    """Have an archive where one is wanted. It need not be reachable.

    Raises:
        DefinitionError: that is no URL of a Postgres database, or its driver is not installed.

    """
    if not url:
        yield None
        return
    try:
        from ironflow_engine.archive.archive import PostgresArchive  # noqa: PLC0415 - most engines do without asyncpg
    except ImportError as error:
        msg = "an archive needs asyncpg: pip install 'ironflow-nats[archive]'"
        raise DefinitionError(msg) from error
    archive = PostgresArchive(url, names)
    try:
        yield archive
    finally:
        await archive.close()
