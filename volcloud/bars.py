"""Progress bars on standard error; nothing is drawn where no terminal is."""

from __future__ import annotations

from collections.abc import Callable

from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from volcloud.client.trees import TreeProgress
from volcloud.screen import LabelColumn, screen


def transfer_bars() -> Progress:
    """Give bars for files."""
    console = screen(err=True)
    columns = (LabelColumn(), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def tree_bar(bars: Progress, label: str) -> Callable[[TreeProgress], None]:
    """Add a bar of a tree, which counts its entries too, and give the callback that moves it."""
    bar = bars.add_task(label, total=None)

    def move(done: TreeProgress) -> None:
        entries = f"{label}, {done.entries} of {done.all_entries} entries" if done.all_entries else label
        bars.update(bar, completed=done.bytes, total=done.all_bytes or None, description=entries)

    return move


def file_bar(bars: Progress, label: str) -> Callable[[int, int], None]:
    """Add a bar and give the callback that moves it."""
    bar = bars.add_task(label, total=None)
    return lambda done, size: bars.update(bar, completed=done, total=size or None)
