"""The kernel's own limit on what an account may have on a disk: ``quotactl``, for file systems that count by user.

Our image's does. Where there is none, ``of`` gives None, and what a job takes is measured instead.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

#: ``quotactl`` commands for users: (command << 8 | type of quota, which is 0).
_GET, _SET = 0x800007 << 8, 0x800008 << 8
#: Which fields of a set are meant: the limits of space.
_SPACE_LIMITS = 1
#: Unit of the limits, bytes.
_BLOCK_BYTES = 1024

_libc = ctypes.CDLL(None, use_errno=True)


class _Block(ctypes.Structure):
    """``struct if_dqblk`` of the kernel."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("hard", "soft", "used", "files_hard", "files_soft", "files", "grace", "files_grace")
    ] + [("valid", ctypes.c_uint32)]


class Quota:
    """Limits of accounts on one file system."""

    def __init__(self, device: str) -> None:
        self._device = device

    def used_bytes(self, uid: int) -> int:
        """Give what an account has on the disk. Raises OSError."""
        return int(self._call(_GET, uid, _Block()).used)

    def left_bytes(self, uid: int) -> int:
        """Give what an account may still take; without a limit, more than there can be. Raises OSError."""
        block = self._call(_GET, uid, _Block())
        return int(block.hard * _BLOCK_BYTES - block.used) if block.hard else 1 << 62

    def limit(self, uid: int, more_bytes: int) -> None:
        """Let an account take so much more than it has now; 0 takes the limit away. Raises OSError."""
        used = self.used_bytes(uid) if more_bytes else 0
        blocks = -(-(used + more_bytes) // _BLOCK_BYTES) if more_bytes else 0
        self._call(_SET, uid, _Block(hard=blocks, soft=blocks, valid=_SPACE_LIMITS))

    def _call(self, command: int, uid: int, block: _Block) -> _Block:
        if _libc.quotactl(ctypes.c_int(command), os.fsencode(self._device), uid, ctypes.byref(block)):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), self._device)
        return block


def of(directory: Path) -> Quota | None:
    """Give the quota of the file system that a directory is on; None where accounts have none or we may not set it."""
    device = _device(directory)
    if os.geteuid() != 0 or not device:
        return None
    quota = Quota(device)
    try:
        quota.limit(os.getuid(), 0)
    except OSError:  # no quota there, which is why this is asked
        return None
    return quota


def _device(directory: Path) -> str:
    """Give the block device of a directory's file system, by the mount table."""
    number = directory.stat().st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 2]
    return ""
