"""A group of commands, each of which is loaded once it is named: whoever types one does not wait for all the others."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LaterGroup(click.Group):
    """See the module. Help, and whoever asks for the names of all, loads all."""

    def __init__(self, *arguments: Any, later: Mapping[str, str] | None = None, **settings: Any) -> None:
        """``later`` says by the name of a command in which module it is, as what the module calls it by that name."""
        super().__init__(*arguments, **settings)
        self._later = dict(later or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names of all, in order."""
        return sorted({*super().list_commands(ctx), *self._later})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Give a command; None where there is none of that name."""
        if cmd_name in self._later:
            self.add_command(getattr(import_module(self._later.pop(cmd_name)), cmd_name), cmd_name)
        return super().get_command(ctx, cmd_name)


def commands_of(group: click.Group) -> dict[str, click.Command]:
    """Load all commands of a group, and give them by name, in order."""
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}
