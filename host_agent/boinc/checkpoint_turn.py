"""Whose turn it is to write a checkpoint: one task of a project on a host at a time, or the disk is all that they have.

A lock in the project's directory, which goes with the process that holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

_NAME = "host_agent_checkpoint.lock"


class CheckpointTurn:
    """See the module. ``directory`` None: there is nobody to wait for."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / _NAME if directory is not None else None
        self._descriptor = -1

    def take(self) -> bool:
        """Take it, unless another task has it. A directory that takes no lock makes nobody wait."""
        if self._path is None or self._descriptor >= 0:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            return True
        self._descriptor = descriptor
        return True

    def give_back(self) -> None:
        """Let another one have it. Idempotent."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
