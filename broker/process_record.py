"""A process that outlived the one that started it, told apart from a stranger that has its pid now.

A pid alone is reused; a pid with the boot and the tick at which its process started is not. Linux only.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec

#: Environment variable that marks every process of a VM with the VM's directory on this machine: another agent's VM, or
#: a copy's, may have the same id. The host sets it; what a VM starts hands it on, whatever else it leaves out.
MARK = "VOLCLOUD_VM"

_POLL_S = 0.05


class ProcessRecord(msgspec.Struct, frozen=True):
    """Who a process is."""

    pid: int
    #: Clock ticks from the machine's boot to its start; 0 when it was gone before we looked.
    started: int
    boot: str

    def encode(self) -> bytes:
        """Render for a file."""
        return msgspec.json.encode(self)

    def is_alive(self) -> bool:
        """That very process still runs; a zombie does not."""
        return self.started > 0 and self.boot == _boot_id() and _started(self.pid) == self.started

    def is_stopped(self) -> bool:
        """That very process is there, and stopped by a signal or a debugger: it does nothing until it is continued."""
        return self.is_alive() and _run_state(self.pid) in ("T", "t")

    def end(self, patience_s: float) -> None:
        """Terminate it, and kill its process group when the patience is at its end. Returns when it is gone.

        A stranger that has its pid now is left alone.
        """
        if self.is_alive():
            _signal(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + patience_s
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        while self.is_alive():
            _signal(-self.pid, signal.SIGKILL)
            time.sleep(_POLL_S)


def own_mark() -> dict[str, str]:
    """Give the mark that we bear, as a variable for what we start; empty in a machine that is no process of a host."""
    return {MARK: os.environ[MARK]} if MARK in os.environ else {}


def record_of(pid: int) -> ProcessRecord:
    """Say who a process is that was started just now."""
    return ProcessRecord(pid=pid, started=_started(pid) or 0, boot=_boot_id())


def read_record(path: Path) -> ProcessRecord | None:
    """Read a record; None if there is none. A damaged one says nothing, so it counts as none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProcessRecord)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _started(pid: int) -> int | None:
    """Tick at which a process started; None if it is gone or a zombie."""
    fields = _fields(pid)
    return None if not fields or fields[0] in "ZX" else int(fields[19])


def _run_state(pid: int) -> str:
    fields = _fields(pid)
    return fields[0] if fields else ""


def _fields(pid: int) -> list[str]:
    """Give what the kernel says of a process behind its name; nothing of one that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text[text.rindex(")") + 2 :].split()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # gone already, which is what is wanted
