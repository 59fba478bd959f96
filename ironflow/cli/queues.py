"""``ironflow queues``."""

from __future__ import annotations

import click

from ironflow.cli.command_group import CommandGroup
from ironflow.cli.common import ConnectionOptions, connection_options, json_option, open_client, run_async
from ironflow.cli.output import document, print_json, print_table


@click.group(cls=CommandGroup)
def queues() -> None:
    """List queues and how full they are."""


@queues.command("list")
@connection_options
@json_option
@run_async
async def list_queues(connection: ConnectionOptions, *, as_json: bool) -> None:
    """List the queues of all registered functions, with the tasks that wait and that workers have.

    Example: ironflow queues list
    """
    async with open_client(connection) as client:
        found = (await client.engine.queues()).queues
    if as_json:
        print_json([document(queue) for queue in found])
        return
    print_table(
        ("QUEUE", "WAITING", "RUNNING", "REDELIVERED", "FUNCTIONS"),
        ((queue.name, queue.waiting, queue.running, queue.redelivered, ", ".join(queue.functions)) for queue in found),
        "no queues; a worker registers functions, and they name their queues",
    )
