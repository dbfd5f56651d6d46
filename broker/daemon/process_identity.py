"""Who a process is, for whoever comes after the one that started it: no stranger that has its pid now is taken for it.

A pid alone is reused; a pid with the boot and the tick at which its process started is not. Linux only.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec

from broker.daemon.process_stat import ProcessStat, read_stat

_POLL_S = 0.05


class ProcessIdentity(msgspec.Struct, frozen=True):
    """One process of one boot; equal values are the same process."""

    pid: int
    #: Clock ticks from the machine's boot to its start; 0 when it was gone before we looked.
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Say who a process is that was started just now."""
        stat = read_stat(pid)
        return cls(pid=pid, started=0 if stat is None or stat.is_dead else stat.started, boot=boot_id())

    @classmethod
    def read(cls, path: Path) -> ProcessIdentity | None:
        """Read a file of ``encode``; None if there is none. A damaged one says nothing, so it counts as none."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def encode(self) -> bytes:
        """Render for a file."""
        return msgspec.json.encode(self)

    def stat(self) -> ProcessStat | None:
        """Read what the kernel knows of exactly this process; None once it is dead, reaped or not."""
        if not self.started or self.boot != boot_id():
            return None
        stat = read_stat(self.pid)
        return stat if stat is not None and stat.started == self.started and not stat.is_dead else None

    def is_alive(self) -> bool:
        """That very process still runs; a zombie does not."""
        return self.stat() is not None

    def is_stopped(self) -> bool:
        """That very process is there, and stopped by a signal or a debugger: it does nothing until it is continued."""
        stat = self.stat()
        return stat is not None and stat.run_state in "Tt"

    def kill(self) -> None:
        """Kill it, and nobody else that has its pid by now. Idempotent. Returns before it has ended."""
        if self.is_alive():
            _signal(self.pid, signal.SIGKILL)

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


def boot_id() -> str:
    """Give the id of this boot of the machine's kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # gone already, which is what is wanted
