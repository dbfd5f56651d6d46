"""What every rendering is made of: tables, names with values, states, times. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from schemas.plain_text import plain
from volcloud.listing import Listing

_COLOURS = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "held": "red",
    "aborted": "red",
    "stuck": "red",
    "set_aside": "red",
    "missing": "red",
    "lost": "red",
    "cancelled": "yellow",
    "submitted": "dim",
    "poweredoff": "dim",
    "paused": "yellow",
    "saved": "yellow",
}


def table(*headers: str) -> Listing:
    """Make an empty table in our style."""
    return Listing(*headers)


def lines(pairs: Iterable[tuple[str, RenderableType]]) -> Table:
    """Render names with values; empty values are left out."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value != "":
            grid.add_row(name, value)
    return grid


def state(word: str) -> Text:
    """Render a state in its colour."""
    return Text(plain(word), style=_COLOURS.get(word, ""))


def ago(then_ms: int) -> str:
    """Say how long ago a time was; empty for none."""
    return f"{span((time.time() * 1000 - then_ms) / 1000)} ago" if then_ms else ""


def span(seconds: float) -> str:
    """Say a duration in two units at most."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit_s, unit, smaller_s, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit} {int(seconds % unit_s // smaller_s)} {smaller}"
    return f"{seconds:.0f} s"


def clock(at_ms: int) -> str:
    """Say a time of day with its date; empty for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000)) if at_ms else ""
