"""One directory, one agent: a lock that the kernel takes back when its holder ends, however it ends.

Two agents would each take the other's VMs for leftovers. The file names its holder for people; what counts is the
kernel's lock on it, which no child inherits.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from broker import durable
from broker.durable import PRIVATE
from host_agent.errors import DirectoryTaken

_LOCK = "lock"
#: How often it is looked whether the directory is still the one that was locked, seconds.
LOOK_S = 2.0


class DirectoryLock:
    """The right to be the agent of a directory, from ``take`` until ``release`` or the end of the process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1

    def take(self) -> None:
        """Take the lock, at once or not at all. Raises DirectoryTaken naming the process that holds it. Idempotent."""
        if self._descriptor >= 0:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "?"
            os.close(descriptor)
            raise DirectoryTaken(
                f"{self._directory} is in use by another host_agent, pid {holder}: "
                "end that one first, or give this one a `directory` of its own"
            ) from error
        self._descriptor = descriptor
        self._name_holder()

    def check(self) -> None:
        """Raise DirectoryTaken when what has the directory's name now is not what was locked: a disk was mounted over
        it, or it was removed. What an agent wrote there would be written over what is not its own."""
        try:
            is_ours = os.path.samestat(os.fstat(self._descriptor), (self._directory / _LOCK).stat())
        except OSError:
            is_ours = False
        if not is_ours:
            raise DirectoryTaken(
                f"{self._directory} is another directory than it was: a disk was mounted over it, or it was removed; "
                "start the agent again to go on with what is there now"
            )

    async def hold(self) -> None:
        """Look from time to time whether the directory is still the one that was locked. Raises DirectoryTaken."""
        while True:
            self.check()
            await asyncio.sleep(LOOK_S)

    def release(self) -> None:
        """Let another agent have the directory. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _name_holder(self) -> None:
        """For people only, so a full disk does not keep an agent from starting."""
        try:
            os.ftruncate(self._descriptor, 0)
            durable.write_all(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            os.ftruncate(self._descriptor, 0)
