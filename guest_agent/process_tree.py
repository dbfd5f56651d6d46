"""Who descends from whom, by the kernel's list of processes. Standard library only, as all that a starter loads."""

from __future__ import annotations

import os

#: How long killed processes may take to end, seconds: one that hangs in the kernel does not.
ENDS_S = 10.0


def descendants(root: int) -> dict[int, tuple[int, int]]:
    """Find all that descend from a process: process id to (parent, resident pages). The dead do not count."""
    everybody = {pid: found for pid in all_pids() if (found := _stat(pid))}
    members = {root}
    while grown := {pid for pid, (parent, _) in everybody.items() if parent in members and pid not in members}:
        members |= grown
    return {pid: everybody[pid] for pid in members - {root}}


def all_pids() -> list[int]:
    """List the processes that there are."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> tuple[int, int] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:  # it is gone
        return None
    return None if fields[0] in b"ZX" else (int(fields[1]), int(fields[21]))


def marked(mark: str) -> list[int]:
    """List the processes that have a variable, ``NAME=value``, in the environment that they were started with."""
    return [pid for pid in all_pids() if _has(pid, mark.encode())]


def _has(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:  # it is gone, or not ours
        return False
