"""The ``ironflow`` command."""

from __future__ import annotations

import importlib
import logging
from typing import Any, NamedTuple

import click

from ironflow.cli.command_group import CommandGroup
from ironflow.cli.common import errors_as_exit_codes
from ironflow.version import __version__


class Entry(NamedTuple):
    """Where a command is defined, and its line in the list of commands."""

    place: str
    summary: str


COMMANDS = {
    "dev": Entry("ironflow.cli.dev:dev", "Run NATS, an engine and workers for the functions of APP."),
    "publish": Entry("ironflow.cli.publish:publish", "Publish an event and print its id."),
    "runs": Entry("ironflow.cli.runs:runs", "List, show, follow, cancel and retry runs."),
    "functions": Entry("ironflow.cli.functions:functions", "List and delete registered functions."),
    "workers": Entry("ironflow.cli.workers:workers", "List the workers that answer."),
    "queues": Entry("ironflow.cli.queues:queues", "List queues and how full they are."),
    "events": Entry("ironflow.cli.events:events", "List published events."),
    "doctor": Entry(
        "ironflow.cli.doctor:doctor", "Check server, streams, engine, workers and runs, and say what to do."
    ),
    "nats-accounts": Entry(
        "ironflow.cli.nats_accounts:nats_accounts", "Print accounts with least privilege for a NATS server."
    ),
    "schemas": Entry("ironflow.cli.schemas:schemas", "The wire contract as JSON Schema and AsyncAPI."),
    "completion": Entry(
        "ironflow.cli.completion:completion", "Print the script that completes this command's words in a shell."
    ),
}


PROCESSES = {"engine": "ironflow-engine", "worker": "ironflow-worker"}
"""What is installed beside this command."""


class LazyGroup(CommandGroup):
    """A group that imports a command when it is called, and none to list them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click hands it in
        """Return the commands in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click hands it in
        """Return a command, imported."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.place.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)  # noqa: S101 - COMMANDS is ours
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is asked for, its name, and the words behind it.

        Raises:
            UsageError: there is no such command.

        """
        if process := PROCESSES.get(args[0]):
            message = f"No such command {args[0]!r}; it is a program of its own, {process}: see '{process} --help'"
            raise click.UsageError(message, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click hands it in
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; whatever goes wrong, on the way to it too, is one line."""
        with errors_as_exit_codes():
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ironflow")
def cli() -> None:
    """Durable workflows on NATS JetStream.

    Example: ironflow publish order.placed --data '{"orderId": "o-1"}' --wait
    """
    from ironflow.cli.logs import configure_logging  # noqa: PLC0415 - --help does without

    # Left alone, structlog would write to stdout. Commands that run for long configure it themselves.
    configure_logging("warning")
    # What a command may not do ends it with a line that says so; a line of the log before it says no more.
    logging.getLogger("ironflow.broker.nats.adapter").setLevel(logging.CRITICAL)


def main() -> None:
    """Run the command line of this process."""
    cli(prog_name="ironflow")


if __name__ == "__main__":
    main()
