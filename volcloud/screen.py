"""The one door to a person's terminal: what goes out here is text, never markup, never a command to the terminal.

Everything that is printed goes through ``Screen`` or ``echo``; see ``schemas.plain_text`` for what they make harmless.
Only the bytes of a command or a job that a person asked for go past it, by ``volcloud.output``.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import ProgressColumn, Task
from rich.segment import Segment
from rich.text import Text

from schemas.plain_text import plain, plain_lines
from schemas.terminal_text import TerminalText

#: Width of a table that no terminal shows; rich would cut it to 80 columns.
PIPE_WIDTH = 200


class Screen(Console):
    """rich's console without markup, emoji or highlighting, and with nothing on it that is not printable.

    Strings are made plain before they are laid out, so that columns stay straight; whatever is left, such as a ``Text``
    that somebody made by hand, is made plain as it leaves.
    """

    def __init__(
        self, *, err: bool = False, width: int | None = None, file: TextIO | None = None, record: bool = False
    ) -> None:
        """``file`` stands for the terminal; with ``record`` what is printed can be exported."""
        # Never rich's own way into a notebook: what is to be seen there goes by ``volcloud.rendering.html``.
        super().__init__(
            stderr=err,
            width=width,
            file=file,
            record=record,
            markup=False,
            emoji=False,
            highlight=False,
            force_jupyter=False,
        )
        if width is None and not self.is_terminal:
            self.width = PIPE_WIDTH

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string into ``Text``, as it stands."""
        return super().render_str(plain_lines(text), **options | {"markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Give the segments of something, their text made plain; cursor movements are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain_lines(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Let the error go up: the exit status is decided in one place."""
        raise


class LabelColumn(ProgressColumn):
    """The description of a bar, as text; rich's own ``TextColumn`` reads markup in it."""

    def render(self, task: Task) -> Text:
        """Show it."""
        return Text(plain(task.description))


class OutputStream:
    """A stream for what a command or a job printed: to a terminal as text, to a pipe or a file byte for byte."""

    def __init__(self, stream: TextIO, *, is_marked: bool = False) -> None:
        self._stream = stream
        self._text = TerminalText(is_marked=is_marked) if stream.isatty() else None

    def write(self, data: bytes) -> None:
        """Write some of it, at once. Raises OSError when the stream does not take it."""
        if self._text is None:
            self._stream.buffer.write(data)
        else:
            self._stream.write(self._text.take(data))
        self._stream.flush()

    def finish(self) -> None:
        """Write what waited for its end."""
        if self._text is not None:
            self._stream.write(self._text.take(b"", is_last=True))
            self._stream.flush()


def screen(*, err: bool = False) -> Screen:
    """Give the terminal; made anew, because tests and pipes replace the streams."""
    return Screen(err=err)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line. Raises OSError when the stream does not take it."""
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{plain_lines(text)}\n")
    stream.flush()


def spare_nothing(stream: object) -> None:
    """Let a stream show as ``\\u2026`` what its encoding lacks, in place of an error in the midst of a line."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
