"""A command's output on a person's screen: marked with where it comes from, and harmless. Pure."""

from __future__ import annotations

import codecs
import re

from schemas.plain_text import plain_lines

#: What a stranger's output may do to a terminal: colours, and going back in its own line.
_ALLOWED = re.compile(r"(\x1b\[[0-9;:]*m|[\r\b])")
#: The beginning of what may become a colour with the next piece; a longer one is none.
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;:]{0,30})?$")


class LinePrefixer:
    """Marks each line of a stream with where it comes from; a line is given when it is whole."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self._rest = b""

    def take(self, data: bytes) -> bytes:
        """Give the whole lines, marked."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join(self._prefix + line + b"\n" for line in lines)

    def finish(self) -> bytes:
        """Give what stands behind the last line break."""
        rest, self._rest = self._rest, b""
        return self._prefix + rest + b"\n" if rest else b""


class TerminalText:
    """Turns a stream of bytes from a stranger into what may go to a terminal; pieces may be cut anywhere."""

    def __init__(self, *, is_marked: bool) -> None:
        """Marked lines allow nothing: going back in the line would forge the mark."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_marked = is_marked
        self._rest = ""

    def take(self, data: bytes, *, is_last: bool = False) -> str:
        """Give the text of a piece."""
        text = self._rest + self._decoder.decode(data, is_last)
        unfinished = None if is_last else _UNFINISHED.search(text)
        self._rest = unfinished[0] if unfinished else ""
        text = text[: len(text) - len(self._rest)]
        if self._is_marked:
            return plain_lines(text.replace("\r\n", "\n"))
        return "".join(part if n % 2 else plain_lines(part) for n, part in enumerate(_ALLOWED.split(text)))
