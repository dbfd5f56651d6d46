"""The kernel's own limits on what an account may have on a disk, bytes and files: ``quotactl``, for file systems that
count by user.

Our image's does. Where there is none, ``of`` gives None, and what a job takes is measured instead.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from msgspec import Struct

#: ``quotactl`` commands for users: (command << 8 | type of quota, which is 0).
_GET, _SET = 0x800007 << 8, 0x800008 << 8
#: Which fields of a set are meant: the limits of space (1) and of files (4).
_LIMITS = 1 | 4
#: Unit of the limits, bytes.
_BLOCK_BYTES = 1024

_libc = ctypes.CDLL(None, use_errno=True)


class DiskAmount(Struct, frozen=True):
    """Of a disk: bytes, and files of whatever kind, directories among them."""

    bytes: int = 0
    files: int = 0


#: What an account has left that has no limit: more than there can be.
_NO_LIMIT = 1 << 62


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

    def used(self, uid: int) -> DiskAmount:
        """Give what an account has on the disk. Raises OSError."""
        block = self._call(_GET, uid, _Block())
        return DiskAmount(int(block.used), int(block.files))

    def left(self, uid: int) -> DiskAmount:
        """Give what an account may still take. Raises OSError."""
        block = self._call(_GET, uid, _Block())
        return DiskAmount(
            int(block.hard * _BLOCK_BYTES - block.used) if block.hard else _NO_LIMIT,
            int(block.files_hard - block.files) if block.files_hard else _NO_LIMIT,
        )

    def limit(self, uid: int, more: DiskAmount) -> None:
        """Let an account take so much more than it has now. Raises OSError."""
        used = self.used(uid)
        blocks, files = -(-(used.bytes + more.bytes) // _BLOCK_BYTES), used.files + more.files
        limits = {"hard": blocks, "soft": blocks, "files_hard": files, "files_soft": files}
        self._call(_SET, uid, _Block(**limits, valid=_LIMITS))

    def free(self, uid: int) -> None:
        """Take an account's limits away. Raises OSError."""
        self._call(_SET, uid, _Block(valid=_LIMITS))

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
        quota.free(os.getuid())
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
