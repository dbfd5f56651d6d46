"""What is known of one process of the centre: who it is, since when, how often it had to be started again.

Kept in a file, so that whoever comes after a killed supervisor finds every process that it started.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from broker import durable
from broker.daemon.process_identity import ProcessIdentity

#: Names of the two processes that are no daemons of ours to start.
SUPERVISOR, BROKER = "supervisor", "broker"


class ProcessState(msgspec.Struct, frozen=True, kw_only=True):
    """One process."""

    name: str
    record: ProcessIdentity
    #: When this one was started, ms since 1970.
    since_ms: int
    #: Times that it was started again.
    restarts: int = 0
    #: How the one before ended; empty for the first.
    last_end: str = ""

    @property
    def is_alive(self) -> bool:
        """That very process runs."""
        return self.record.is_alive()


def write_state(path: Path, name: str, pid: int, *, restarts: int = 0, last_end: str = "") -> None:
    """Keep who a process is that was started just now."""
    now_ms = int(time.time() * 1000)
    state = ProcessState(
        name=name, record=ProcessIdentity.of(pid), since_ms=now_ms, restarts=restarts, last_end=last_end
    )
    durable.replace(path, msgspec.json.encode(state))


def read_state(path: Path) -> ProcessState | None:
    """Read who a process was; None where there is none, or where the file says nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProcessState)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def read_states(directory: Path) -> list[ProcessState]:
    """Read all states of a directory, by name."""
    found = [read_state(path) for path in sorted(directory.glob("*.json"))]
    return [state for state in found if state is not None]
