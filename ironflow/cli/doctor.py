"""``ironflow doctor``: what is wrong with an installation, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from ironflow.cli.common import (
    ConnectionOptions,
    ExitCode,
    connection_options,
    json_option,
    open_client,
    put,
    run_async,
)
from ironflow.cli.output import print_json, printable

if TYPE_CHECKING:
    from ironflow.doctor import Finding, Level

_COLORS: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "red", "unknown": "cyan"}
_MARGIN = " " * 9


@click.command()
@connection_options
@click.option(
    "--monitor-url",
    metavar="URL",
    envvar="IRONFLOW_MONITOR_URL",
    show_envvar=True,
    help="The NATS server's HTTP monitoring, like http://127.0.0.1:8222.",
)
@json_option
@run_async
async def doctor(connection: ConnectionOptions, monitor_url: str | None, *, as_json: bool) -> ExitCode:
    """Check server, streams, engine, workers and runs, and say what to do.

    Exits with 1 where it finds an error; warnings and what could not be learned do not count as one.
    """
    from ironflow.doctor import Examination  # noqa: PLC0415 - keeps --help fast
    from ironflow.settings import connection_settings  # noqa: PLC0415 - likewise

    settings = connection_settings(connection.nats_url, connection.creds, connection.context)
    async with open_client(connection) as client:
        examination = Examination(
            client.broker,
            client.names,
            nats_urls=settings.urls,
            monitor_url=monitor_url,
            api_prefix=settings.api_prefix,
        )
        findings = await examination.findings()
    if as_json:
        print_json(findings)
    else:
        print_findings(findings)
    return ExitCode.FAILED if any(finding.level == "error" for finding in findings) else ExitCode.DONE


def print_findings(findings: Iterable[Finding]) -> None:
    """Print findings for people: one line each, and below it what to do."""
    for finding in findings:
        level = click.style(f"{finding.level:<{len(_MARGIN)}}", fg=_COLORS[finding.level])
        put(f"{level}{finding.check}: {printable(finding.text)}")
        if finding.advice:
            put(f"{_MARGIN}→ {printable(finding.advice)}")
