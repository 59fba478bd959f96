"""``ironflow functions``."""

from __future__ import annotations

import click

from ironflow.cli.command_group import CommandGroup
from ironflow.cli.common import (
    ConnectionOptions,
    ExitCode,
    complain,
    connection_options,
    json_option,
    open_client,
    put,
    run_async,
)
from ironflow.cli.output import document, print_json, print_table
from ironflow.durations import format_milliseconds
from ironflow.names import readable


@click.group(cls=CommandGroup)
def functions() -> None:
    """List and delete registered functions."""


@functions.command("list")
@connection_options
@json_option
@run_async
async def list_functions(connection: ConnectionOptions, *, as_json: bool) -> None:
    """List the functions that workers have registered.

    Example: ironflow functions list --json
    """
    async with open_client(connection) as client:
        found = (await client.engine.functions()).functions
    if as_json:
        print_json([document(function) for function in found])
        return
    print_table(
        ("FUNCTION", "QUEUE", "ATTEMPTS", "TIMEOUT", "TRIGGERS"),
        (
            (
                function.id,
                function.queue,
                function.max_attempts,
                "" if function.timeout_ms is None else format_milliseconds(function.timeout_ms),
                ", ".join(function.triggers),
            )
            for function in found
        ),
        "no functions; a worker registers those of its queues",
    )


@functions.command("delete")
@click.argument("id")
@connection_options
@json_option
@run_async
async def delete_function(connection: ConnectionOptions, *, as_json: bool, id: str) -> ExitCode:
    """Start no more runs of a function; those that run go on.

    A worker that still has it registers it again when it starts.

    Example: ironflow functions delete process-order
    """
    async with open_client(connection) as client:
        done = await client.engine.delete_function(id)
    if as_json:
        print_json({"id": id, "deleted": done.changed})
    if not done.changed:
        complain(f"no function {readable(id)}")
        return ExitCode.FAILED
    if not as_json:
        put(f"deleted {id}")
    return ExitCode.DONE
