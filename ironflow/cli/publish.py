"""``ironflow publish``."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.core import ParameterSource

from ironflow.broker.protocol import BrokerError
from ironflow.cli.common import (
    ConnectionOptions,
    ExitCode,
    complain,
    connection_options,
    describe_error,
    exit_code_of,
    json_option,
    open_client,
    put,
    run_async,
)
from ironflow.cli.output import format_error, format_json, format_status, print_json, print_table
from ironflow.cli.params import DATA, DURATION, EVENT_ID, PAIR, Parsed
from ironflow.durations import format_milliseconds
from ironflow.engine_api import EngineApi
from ironflow.errors import EngineUnavailableError, IronflowError, RunNotFoundError
from ironflow.messages import ErrorView
from ironflow.triggers import check_event_name, matches

if TYPE_CHECKING:
    from ironflow.client import Client, Published
    from ironflow.handles import RunHandle
    from ironflow.messages import RunView

PUBLISH_SECONDS = 3.0
"""Leaves a command time to say so within the five seconds that it may take."""
_MATCH_SECONDS = 5.0
"""The engine is asked again after this long: one that dies while it answers costs no more of the time-out."""
_PAUSE_SECONDS = 0.1
_QUICK_SECONDS = 0.5
"""What is only a courtesy must not keep anybody waiting for longer."""


class RunResult(msgspec.Struct, kw_only=True):
    """What is told of a run that the event started; only its id where it could not be asked for."""

    id: str
    function: str | None = None
    status: str | None = None
    compensation: str | None = None
    output: msgspec.Raw | None = None
    error: ErrorView | None = None


class _Publish(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Say where data goes that stands right behind the event's name."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if not error.message.startswith("Got unexpected extra argument"):
                raise
            msg = f"{error.message}; an event's data goes behind --data: ironflow publish order.placed --data '{{…}}'"
            raise click.UsageError(msg, ctx) from error


@click.command(cls=_Publish)
@click.argument("event", type=Parsed("EVENT", check_event_name))
@click.option("--data", type=DATA, help='Payload: JSON, @file, or "-" for stdin.  [default: null]')
@click.option(
    "--id", type=EVENT_ID, help="Publishing again with the same id has no effect, and says so.  [default: a random one]"
)
@click.option("--source", default="", envvar="IRONFLOW_SOURCE", show_envvar=True, help="Who publishes.")
@click.option("--metadata", type=PAIR, multiple=True, help="A text beside the payload; repeatable.")
@click.option("--wait", is_flag=True, help="Wait for the runs that it starts and print their output.")
@click.option(
    "--timeout",
    type=DURATION,
    default="30s",
    envvar="IRONFLOW_TIMEOUT",
    show_default=True,
    show_envvar=True,
    help="How long --wait waits at the most.",
)
@connection_options
@json_option
@run_async
async def publish(connection: ConnectionOptions, *, as_json: bool, wait: bool, timeout: int, **event: Any) -> ExitCode:
    """Publish an event and print its id.

    Example: ironflow publish order.placed --data '{"orderId": "o-1"}' --wait
    """
    # The variable may be set for other calls.
    if not wait and click.get_current_context().get_parameter_source("timeout") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--timeout says how long --wait waits; add --wait, or leave --timeout out")
    event["metadata"] = dict(event["metadata"])
    async with open_client(connection) as client:
        published = await _publish(client, event)
        if not as_json:
            put(published.record.id)
        if published.existed:
            complain(
                f"an event with the id {published.record.id!r} was stored before: it stays as it is, and nothing was "
                "published; give another event another id"
            )
        if wait:
            return await _report_runs(client, published, timeout, as_json=as_json)
        if as_json:
            _print_document(published, [])
        elif not published.existed:
            await _mention_where_untriggered(client, published.record.name)
    return ExitCode.DONE


async def _publish(client: Client, event: dict[str, Any]) -> Published:
    """Publish; a library may wait for a server that has lost its leader, a command may not."""
    event = {**event, "id": event["id"] if event["id"] is not None else secrets.token_hex(16)}
    try:
        async with asyncio.timeout(PUBLISH_SECONDS):
            return await client.publish_record(**event)
    except TimeoutError as error:
        if lacking := await client.lacking_streams():
            msg = f"event {event['event']!r} is not stored: {lacking}"
        else:
            msg = (
                f"event {event['event']!r} was not acknowledged within {PUBLISH_SECONDS} s and may or may not be "
                f"stored; publish it again with --id {shlex.quote(event['id'])}, and see 'ironflow doctor': where no "
                f"engine has ever run in namespace {client.names.namespace!r}, there are no streams yet"
            )
        raise EngineUnavailableError(msg) from error


async def _report_runs(client: Client, published: Published, timeout_ms: int, *, as_json: bool) -> ExitCode:
    """Wait for the runs of the event and print them, whatever comes in between."""
    results: list[RunResult] = []
    try:
        code = await _wait_for_runs(client, published, timeout_ms, results)
    except (IronflowError, BrokerError) as error:
        complain(describe_error(error))
        code = exit_code_of(error)
    if as_json:
        _print_document(published, results)
    elif results:
        print_table(("RUN", "FUNCTION", "STATUS", "RESULT"), [_row(result) for result in results], "")
    return code


async def _wait_for_runs(client: Client, published: Published, timeout_ms: int, results: list[RunResult]) -> ExitCode:
    deadline = asyncio.get_running_loop().time() + timeout_ms / 1000
    ids, complete = await _started_runs(client, published, deadline)
    results.extend(RunResult(id=run) for run in ids)
    views = await asyncio.gather(*(_ended(client.run(run), deadline) for run in ids))
    results[:] = [_result(run, view) for run, view in zip(ids, views, strict=True)]
    if complete and not ids:
        complain(_untriggered(published.record.name))
    if not complete or any(result.status not in ("completed", "failed", "cancelled") for result in results):
        complain(f"not everything has ended within {format_milliseconds(timeout_ms)}; what runs goes on")
        return ExitCode.FAILED
    return ExitCode.DONE if all(result.status == "completed" for result in results) else ExitCode.FAILED


async def _started_runs(client: Client, published: Published, deadline: float) -> tuple[list[str], bool]:
    """Return the runs that the event started, and whether the engine has got to it in time."""
    clock = asyncio.get_running_loop().time
    while True:
        remaining = deadline - clock()
        ids, complete = await client.runs_of(published, max(0.0, min(remaining, _MATCH_SECONDS)))
        if complete or clock() >= deadline:
            return ids, complete
        await asyncio.sleep(min(_PAUSE_SECONDS, max(0.0, deadline - clock())))


async def _ended(handle: RunHandle[Any], deadline: float) -> RunView | None:
    """Return the run as it ended, or as it stands at the deadline; None where nobody can tell."""
    remaining = deadline - asyncio.get_running_loop().time()
    with contextlib.suppress(EngineUnavailableError, RunNotFoundError):
        try:
            return await handle.wait(max(0.001, remaining))
        except TimeoutError:
            return await handle.state()
    return None


async def _mention_where_untriggered(client: Client, name: str) -> None:
    """Say that no function is triggered by the event, where an engine is there to know it."""
    try:
        page = await EngineApi(client.broker, client.names, _QUICK_SECONDS).functions()
    except (IronflowError, BrokerError):
        return
    if not any(matches(trigger, name) for function in page.functions for trigger in function.triggers):
        complain(_untriggered(name))


def _untriggered(name: str) -> str:
    return (
        f"no run is started by it: no registered function has a trigger that matches {name!r}; "
        "runs that wait for it go on"
    )


def _result(id: str, view: RunView | None) -> RunResult:
    if view is None:
        return RunResult(id=id)
    return RunResult(
        id=id,
        function=view.function,
        status=view.status,
        compensation=view.compensation,
        output=view.output,
        error=view.error,
    )


def _row(result: RunResult) -> tuple[str, str, str, str]:
    shown = format_error(result.error) or format_json(result.output or msgspec.Raw())
    status = format_status(result.status or "?", result.compensation)
    return result.id, result.function or "?", status, shown


def _print_document(published: Published, results: list[RunResult]) -> None:
    record = published.record
    print_json({"event": {"id": record.id, "name": record.name}, "existed": published.existed, "runs": results})
