"""A command that has others under it, and says which where one is asked for that it has not."""

from __future__ import annotations

import click


class CommandGroup(click.Group):
    """A group of commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is asked for, its name, and the words behind it.

        Raises:
            UsageError: there is no such command.

        """
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchOption:
            raise
        except click.UsageError as error:
            known = ", ".join(self.list_commands(ctx))
            message = f"{error.message} {ctx.command_path} has: {known}"
            raise click.UsageError(message, ctx) from None
