"""``ironflow runs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import click

from ironflow.cli.command_group import CommandGroup
from ironflow.cli.common import (
    ConnectionOptions,
    ExitCode,
    complain,
    connection_options,
    json_option,
    limit_option,
    one_line,
    open_client,
    put,
    run_async,
)
from ironflow.cli.follow import LineShow, TextShow, follow_namespace, follow_run, naming_run
from ironflow.cli.output import format_run, print_json, print_runs, run_document
from ironflow.cli.params import SINCE
from ironflow.errors import RunNotFoundError
from ironflow.records import RunStatus

if TYPE_CHECKING:
    from ironflow.client import Client


@click.group(cls=CommandGroup)
def runs() -> None:
    """List, show, follow, cancel and retry runs."""


@runs.command("list")
@click.option("--status", type=click.Choice(get_args(RunStatus)), help="Only runs that have it.")
@click.option("--function", metavar="ID", help="Only runs of that function.")
@click.option(
    "--since", type=SINCE, default=0, help='Only newer ones: "1h" (ago), or ISO 8601; a bare date is its midnight, UTC.'
)
@limit_option
@connection_options
@json_option
@run_async
async def list_runs(
    connection: ConnectionOptions,
    *,
    as_json: bool,
    status: RunStatus | None,
    function: str | None,
    since: int,
    limit: int,
) -> None:
    """List runs, newest first.

    Example: ironflow runs list --status failed --since 1h
    """
    async with open_client(connection) as client:
        found = client.engine.runs(status=status, function=function, since_ms=since, limit=limit)
        views = [view async for view in found]
    if as_json:
        print_json([run_document(view) for view in views])
    else:
        print_runs(views)


@runs.command("get")
@click.argument("run")
@connection_options
@json_option
@run_async
async def get_run(connection: ConnectionOptions, *, as_json: bool, run: str) -> None:
    """Show a run and its steps.

    Example: ironflow runs get 7m2pr5dqh6tvgk3xw4nbyc2soa
    """
    async with open_client(connection) as client:
        with naming_run(run):
            view = await client.engine.run(run)
            steps = await client.engine.steps(run)
    if as_json:
        print_json(run_document(view, steps))
    else:
        put(format_run(view, steps))


@runs.command("watch")
@click.argument("run", required=False)
@connection_options
@json_option
@run_async
async def watch_runs(connection: ConnectionOptions, *, as_json: bool, run: str | None) -> ExitCode:
    """Follow a run until it ends, or the newest runs until Ctrl-C.

    Exits with 0 where the run completed, with 1 where it failed or was cancelled.

    Example: ironflow runs watch 7m2pr5dqh6tvgk3xw4nbyc2soa
    """
    show = LineShow() if as_json else TextShow()
    async with open_client(connection) as client:
        if run is None:
            await follow_namespace(client, show)
            return ExitCode.DONE
        with naming_run(run):
            return await follow_run(client, run, show)


@runs.command("cancel")
@click.argument("run")
@click.option("--reason", metavar="TEXT", help="Shown with the run.")
@click.option("--compensate", is_flag=True, help="Have what the run did undone first, as far as it has undos.")
@connection_options
@json_option
@run_async
async def cancel_run(
    connection: ConnectionOptions, *, as_json: bool, run: str, reason: str | None, compensate: bool
) -> ExitCode:
    """Cancel a run: what runs of it is stopped, and no other step begins.

    With --compensate the undos of its steps run next, newest step first; it is cancelled after the last one.

    Exits with 0 once that is recorded, with 1 where the run had already ended or was compensating.

    Example: ironflow runs cancel 7m2pr5dqh6tvgk3xw4nbyc2soa --reason "ordered twice"
    """
    async with open_client(connection) as client:
        with naming_run(run):
            cancellation = await client.engine.cancel(run, reason, compensate=compensate)
    if as_json:
        print_json({"id": run, "recorded": cancellation.recorded, "status": cancellation.status})
    elif cancellation.recorded:
        undoes = "; what it did is being undone" if cancellation.status == "compensating" else ""
        put(f"run {run} is cancelled{undoes}")
    if cancellation.recorded:
        return ExitCode.DONE
    complain(f"run {run} {_REFUSED.get(cancellation.status, 'had already ended')}")
    return ExitCode.FAILED


@runs.command("retry")
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@click.option("--function", metavar="ID", help="All failed runs of that function.")
@click.option("--since", type=SINCE, help='All failed runs that were started since then: "1h" (ago), or ISO 8601.')
@connection_options
@json_option
@run_async
async def retry_runs(
    connection: ConnectionOptions, *, as_json: bool, run_ids: tuple[str, ...], function: str | None, since: int | None
) -> ExitCode:
    """Have failed runs go on: what succeeded stays, what failed is done again.

    Name the runs, or say of which function, or since when, all shall go on that have failed.

    Exits with 0 once that is recorded, with 1 where one of the runs has not failed. With --json one run is an object;
    several, or those of an option, are a list.

    Example: ironflow runs retry 7m2pr5dqh6tvgk3xw4nbyc2soa
    """
    wants_all = function is not None or since is not None
    if wants_all == bool(run_ids):
        raise click.UsageError("name the runs to retry, or say which failed ones with --function or --since")
    async with open_client(connection) as client:
        if wants_all:
            failed = client.engine.runs(status="failed", function=function, since_ms=since or 0)
            run_ids = tuple([view.id async for view in failed])
        is_list = wants_all or len(run_ids) > 1
        answers = [await _retried(client, run, as_json=as_json, must_exist=not is_list) for run in run_ids]
    if as_json:
        print_json(answers if is_list else answers[0])
    elif not answers:
        complain("no failed runs")
    return ExitCode.DONE if all(answer["recorded"] for answer in answers) else ExitCode.FAILED


async def _retried(client: Client, run: str, *, as_json: bool, must_exist: bool) -> dict[str, object]:
    """Retry a run, say what came of it, and return that.

    Raises:
        RunNotFoundError: there is no such run, and it must exist.

    """
    try:
        with naming_run(run):
            retried = await client.engine.retry(run)
    except RunNotFoundError as error:
        if must_exist:
            raise
        # The others shall go on all the same.
        complain(one_line(str(error)))
        return {"id": run, "recorded": False, "status": None, "attempt": None}
    if not retried.recorded:
        complain(f"run {run} {_NOT_FAILED.get(retried.status, _GOES_ON)}")
    elif not as_json:
        put(f"run {run} goes on, in attempt {retried.attempt}")
    return {"id": run, "recorded": retried.recorded, "status": retried.status, "attempt": retried.attempt}


_GOES_ON = "has not failed, it goes on; only a failed run is retried. Follow it with 'ironflow runs watch'"
_NOT_FAILED = {
    "completed": "has completed, and only a failed run is retried; to do it once more, start another one",
    "cancelled": "was cancelled, and only a failed run is retried; to do it after all, start another one",
    "compensating": (
        "is undoing what it did; only a failed run is retried. Follow it with 'ironflow runs watch', "
        "and retry it once it has failed"
    ),
}
_REFUSED = {
    "completed": "had already completed",
    "failed": "had already failed",
    "cancelled": "had already been cancelled",
    "compensating": "is compensating: its end is known, and comes once what it did is undone",
}
