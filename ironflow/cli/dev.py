"""``ironflow dev``: NATS, an engine and workers in one process tree, for development."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import click

from ironflow.cli.apps import AppError
from ironflow.cli.common import ExitCode, complain, run_async
from ironflow.cli.dev_session import Plan, Session, child_environment
from ironflow.cli.process import Interrupted
from ironflow.names import DEFAULT_NAMESPACE, Names

DEFAULT_PORT = 4222


@click.command()
@click.argument("apps", metavar="[APP]...", nargs=-1)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PORT,
    envvar="IRONFLOW_DEV_PORT",
    show_default=True,
    show_envvar=True,
    help="Port of the NATS server; where it is taken, a free one.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".ironflow"),
    envvar="IRONFLOW_DEV_DATA",
    show_default=True,
    show_envvar=True,
    help="Folder in which everything is kept.",
)
@click.option("--namespace", metavar="NAME", help="Ironflow namespace.  [env var: IRONFLOW_NAMESPACE]")
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=100,
    envvar="IRONFLOW_CONCURRENCY",
    show_default=True,
    show_envvar=True,
    help="Passes at a time, of each worker.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    envvar="IRONFLOW_DEV_WORKERS",
    show_default=True,
    show_envvar=True,
    help="How many worker processes.",
)
@click.option(
    "--reload/--no-reload",
    default=True,
    envvar="IRONFLOW_DEV_RELOAD",
    show_default=True,
    show_envvar=True,
    help="Replace the workers when a .py file beside or below the apps changes.",
)
@run_async
async def dev(
    apps: tuple[str, ...],
    *,
    port: int,
    data: Path,
    namespace: str | None,
    concurrency: int,
    workers: int,
    reload: bool,
) -> ExitCode:
    """Run NATS, an engine and workers for the functions of APP.

    APP is a module or a file that holds functions; without one, IRONFLOW_APP or [tool.ironflow] app counts.
    Data is kept from one time to the next. Ctrl-C ends everything.

    Example: ironflow dev examples/orders.py
    """
    from ironflow.settings import environment_app, environment_namespace  # noqa: PLC0415 - keeps --help fast

    if reload:
        require_watchfiles()
    plan = Plan(
        apps=apps or environment_app(),
        names=Names(namespace or environment_namespace() or DEFAULT_NAMESPACE),
        data=data,
        port=port,
        concurrency=concurrency,
        workers=workers,
        reload=reload,
        environment=child_environment(os.environ),
    )
    if not plan.apps:
        raise click.UsageError(
            "no APP: name a module or file that holds functions, like 'ironflow dev orders.py', or set "
            "IRONFLOW_APP or [tool.ironflow] app in pyproject.toml"
        )
    try:
        await Session(plan).run()
    except AppError as error:
        complain("\n".join((str(error), *error.details)))
        return ExitCode.USAGE if error.code == ExitCode.USAGE else ExitCode.FAILED
    except Interrupted:
        complain("interrupted")
        return ExitCode.INTERRUPTED
    return ExitCode.DONE


def require_watchfiles() -> None:
    """Refuse to go on where what watches files is not installed, and say how to install it."""
    if importlib.util.find_spec("watchfiles") is None:
        raise click.ClickException(
            'what reloads changed code is not installed. Run: pip install "ironflow-nats[dev-server]" '
            "(or use --no-reload)"
        )
