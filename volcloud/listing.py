"""A table whose names stay apart: at few columns a name is cut in its middle, never so that two rows look alike.

Columns of names are shortened together with the rest, but not below the width at which all that differ still look
different; what then does not fit is folded within its column. Into a pipe every name goes whole. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

from schemas.plain_text import plain_lines

#: Spaces between two columns.
GAP = 2
#: A column of words is folded to no less than this, and a name is cut to no less, characters.
NARROWEST, SHORTEST_NAME = 14, 8
#: Headers whose columns name things.
NAMES = frozenset({"JOB", "VM", "NAME", "HOST", "PROCESS", "QUEUE", "LETTER", "SENDER", "KEY", "NOTICED BY"})


class Listing:
    """Rows under headers."""

    def __init__(self, *headers: str) -> None:
        self._headers = headers
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row; a string is text as it stands."""
        self._rows.append([one if isinstance(one, Text) else Text(plain_lines(one)) for one in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it for the width there is."""
        mark = "~" if options.ascii_only else "…"
        yield self._table(options.max_width, mark=mark, cuts=console.is_terminal)

    def _table(self, width: int, *, mark: str, cuts: bool) -> Table:
        columns = [[row[n] for row in self._rows] for n in range(len(self._headers))]
        widths, least = self._widths(columns, width, cuts=cuts)
        shown = Table(
            *(Column(header, width=w, overflow="fold") for header, w in zip(self._headers, widths, strict=True)),
            box=None,
            pad_edge=False,
            padding=(0, GAP // 2),
            header_style="bold",
        )
        for row in self._rows:
            shown.add_row(*(_fitted(cell, w, mark, cuts_at=at) for cell, w, at in zip(row, widths, least, strict=True)))
        return shown

    def _widths(
        self, columns: Sequence[Sequence[Text]], width: int, *, cuts: bool
    ) -> tuple[list[int], list[int | None]]:
        """Give each column a width: its own, where all fit; else words give way first, then names. And the width from
        which on its cells may be cut; None where they are folded only."""
        named = [header in NAMES for header in self._headers]
        widths = [
            max([cell_len(header), *(_length(cell) for cell in cells)])
            for header, cells in zip(self._headers, columns, strict=True)
        ]
        least = [
            _distinct(cells) if is_name else min(w, max(NARROWEST, _longest_word(header)))
            for is_name, header, cells, w in zip(named, self._headers, columns, widths, strict=True)
        ]
        room = width - GAP * (len(widths) - 1)
        _shrink(widths, least, room, [n for n, is_name in enumerate(named) if not is_name])
        if cuts:
            _shrink(widths, least, room, [n for n, is_name in enumerate(named) if is_name])
            _shrink(widths, [SHORTEST_NAME] * len(widths), room, range(len(widths)))
        return widths, [w if cuts and is_name else None for w, is_name in zip(least, named, strict=True)]


def cut(name: str, width: int, mark: str = "…") -> str:
    """Shorten a name to a width, in its middle: what tells names apart stands at their ends, more of it at the last."""
    if cell_len(name) <= width:
        return name
    head = max(1, (width - len(mark)) // 3)
    tail = width - len(mark) - head
    return f"{name[:head]}{mark}{name[-tail:]}"


def _fitted(cell: Text, width: int, mark: str, *, cuts_at: int | None) -> Text:
    if cuts_at is None or width < cuts_at or "\n" in cell.plain:
        return cell
    return Text(cut(cell.plain, width, mark), style=cell.style)


def _distinct(cells: Iterable[Text]) -> int:
    """Give the least width at which names that differ still do."""
    names = {cell.plain for cell in cells}
    longest = max((cell_len(name) for name in names), default=SHORTEST_NAME)
    for width in range(min(SHORTEST_NAME, longest), longest):
        if len({cut(name, width) for name in names}) == len(names):
            return width
    return longest


def _shrink(widths: list[int], least: Sequence[int], room: int, which: Iterable[int]) -> None:
    """Take from the widest of some columns until all fit, or each of them is at its least."""
    chosen = list(which)
    while sum(widths) > room:
        able = [n for n in chosen if widths[n] > least[n]]
        if not able:
            return
        widest = max(able, key=lambda n: widths[n])
        widths[widest] -= 1


def _length(cell: Text) -> int:
    return max((cell_len(line) for line in cell.plain.split("\n")), default=0)


def _longest_word(header: str) -> int:
    return max((cell_len(word) for word in header.split()), default=0)
