"""The namespaces that a starter lives in: how it leaves those of its machine, and what payloads see in its own.

Standard library only, as all that a starter loads. Called by a process of one thread, before anything else runs in it;
errors are OSError with the place in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
from typing import Any

NEW_MOUNTS, NEW_IPC, NEW_PIDS = 0x00020000, 0x08000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 8, 4096, 16384, 1 << 19
MNT_DETACH = 2
SET_PDEATHSIG = 1
SHARED_MEMORY = "/dev/shm"

_libc = ctypes.CDLL(None, use_errno=True)


def separate(setting: dict[str, Any]) -> list[str]:
    """Leave the namespaces that the agent asks to leave: mounts first, without which none of the others is whole.

    What is mounted from then on the machine does not see. In a chroot that cannot be had: there nothing is left.
    """
    flags = {"mounts": NEW_MOUNTS, "ipc": NEW_IPC, "pids": NEW_PIDS}
    left = []
    for part in setting["apart"]:
        if _libc.unshare(flags[part]) or (part == "mounts" and not _keeps_mounts()):
            break
        left.append(part)
    return left


def _keeps_mounts() -> bool:
    try:
        _mount(None, "/", None, MS_REC | MS_SLAVE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        with contextlib.suppress(OSError):  # the agent's log, whose disk may be full
            os.write(2, b"payloads share the machine's mounts and processes: the root is no mount; is this a chroot?\n")
        return False
    return True


def become_first() -> None:
    """Go on as the first process of the new namespace; the one before waits, and ends with it."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    end_with_outer()


def end_with_outer() -> None:
    """Have the kernel end us with the process before us. Whatever changes our user or group undoes it: see prctl(2)."""
    _libc.prctl(SET_PDEATHSIG, signal.SIGKILL)


def arrange(setting: dict[str, Any], *, own_proc: bool) -> None:
    """Lay out what payloads see: scratch directories of their own, and of the agent's nothing but their slot's."""
    kept = os.open(setting["keep"], os.O_PATH | os.O_DIRECTORY)
    scratch = [(os.open(source, os.O_PATH | os.O_DIRECTORY), target) for source, target in setting["scratch"]]
    for source, target in scratch:
        _mount(f"/proc/self/fd/{source}", target, None, MS_BIND)
    for target in setting["cover"]:
        if os.path.isdir(target):
            _mount("cover", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    os.makedirs(setting["keep"], exist_ok=True)
    _mount(f"/proc/self/fd/{kept}", setting["keep"], None, MS_BIND)
    if os.path.isdir(SHARED_MEMORY):
        _mount_shared_memory()
    if own_proc:
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for descriptor in (kept, *(source for source, _ in scratch)):
        os.close(descriptor)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, options)]
    if _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), target)


def _mount_shared_memory() -> None:
    _mount("shm", SHARED_MEMORY, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")


class Ipc:
    """The namespace of System V's IPC that we are in, and the kernel's lists of what is in it, held open."""

    def __init__(self) -> None:
        self._lists: list[int] = []
        self._open()

    def has_entries(self) -> bool:
        """Say whether there is anything of any kind: a second line, below the heading."""
        return any(os.pread(each, 4096, 0).count(b"\n") > 1 for each in self._lists)

    def renew(self) -> None:
        """Leave it for a fresh one: an open list stays with the namespace in which it was opened."""
        _libc.unshare(NEW_IPC)
        self._open()

    def _open(self) -> None:
        while self._lists:
            os.close(self._lists.pop())
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._lists += [os.open(f"/proc/sysvipc/{kind}", flags) for kind in ("shm", "sem", "msg")]


class SharedMemory:
    """Our own ``/dev/shm``. Whether there is anything in it the file system tells in one call."""

    def __init__(self) -> None:
        self._taken = self._count()

    def has_entries(self) -> bool:
        """Say whether there are more files in it than at first."""
        return self._count() != self._taken

    def renew(self) -> None:
        """Leave it, and whoever holds something of it, for a fresh one."""
        _libc.umount2(os.fsencode(SHARED_MEMORY), MNT_DETACH)
        _mount_shared_memory()
        self._taken = self._count()

    def _count(self) -> int:
        found = os.statvfs(SHARED_MEMORY)
        # Where a machine bounds no files of such a system, what it holds is counted instead.
        return found.f_files - found.f_ffree or len(os.listdir(SHARED_MEMORY))
