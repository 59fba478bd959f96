"""``ironflow nats-accounts``."""

from __future__ import annotations

import click

from ironflow.cli.common import put, shards_option
from ironflow.errors import DefinitionError, LimitError


@click.command("nats-accounts")
@click.option("--namespace", metavar="NAME", default="ironflow", show_default=True, help="Ironflow namespace.")
@click.option(
    "--worker",
    "workers",
    metavar="QUEUE[,QUEUE…]",
    multiple=True,
    help="The queues of one kind of worker; may be repeated.",
)
@shards_option
@click.option("--nkeys", is_flag=True, help="Have users sign in with nkeys, in place of passwords.")
def nats_accounts(namespace: str, workers: tuple[str, ...], *, shards: int, nkeys: bool) -> None:
    """Print accounts with least privilege for a NATS server.

    They go into the accounts block of its configuration. Passwords, or public nkeys, come from the server's
    environment; the file names the variables.

    Example: ironflow nats-accounts --worker orders --worker reports,thumbnails > accounts.conf
    """
    from ironflow.function import check_queue  # noqa: PLC0415 - keeps --help fast
    from ironflow.names import Names  # noqa: PLC0415 - likewise
    from ironflow.nats_accounts import accounts, render  # noqa: PLC0415 - likewise
    from ironflow.permissions import roles  # noqa: PLC0415 - likewise

    try:
        names = Names(namespace, shards)
        queues = tuple(tuple(check_queue(queue) for queue in worker.split(",")) for worker in workers)
        found = roles(names, queues)
    except (DefinitionError, LimitError) as error:
        raise click.UsageError(str(error)) from error
    words = ["ironflow nats-accounts", f"--namespace {namespace}", *(f"--worker {worker}" for worker in workers)]
    words += [f"--shards {shards}"] if shards > 1 else []
    words += ["--nkeys"] if nkeys else []
    put(f"# Made by: {' '.join(words)}")
    put(render(accounts(names, found, nkeys=nkeys)), nl=False)
