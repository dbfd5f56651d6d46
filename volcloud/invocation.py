"""What every command shares: which system it means, whether it speaks JSON, and how it prints.

``--data`` and ``--json`` are options of each command that needs them, so that they may stand where people put them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import RenderableType

from schemas.plain_text import plain_all, plain_json
from volcloud.client import Client
from volcloud.data_directory import VARIABLE, data_directory
from volcloud.screen import echo, screen
from volcloud.telling import JSON, note

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Invocation:
    """One call of ``volcloud``."""

    def __init__(self) -> None:
        self.data: Path | None = None
        self.is_json = False

    @property
    def directory(self) -> Path:
        """The data directory that is meant; it need not exist."""
        return data_directory(self.data)

    def client(self) -> Client:
        """Connect to the system that is meant. Raises Unreachable."""
        return Client.connect(self.directory, self._note)

    def _note(self, text: str) -> None:
        if not self.is_json:  # asked here: in the client's thread there is no command that could be
            note(text)

    def show(self, value: T, render: Callable[[T], RenderableType]) -> None:
        """Print a value: as JSON for programs, rendered for people. Strangers' words in it are text, on one line."""
        if self.is_json:
            echo(plain_json(msgspec.json.format(_as_json(value), indent=2)))
        else:
            screen().print(render(plain_all(value)))

    def say(self, text: str) -> None:
        """Print a line for people; silent when programs read."""
        if not self.is_json:
            echo(text)


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def _as_json(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # a path of this machine that is no UTF-8
        return msgspec.json.encode(plain_all(value)).decode()


def data_option(command: F) -> F:
    """Add ``--data``."""
    option = click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        expose_value=False,
        callback=_remember_data,
        help=f"Data directory of the system.  [default: {VARIABLE}, then the user's data directory]",
    )
    return option(command)


def json_option(command: F) -> F:
    """Add ``--json``."""
    option = click.option(
        "--json", is_flag=True, expose_value=False, callback=_remember_json, help="Print JSON, for programs."
    )
    return option(command)


def _remember_data(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(Invocation).data = value


def _remember_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Invocation).is_json = True
        ctx.meta[JSON] = True
