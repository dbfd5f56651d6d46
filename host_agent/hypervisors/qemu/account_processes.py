"""What runs as a VM's account, whether or not any link to the VM is left: nothing else of the machine runs as that."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import defaultdict
from pathlib import Path

from broker.vm_mark import MARK

_PROC = Path("/proc")
_ROOT = 0


def by_user() -> dict[int, set[int]]:
    """Give all processes by each user that they are or can become, by the kernel's word."""
    found: dict[int, set[int]] = defaultdict(set)
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            # Its owner would not do: a process can have it be root.
            for uid in _users(entry):
                found[uid].add(int(entry.name))
    return found


def cut_off(home: Path, uid: int) -> set[int]:
    """Name the processes of a VM's account, but for those of another agent's VM that has the same one by chance: they
    bear the mark of a directory that was handed over to the account too."""
    return {pid for pid in by_user().get(uid, ()) if not _is_anothers(pid, home, uid)}


def is_shared(home: Path, uid: int) -> bool:
    """Say whether another agent's VM runs as the account of the VM in ``home`` too."""
    return any(_is_anothers(pid, home, uid) for pid in by_user().get(uid, ()))


def _users(entry: Path) -> set[int]:
    with contextlib.suppress(OSError):
        lines = (entry / "status").read_bytes().splitlines()
        if not any(line.startswith(b"State:\tZ") for line in lines):
            return {int(word) for line in lines if line.startswith(b"Uid:") for word in line.split()[1:]}
    return set()


def _is_anothers(pid: int, home: Path, uid: int) -> bool:
    with contextlib.suppress(OSError):
        for entry in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == MARK.encode():
                return _is_handed_over(value, home, uid)
    return False


def _is_handed_over(directory: bytes, home: Path, uid: int) -> bool:
    """Say whether a directory, which a process names as it likes, is another than ours that root gave the account: an
    account can make none such."""
    found = Path(os.fsdecode(directory)).stat()
    is_ours = home.exists() and os.path.samestat(found, home.stat())
    return not is_ours and stat.S_ISDIR(found.st_mode) and (found.st_uid, found.st_gid) == (_ROOT, uid)
