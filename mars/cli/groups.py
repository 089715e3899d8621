"""Groups of commands, such as `mars runs`, and the option that commands of several groups have."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON.")]

_ANY_LENGTH = 10_000


class _Group(TyperGroup):
    """Wraps the descriptions of commands in the help of the group; click would cut them at the end of the line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(_ANY_LENGTH)) for name, command in commands if command is not None]
            )


def group(help: str, **settings: Any) -> typer.Typer:
    """A new group, to which the caller adds commands. help: text about the group; its first sentence
    also appears in the command list of the parent group."""
    return typer.Typer(cls=_Group, help=help, no_args_is_help=True, rich_markup_mode=None, **settings)
