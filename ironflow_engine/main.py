"""``ironflow-engine``: one engine as a process."""

from __future__ import annotations

import asyncio

import click

from ironflow.broker.protocol import Broker
from ironflow.broker.topology import TASK_LEASE_SECONDS
from ironflow.cli.common import (
    ConnectionOptions,
    ExitCode,
    connection_options_with_shards,
    errors_as_exit_codes,
    run_async,
)
from ironflow.cli.health import health_option, served
from ironflow.cli.logs import logging_options
from ironflow.cli.params import Parsed, parse_milliseconds
from ironflow.cli.process import StopSignals, collect_rarely, connector, first_of, has_started, names_of, opened
from ironflow.doctor.monitor import look
from ironflow.doctor.server import check_sync
from ironflow.durations import format_milliseconds
from ironflow.logs import get_logger
from ironflow.settings import connection_settings
from ironflow.version import __version__
from ironflow_engine.engine import Engine, EngineSettings
from ironflow_engine.keeping_options import keeping_options, opened_archive

_log = get_logger("ironflow.engine")

_COLLECT_AFTER_OBJECTS = 10_000
"""It has fewer objects at a time than a worker, and so less to gain; until then, what is in cycles stays."""

_SHORTEST_LEASE_MS = 500
"""With less, a busy moment costs a worker its tasks."""


def _parse_lease(text: str) -> int:
    lease = parse_milliseconds(text)
    if lease < _SHORTEST_LEASE_MS:
        msg = f"it must be at least {format_milliseconds(_SHORTEST_LEASE_MS)}, got {text!r}"
        raise ValueError(msg)
    return lease


LEASE = Parsed("DURATION", _parse_lease)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@connection_options_with_shards
@click.option(
    "--read-model",
    type=click.Path(dir_okay=False),
    default="",
    envvar="IRONFLOW_READ_MODEL",
    show_default="a temporary file",
    show_envvar=True,
    help="File that lists are answered from; made anew when missing. ':memory:' for none.",
)
@click.option(
    "--replicas",
    type=click.IntRange(1, 5),
    default=1,
    envvar="IRONFLOW_REPLICAS",
    show_default=True,
    show_envvar=True,
    help="On how many servers each stream is kept; 3 on a cluster.",
)
@click.option(
    "--lease",
    "lease_ms",
    type=LEASE,
    default=f"{TASK_LEASE_SECONDS:g}s",
    envvar="IRONFLOW_LEASE",
    show_default=True,
    show_envvar=True,
    help="How long a worker keeps a task without renewing it.",
)
@click.option(
    "--monitor-url",
    metavar="URL",
    envvar="IRONFLOW_MONITOR_URL",
    show_envvar=True,
    help="The server's monitoring endpoint; default port 8222 of the NATS host. Tells whether it syncs.",
)
@keeping_options
@health_option
@logging_options
@click.version_option(__version__, prog_name="ironflow-engine")
@run_async
async def engine(
    connection: ConnectionOptions,
    *,
    read_model: str,
    replicas: int,
    lease_ms: int,
    monitor_url: str | None,
    archive_url: str | None,
    retention: int,
    health_port: int | None,
) -> ExitCode:
    """Run an engine: it decides what runs, and needs nothing but NATS.

    Any number may run at once; losing all but one changes nothing.

    Example: ironflow-engine --nats-url nats://127.0.0.1:4222
    """
    names = names_of(connection)
    settings = EngineSettings(
        read_model=read_model, replicas=replicas, lease_seconds=lease_ms / 1000, retention_ms=retention
    )
    collect_rarely(_COLLECT_AFTER_OBJECTS)
    async with opened_archive(archive_url, names) as archive, opened(connector(connection)) as broker:
        signals = StopSignals()
        running = Engine(broker, names, settings, archive=archive)
        async with served(health_port, running):
            if not await has_started(signals, running.start()):
                return ExitCode.INTERRUPTED
            checking = asyncio.create_task(_warn_of_weak_sync(connection, broker, monitor_url))
            try:
                await first_of(signals.first.wait(), running.wait())
            finally:
                checking.cancel()
                await first_of(signals.second.wait(), running.stop())
    return ExitCode.DONE


async def _warn_of_weak_sync(connection: ConnectionOptions, broker: Broker, monitor_url: str | None) -> None:
    """Say in the log where the server acknowledges before it has written to disk."""
    urls = connection_settings(connection.nats_url, connection.creds, connection.context).urls
    finding = check_sync(await look(monitor_url, urls, broker.server.id))
    if finding.level == "warning":
        _log.warning(finding.text, advice=finding.advice)
    elif finding.level == "unknown":
        _log.info(finding.text, advice=finding.advice)


def main() -> None:
    """Run the command line of this process."""
    with errors_as_exit_codes():
        engine(prog_name="ironflow-engine")
