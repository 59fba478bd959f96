"""A command that has others under it, and says what belongs where when it is called in another way."""

from __future__ import annotations

import click


class CommandGroup(click.Group):
    """A group of commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words in front of the command's name.

        Raises:
            NoSuchOption: there is an option that the group has not.

        """
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            # Instead of what click suggests: it knows the few options of the group only.
            path, option = ctx.command_path, error.option_name
            message = (
                f"No such option {option!r} of {path} itself. The options of a command go behind its name: "
                f"'{path} COMMAND {option}'"
            )
            raise click.NoSuchOption(option, message, ctx=ctx) from None

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
