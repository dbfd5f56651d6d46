"""What of a disk large files may take: all that is free, but for a reserve that none of them touches.

The reserve is for what must never find the disk full: ledgers, journals, notes, logs, and the broker, which takes no
messages below 256 MB. Whoever takes bytes by the gigabyte asks here before the first one, and while he writes.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from msgspec import Struct

#: Kept free of a disk, bytes: twice what the broker needs to take messages.
RESERVE_BYTES = 512 << 20
#: Of a small disk one part in so many is kept.
_SMALL = 32


class DiskRoom(Struct, frozen=True, kw_only=True):
    """What a disk has, bytes."""

    size: int
    free: int
    #: Kept of a large disk; None = the usual. A person's own disk has no reserve: he knows what he does.
    kept: int | None = None

    @property
    def reserve(self) -> int:
        """What stays free whatever is asked for."""
        return min(RESERVE_BYTES if self.kept is None else self.kept, self.size // _SMALL)

    @property
    def usable(self) -> int:
        """What large files may take."""
        return max(0, self.free - self.reserve)

    def told(self) -> str:
        """Say it for a person."""
        return f"{self.free} are free on its disk, of which {self.reserve} stay free"


def look(place: Path | int, kept: int | None = None) -> DiskRoom:
    """Look at the disk that a directory, or an open file, is on. Raises OSError."""
    disk = os.statvfs(place)
    return DiskRoom(size=disk.f_blocks * disk.f_frsize, free=disk.f_bavail * disk.f_frsize, kept=kept)


def demand(place: Path | int, need_bytes: int, kept: int | None = None) -> None:
    """Raise OSError, as a full disk does, where so many bytes more would touch the reserve. It names no file."""
    room = look(place, kept)
    if need_bytes > room.usable:
        text = f"{os.strerror(errno.ENOSPC)} for {need_bytes} bytes: {room.told()}"
        raise OSError(errno.ENOSPC, text)
