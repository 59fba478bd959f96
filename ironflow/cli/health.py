"""The option that has a long-running process probed and scraped."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ironflow.telemetry.server import Observed

R = TypeVar("R")


def health_option(command: Callable[..., R]) -> Callable[..., R]:
    """Add ``--health-port``, also called ``--metrics-port``; the command gets it as ``health_port``."""
    decorate: Callable[[Callable[..., Any]], Callable[..., R]] = click.option(
        "--health-port",
        "--metrics-port",
        "health_port",
        type=click.IntRange(0, 65535),
        envvar=["IRONFLOW_HEALTH_PORT", "IRONFLOW_METRICS_PORT"],
        show_envvar=True,
        help="Serve /livez, /readyz and /metrics (Prometheus) there; 0 takes a free port and logs it.",
    )
    return decorate(command)


@contextlib.asynccontextmanager
async def served(port: int | None, process: Observed) -> AsyncGenerator[None]:
    """Let a process be probed and scraped while the block runs, where a port is given.

    Raises:
        ClickException: nobody can listen on the port.

    """
    from ironflow.telemetry.server import HealthServer  # noqa: PLC0415 - brings in Prometheus, which --help does without

    if port is None:
        yield
        return
    try:
        server = HealthServer(port, process)
    except OSError as error:
        raise click.ClickException(f"cannot serve metrics on port {port}: {error.strerror or error}") from error
    async with server:
        yield
