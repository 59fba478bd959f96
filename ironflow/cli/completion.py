"""``ironflow completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ironflow.cli.common import put


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes this command's words in a shell.

    Example: eval "$(ironflow completion bash)"
    """
    complete = get_completion_class(shell)
    assert complete is not None  # noqa: S101 - click has one for each of the choices
    put(complete(ctx.find_root().command, {}, "ironflow", "_IRONFLOW_COMPLETE").source())
