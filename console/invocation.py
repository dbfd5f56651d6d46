"""What every command shares: which system it means, whether it speaks JSON, and how it prints.

``--data`` and ``--json`` are options of each command that needs them, so that they may stand where people put them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from console.client import Client
from console.data_directory import VARIABLE, data_directory

F = TypeVar("F", bound=Callable[..., Any])

#: Width of a table that no terminal shows; rich would cut it to 80 columns.
PIPE_WIDTH = 200


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
        return Client.connect(self.directory)

    def show(self, value: Any, render: Callable[[], RenderableType]) -> None:
        """Print a value: as JSON for programs, rendered for people."""
        if self.is_json:
            click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
        else:
            screen().print(render())

    def say(self, text: str) -> None:
        """Print a line for people; silent when programs read."""
        if not self.is_json:
            click.echo(text)


def screen(*, err: bool = False) -> Console:
    """Give the terminal as rich sees it; made anew, because tests and pipes replace the streams."""
    console = Console(stderr=err, highlight=False)
    return console if console.is_terminal else Console(stderr=err, highlight=False, width=PIPE_WIDTH)


def transfer_bars() -> Progress:
    """Give progress bars for files, on standard error; nothing is drawn where no terminal is."""
    console = screen(err=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def file_bar(bars: Progress, label: str) -> Callable[[int, int], None]:
    """Add a bar and give the callback that moves it."""
    bar = bars.add_task(label, total=None)
    return lambda done, size: bars.update(bar, completed=done, total=size or None)


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


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
