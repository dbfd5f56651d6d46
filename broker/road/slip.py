"""Frames in a byte stream, delimited as RFC 1055 (SLIP) has it. Pure.

A stream between a host and a guest is cut in the midst of a frame when an agent on either side ends, and goes on with
the next agent's first: by a delimiter who reads is in step again at once, by a length he would swallow what comes next.
"""

from __future__ import annotations

from broker.errors import FrameTooLong

_END, _ESCAPE = b"\xc0", b"\xdb"
_ESCAPED_END, _ESCAPED_ESCAPE = b"\xdb\xdc", b"\xdb\xdd"
#: Delimiters in a row that a stream may hold: one on each side of a frame, and those of writers that were cut off.
MOST_EMPTY = 1000


def wrap(frame: bytes) -> bytes:
    """Delimit a frame on both sides: what an earlier writer began ends here."""
    escaped = frame.replace(_ESCAPE, _ESCAPED_ESCAPE).replace(_END, _ESCAPED_END)
    return b"".join((_END, escaped, _END))


class Unwrapper:
    """Takes bytes in pieces, gives frames; holds no more than one frame may have."""

    def __init__(self, most_bytes: int) -> None:
        #: Every byte of a frame may be escaped.
        self._most_bytes = 2 * most_bytes
        self._begun = bytearray()
        #: Delimiters since the last frame.
        self._empty = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Take in the next bytes and give the frames that they complete. Raises FrameTooLong."""
        *ends, rest = piece.split(_END)
        frames = []
        for part in ends:
            self._hold(part)
            if self._begun:
                frames.append(_unescape(bytes(self._begun)))
                self._empty = 0
            else:
                self._empty += 1
            self._begun.clear()
        if self._empty > MOST_EMPTY:
            raise FrameTooLong
        self._hold(rest)
        return frames

    def _hold(self, part: bytes) -> None:
        if len(self._begun) + len(part) > self._most_bytes:
            raise FrameTooLong
        self._begun += part


def _unescape(frame: bytes) -> bytes:
    return frame.replace(_ESCAPED_END, _END).replace(_ESCAPED_ESCAPE, _ESCAPE)
