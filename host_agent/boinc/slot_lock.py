"""A slot is one process's: BOINC's own lock on it, which a process that died has left, and one that lives holds."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from host_agent.boinc.slot_files import LOCK_FILE

#: How long another process may take to end that has the slot, seconds, as in BOINC; and between two tries.
PATIENCE_S, LOOK_S = 35.0, 0.2


class SlotLock:
    """See the module."""

    def __init__(self, slot: Path) -> None:
        self._path = slot / LOCK_FILE
        self._file = -1

    def take(self) -> bool:
        """Try to take it; say whether it is ours. Raises OSError where the slot takes no file."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_it = os.path.samestat(os.fstat(file), self._path.stat())
        except (BlockingIOError, PermissionError, FileNotFoundError):
            os.close(file)
            return False
        if not is_it:  # whoever had it has removed it meanwhile
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Let it go, and remove it. Idempotent."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1
