"""What a stranger's output may do to a person's terminal, piece by piece. Pure."""

from __future__ import annotations

import codecs
import re

from schemas.plain_text import plain_lines

#: What a stranger's output may do to a terminal: colours, and going back in its own line.
_ALLOWED = re.compile(r"(\x1b\[[0-9;:]*m|[\r\b])")
#: The beginning of what may become a colour with the next piece; a longer one is none.
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;:]{0,30})?$")


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
