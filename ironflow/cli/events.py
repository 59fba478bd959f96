"""``ironflow events``."""

from __future__ import annotations

from functools import partial

import click

from ironflow.cli.command_group import CommandGroup
from ironflow.cli.common import (
    ConnectionOptions,
    connection_options,
    json_option,
    limit_option,
    open_client,
    run_async,
)
from ironflow.cli.output import document, format_age, format_json, print_json, print_table
from ironflow.cli.params import Parsed
from ironflow.triggers import check_trigger

PATTERN = Parsed("PATTERN", partial(check_trigger, what="pattern"))


@click.group(cls=CommandGroup)
def events() -> None:
    """List published events."""


@events.command("list")
@click.option("--name", type=PATTERN, help='Only those named so; "order.*" too.')
@limit_option
@connection_options
@json_option
@run_async
async def list_events(connection: ConnectionOptions, *, as_json: bool, name: str | None, limit: int) -> None:
    """List published events, newest first.

    Example: ironflow events list --name 'order.*' --limit 10
    """
    async with open_client(connection) as client:
        found = [event async for event in client.events(name=name, limit=limit)]
    if as_json:
        print_json([document(event) for event in found])
        return
    print_table(
        ("EVENT", "NAME", "AGE", "SOURCE", "DATA"),
        ((event.id, event.name, format_age(event.time), event.source, format_json(event.data)) for event in found),
        "no events",
    )
