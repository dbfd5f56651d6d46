"""The directories of a tree, from a root that is held: each is opened by name in the one before it, no link followed.

What somebody renames or links meanwhile leads nowhere else. Blocking.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType

from schemas.trees import TreeEntry

#: How a directory is opened: never through a link.
AS_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: How a file is that may be anything by now: a FIFO must not hold us up, a terminal not become ours.
_AS_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class HeldTree:
    """See the module. The one that was asked for last is kept open: neighbours in a manifest are in one directory."""

    def __init__(self, root: int, entries: list[TreeEntry]) -> None:
        """Hold ``root``, which is ours to close from here on; ``entries`` may grow."""
        self.root, self._entries = root, entries
        self._at, self._descriptor = 0, -1

    def __enter__(self) -> HeldTree:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go. Idempotent."""
        self._leave()
        if self.root >= 0:
            os.close(self.root)
            self.root = -1

    def directory(self, index: int) -> int:
        """Give a directory's descriptor, which stays ours, until the next is asked for. Raises OSError."""
        if index == 0:
            return self.root
        if index != self._at:
            self._enter(index)
        return self._descriptor

    def parent(self, index: int) -> int:
        """Give the directory that an entry is in; as ``directory``."""
        return self.directory(self._entries[index].parent)

    def open_file(self, index: int) -> int:
        """Open a regular file for reading; the caller closes it. Raises OSError, also for anything else."""
        return open_regular_at(self._entries[index].name, self.parent(index))

    def _enter(self, index: int) -> None:
        parts = []
        while index not in (0, self._at):
            parts.append(index)
            index = self._entries[index].parent
        here = os.dup(self.root if index == 0 else self._descriptor)
        try:
            for part in reversed(parts):
                inner = os.open(self._entries[part].name, AS_DIRECTORY, dir_fd=here)
                os.close(here)
                here = inner
        except BaseException:
            os.close(here)
            raise
        self._leave()
        self._at, self._descriptor = parts[0], here

    def _leave(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._at, self._descriptor = 0, -1


def open_regular_at(name: bytes, directory: int) -> int:
    """Open a regular file in a directory, no link followed. Raises OSError, also for anything else."""
    file = os.open(name, _AS_FILE, dir_fd=directory)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise FileNotFoundError(2, "no regular file any more", os.fsdecode(name))


def open_regular_below(root: Path, path: str) -> int:
    """Open a regular file below a directory that others may write to: no link in ``path`` is followed, nor ``..``.

    The caller closes it. Raises OSError.
    """
    *directories, name = path.split("/")
    if {"", ".", ".."} & {*directories, name}:
        raise FileNotFoundError(2, "no path below it", path)
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in directories:
            inner = os.open(part, AS_DIRECTORY, dir_fd=here)
            os.close(here)
            here = inner
        return open_regular_at(os.fsencode(name), here)
    finally:
        os.close(here)


def look_at(name: bytes, directory: int) -> os.stat_result | None:
    """Look at what has a name in a directory; a link is itself. None where there is nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
