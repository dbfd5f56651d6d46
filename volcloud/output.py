"""Lines of a command's output, marked with where they come from. Pure."""

from __future__ import annotations


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
