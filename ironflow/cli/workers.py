"""``ironflow workers``."""

from __future__ import annotations

import click

from ironflow.cli.command_group import CommandGroup
from ironflow.cli.common import ConnectionOptions, connection_options, json_option, open_client, run_async
from ironflow.cli.output import document, format_age, print_json, print_table


@click.group(cls=CommandGroup)
def workers() -> None:
    """List the workers that answer."""


@workers.command("list")
@connection_options
@json_option
@run_async
async def list_workers(connection: ConnectionOptions, *, as_json: bool) -> None:
    """List the workers that answer just now.

    Example: ironflow workers list
    """
    async with open_client(connection) as client:
        found = (await client.engine.workers()).workers
    if as_json:
        print_json([document(worker) for worker in found])
        return
    print_table(
        ("WORKER", "HOST", "PID", "BUSY", "STATE", "AGE", "VERSION", "QUEUES"),
        (
            (
                worker.id,
                worker.host,
                worker.pid,
                f"{worker.running}/{worker.concurrency}",
                "draining" if worker.draining else "ready",
                format_age(worker.started_at),
                worker.version,
                ", ".join(worker.queues),
            )
            for worker in found
        ),
        "no worker answers",
    )
