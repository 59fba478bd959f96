"""``ironflow-worker``: one worker as a process."""

from __future__ import annotations

import json
from typing import Any

import click

from ironflow.cli.common import (
    ConnectionOptions,
    ExitCode,
    connection_options_with_shards,
    errors_as_exit_codes,
    put,
    run_async,
)
from ironflow.cli.health import health_option, served
from ironflow.cli.logs import logging_options
from ironflow.cli.params import DURATION
from ironflow.cli.process import StopSignals, collect_rarely, connector, first_of, has_started, names_of, opened
from ironflow.errors import DefinitionError, LimitError
from ironflow.function import Function, check_queue
from ironflow.logs import get_logger
from ironflow.settings import environment_app
from ironflow.version import __version__
from ironflow_worker.leases import ThreadLeaseKeeper
from ironflow_worker.loader import load_functions
from ironflow_worker.worker import Worker, WorkerSettings

_log = get_logger("ironflow.worker")

_COLLECT_AFTER_OBJECTS = 50_000
"""With 10,000, and 600 passes at a time, the collector took a twelfth of a worker's time."""

_DEFAULTS = WorkerSettings(queues=())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("apps", metavar="[APP]...", nargs=-1)
@click.option("--queue", "queues", metavar="QUEUE", multiple=True, help="Queue to pull from; may be repeated.")
@connection_options_with_shards
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=_DEFAULTS.concurrency,
    envvar="IRONFLOW_CONCURRENCY",
    show_default=True,
    show_envvar=True,
    help="Passes at a time, shared evenly between the queues and their shards.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=_DEFAULTS.threads,
    envvar="IRONFLOW_THREADS",
    show_default="min(32, cores + 4)",
    show_envvar=True,
    help="Plain step bodies at a time.",
)
@click.option(
    "--drain-timeout",
    "drain_ms",
    type=DURATION,
    default="30s",
    envvar="IRONFLOW_DRAIN_TIMEOUT",
    show_default=True,
    show_envvar=True,
    help="How long passes may take to end after SIGTERM.",
)
@health_option
@click.option("--describe", is_flag=True, help="Print the functions of the apps as JSON, and exit.")
@logging_options
@click.version_option(__version__, prog_name="ironflow-worker")
@run_async
async def worker(
    apps: tuple[str, ...],
    *,
    queues: tuple[str, ...],
    connection: ConnectionOptions,
    concurrency: int,
    threads: int,
    drain_ms: int,
    health_port: int | None,
    describe: bool,
) -> ExitCode:
    """Run a worker: it executes the functions of its queues.

    APP is a module or a file that holds functions; without one, IRONFLOW_APP or [tool.ironflow] app counts.
    SIGTERM takes no more tasks and finishes or hands back what is at work; a second one leaves at once.

    Example: ironflow-worker --queue orders examples/orders.py
    """
    functions = load_functions(_apps(apps))
    if describe:
        put(json.dumps([_description(functions[key]) for key in sorted(functions)]))
        return ExitCode.DONE
    settings = WorkerSettings(
        queues=_queues(queues), concurrency=concurrency, threads=threads, drain_seconds=drain_ms / 1000
    )
    names, connect = names_of(connection), connector(connection)
    collect_rarely(_COLLECT_AFTER_OBJECTS)
    async with opened(connect) as broker:
        signals = StopSignals()
        running = Worker(
            broker, names, functions, settings, lambda leases, be_seen: ThreadLeaseKeeper(leases, connect, be_seen)
        )
        async with served(health_port, running):
            if not await has_started(signals, running.start()):
                return ExitCode.INTERRUPTED
            try:
                await first_of(signals.first.wait(), running.wait())
                await first_of(signals.second.wait(), running.drain())
            finally:
                await running.stop()
    return ExitCode.DONE


def _apps(given: tuple[str, ...]) -> tuple[str, ...]:
    apps = given or environment_app()
    if not apps:
        msg = (
            "no APP: name a module or file that holds functions, like 'ironflow-worker --queue orders orders.py', "
            "or set IRONFLOW_APP or [tool.ironflow] app in pyproject.toml"
        )
        raise click.UsageError(msg)
    return apps


def _queues(given: tuple[str, ...]) -> tuple[str, ...]:
    if not given:
        msg = "no queue: say which with --queue, like 'ironflow-worker --queue orders …'; it may be repeated"
        raise click.UsageError(msg)
    try:
        return tuple(dict.fromkeys(check_queue(queue) for queue in given))
    except (DefinitionError, LimitError) as error:
        raise click.UsageError(str(error)) from error


def _description(function: Function[Any, Any]) -> dict[str, Any]:
    return {
        "id": function.id,
        "queue": function.queue,
        "triggers": list(function.triggers),
        "unreadable": function.unreadable,
    }


def main() -> None:
    """Run the command line of this process."""
    with errors_as_exit_codes():
        worker(prog_name="ironflow-worker")
