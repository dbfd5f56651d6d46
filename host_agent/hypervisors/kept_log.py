"""What a guest or a hypervisor prints, kept within bounds: how it began, and how it goes on.

A stranger decides how much he prints, so whatever is beyond the bounds is thrown away from the middle. Files only.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

#: What is kept of the beginning: a boot prints some 30 KiB.
HEAD_BYTES = 128 * 1024
#: What is kept of the end, at least; at most it is twice as much.
TAIL_BYTES = 256 * 1024


class KeptLog:
    """A log that we write: ``NAME`` is how a boot began, ``NAME.tail`` what came last, ``NAME.tail.1`` what came before
    that. ``NAME.1`` and ``NAME.1.tail`` are of the boot before."""

    def __init__(self, path: Path) -> None:
        self._head, self._tail, self._before = path, Path(f"{path}.tail"), Path(f"{path}.tail.1")
        self._last, self._last_tail = Path(f"{path}.1"), Path(f"{path}.1.tail")

    def begin(self) -> None:
        """Begin a boot."""
        for old, new in ((self._head, self._last), (self._tail, self._last_tail)):
            new.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                old.replace(new)
        self._before.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Add what was printed. Raises OSError; what did not fit is lost then, and nothing else."""
        room = max(0, HEAD_BYTES - _size(self._head))
        _append(self._head, data[:room])
        rest = data[room:][-TAIL_BYTES:]
        if not rest:
            return
        if _size(self._tail) + len(rest) > TAIL_BYTES and self._tail.exists():
            self._tail.replace(self._before)
        _append(self._tail, rest)


def trim(path: Path) -> None:
    """Shorten a log that somebody else appends to, once it is beyond its bounds, to its beginning and its end.

    What is written in that very moment may be lost. One that is not there, or a disk that is full, is no error.
    """
    if _size(path) <= HEAD_BYTES + 4 * TAIL_BYTES:
        return
    with contextlib.suppress(OSError), path.open("r+b") as file:
        head = file.read(HEAD_BYTES)
        left_out = _size(path) - HEAD_BYTES - TAIL_BYTES
        file.seek(-TAIL_BYTES, 2)
        tail = file.read()
        file.seek(0)
        file.write(head + f"\n[{left_out} bytes are left out here]\n".encode() + tail)
        file.truncate()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _append(path: Path, data: bytes) -> None:
    if data:
        with path.open("ab") as file:
            path.chmod(0o600)
            file.write(data)
