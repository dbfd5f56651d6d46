"""Directories of attempts that were left as they had been made, kept for the next attempts of the same array.

Making a directory and removing it takes ext4 0.2 ms of a processor, half of what a short job costs the agent; renaming
one takes a 30th of that. Whoever still holds such a directory open, in another slot, sees the names in it and nothing
else: so it goes to jobs of one array only, which have one owner.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
from collections import deque
from pathlib import Path

from guest_agent.directory import Directory

log = logging.getLogger(__name__)

#: Directories that are kept.
MOST_KEPT = 64
#: Asks a file system for the attributes of a file or directory: FS_IOC_GETFLAGS of linux/fs.h.
_GET_FLAGS = 0x80086601


class Spares:
    """The spare directories of one slot. ``take`` and ``keep`` may be called by two threads at once."""

    def __init__(self, directory: Path) -> None:
        """Keep them in ``directory``, which is the agent's alone; what an agent before us kept there goes.

        Where the disk takes no directory now, none is fit for as long as this lives.
        """
        self._directory = directory
        self._kept: deque[tuple[str, Path]] = deque()
        self._as_made: tuple[int, int, bytes, list[str]] | None = None
        try:
            self._as_made = _make_one(directory)
        except OSError as error:
            log.warning("no spare directories", extra={"why": str(error)})

    def is_fit(self, held: Directory) -> bool:
        """Say whether a directory, which is the agent's again, is as it had been made: nothing in it, nothing on it."""
        if self._as_made is None or _look(held.descriptor) != self._as_made:
            return False
        with os.scandir(held.descriptor) as entries:
            return next(entries, None) is None

    def keep(self, path: Path, array: str) -> bool:
        """Take a fit directory in for later. False where there are enough, and it is still at its place."""
        if len(self._kept) >= MOST_KEPT:
            return False
        spare = self._directory / os.urandom(12).hex()
        path.rename(spare)
        self._kept.append((array, spare))
        return True

    def take(self, path: Path, array: str) -> bool:
        """Put a spare directory at ``path``, where nothing may be. False: there is none of this array."""
        while self._kept:
            kept_for, spare = self._kept.popleft()
            if kept_for == array and not path.exists():
                spare.rename(path)
                return True
            spare.rmdir()
        return False


def _make_one(directory: Path) -> tuple[int, int, bytes, list[str]]:
    """Empty the directory of spares, and look at one that was just made in it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    with Directory(directory) as held:
        held.empty()
        with held.make("as-made") as made:
            looks = _look(made.descriptor)
        held.remove("as-made")
    return looks


def _look(descriptor: int) -> tuple[int, int, bytes, list[str]]:
    """Take down of a directory what a payload can change for good: its size on the disk, attributes, access lists."""
    found = os.fstat(descriptor)
    flags = struct.pack("l", 0)
    with contextlib.suppress(OSError):  # a file system that has none
        flags = fcntl.ioctl(descriptor, _GET_FLAGS, flags)
    return found.st_size, found.st_blocks, flags, os.listxattr(descriptor)
