"""What the kernel says of a process in ``/proc/PID/stat``. Linux only."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessStat(msgspec.Struct, frozen=True):
    """The fields that we use."""

    pid: int
    #: One letter: T is stopped by a signal, t by a debugger, Z is dead and not yet reaped, X dead.
    run_state: str
    parent: int
    group: int
    session: int
    cpu_seconds: float
    #: The same of its children that have ended and that it has waited for, with theirs.
    children_cpu_seconds: float
    #: Clock ticks from the machine's boot to its start.
    started: int
    threads: int
    resident_bytes: int

    @property
    def age_s(self) -> float:
        """For how long it has been there, seconds."""
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - self.started / _TICKS_PER_S)

    @property
    def family_cpu_s(self) -> float:
        """Its CPU time with that of its children that have ended, seconds."""
        return self.cpu_seconds + self.children_cpu_seconds

    @property
    def is_dead(self) -> bool:
        """It has ended, reaped or not: with its last thread, not with its first."""
        return self.run_state in "ZX" and self.threads <= 1


def read_stat(pid: int) -> ProcessStat | None:
    """Read what the kernel knows of a process; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # a machine may hide what is others'
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(
        pid=pid,
        run_state=fields[0],
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        children_cpu_seconds=(int(fields[13]) + int(fields[14])) / _TICKS_PER_S,
        started=int(fields[19]),
        threads=int(fields[17]),
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
    )


class ProcessIo(msgspec.Struct, frozen=True):
    """What a process has read from disks and written to them, with its children that have ended."""

    read_bytes: int
    write_bytes: int


def read_io(pid: int) -> ProcessIo | None:
    """Read what a process has read and written; None if there is none, or it is another user's."""
    try:
        rows = Path(f"/proc/{pid}/io").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    found = dict(row.split(": ") for row in rows)
    return ProcessIo(int(found["read_bytes"]), int(found["write_bytes"]))
