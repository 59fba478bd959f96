"""``ironflow functions``."""

from __future__ import annotations

import click

from ironflow.broker.protocol import BrokerError
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
from ironflow.engine_api import EngineApi
from ironflow.errors import IronflowError
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
        having = await _workers_that_have(client.engine, id) if done.changed else 0
    if as_json:
        print_json({"id": id, "deleted": done.changed})
    if not done.changed:
        complain(f"no function {readable(id)}")
        return ExitCode.FAILED
    if not as_json:
        put(f"deleted {id}")
    if having:
        one = "1 worker still has its code, and registers it again when it starts"
        complain(one if having == 1 else f"{having} workers still have its code, and register it again when they start")
    return ExitCode.DONE


async def _workers_that_have(engine: EngineApi, function_id: str) -> int:
    """Return how many workers have a function's code; none where that cannot be found out, the function is ended."""
    try:
        workers = (await engine.workers()).workers
    except (BrokerError, IronflowError):
        return 0
    return sum(function_id in worker.functions for worker in workers)
