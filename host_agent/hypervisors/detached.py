"""Processes that outlive the agent: started in a session of their own, known again by what ``ProcessIdentity`` holds.

Ends are noticed through a pidfd, which also works for processes that are not our children. Drivers stand on this; it
knows nothing of VMs except the mark in the environment by which stray processes of a VM are found.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from broker.daemon.process_identity import ProcessIdentity
from broker.daemon.process_stat import ProcessStat, read_stat
from broker.vm_mark import MARK
from host_agent.hypervisors.vm_account import VmAccount, of_process

T = TypeVar("T")

#: A VM's directory is closed to other users; in it a guest's payloads have accounts of their own, to whom files and
#: directories must be open as is usual, however strict their host agent is.
_UMASK = 0o022

#: What a VM's process may inherit. The agent's own environment may hold secrets.
_INHERITED = ("HOME", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "TMPDIR", "TZ", "VIRTUAL_ENV")


def spawn(
    home: Path,
    command: Sequence[str],
    directory: Path,
    log: Path,
    niceness: int = 0,
    *,
    account: VmAccount | None = None,
    handed: Sequence[int] = (),
) -> ProcessIdentity:
    """Start ``command`` in ``directory``, in a session of its own, with its output appended to ``log``.

    The process bears the mark of the VM whose directory is ``home``, and inherits nothing else that is not on a short
    list. With a ``niceness`` it gives way to others by so much, and has the disk when nobody else wants it. With an
    ``account`` it runs as that, and may go into ``directory`` even where it could not go to it. The files that it is
    ``handed`` stay open. Raises OSError.
    """
    with log.open("ab") as output:
        log.chmod(0o600)
        child = subprocess.Popen(
            [*_giving_way(command[0], niceness), *command],
            cwd=directory,
            env=environment_of(home),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=_UMASK,
            pass_fds=handed,
            **of_process(account),
        )
    record = ProcessIdentity.of(child.pid)
    if not record.started:
        raise ChildProcessError(f"process {child.pid} was gone at once")
    return record


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Await what must not be left half done: when cancelled, wait for its end first, so that its effect is known."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def find_tree(home: Path, root: ProcessIdentity | None) -> set[int]:
    """Find every live process of the VM in ``home``: those that bear its mark, and all that descend from them in any
    way.

    A payload in a group or session of its own, a daemon that dropped its parent and a child with a cleaned
    environment are all found as long as one link to the VM is left.
    """
    everything = {stat.pid: stat for stat in all_processes() if not stat.is_dead}
    mark = f"{MARK}={home.resolve()}".encode()
    members = {pid for pid in everything if _bears_mark(pid, mark)}
    if root is not None and root.stat() is not None:
        members.add(root.pid)
    members.discard(os.getpid())
    while grown := {pid for pid, stat in everything.items() if pid not in members and _is_linked(stat, members)}:
        members |= grown
    return members


def send_signal(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal each process; those that ended meanwhile do not matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Watch:
    """Tells when a process ends, from the moment of construction until ``close``. Lives on one event loop."""

    def __init__(self, identity: ProcessIdentity, on_end: Callable[[], None]) -> None:
        """Raise ProcessLookupError if the process is already gone."""
        self.identity = identity
        self._on_end = on_end
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._fd = os.pidfd_open(identity.pid)
        if identity.stat() is None:
            _reap(self._fd)
            os.close(self._fd)
            raise ProcessLookupError(f"process {identity.pid} has ended")
        self._loop.add_reader(self._fd, self._end)

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, as far as this loop has heard."""
        return self._ended.is_set()

    async def wait(self) -> None:
        """Wait until the process has ended and ``on_end`` has been called."""
        await self._ended.wait()

    def send(self, number: signal.Signals) -> None:
        """Signal the process; does nothing once it has ended."""
        if not self._ended.is_set():
            signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        """Stop watching; the process goes on. Idempotent."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _end(self) -> None:
        _reap(self._fd)
        self.close()
        self._on_end()
        self._ended.set()


def _reap(fd: int) -> None:
    # Of a process that an earlier agent started we are not the parent; there is nothing to reap then.
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)


def _giving_way(program: str, niceness: int) -> list[str]:
    """Give what to put before a command. Both programs become the one that they start, so its pid is the child's."""
    if not niceness:
        return []
    if shutil.which(program) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    idle_disk = ["ionice", "-c", "3", "-t"] if shutil.which("ionice") else []
    return ["nice", "-n", str(niceness), *idle_disk]


def environment_of(home: Path | None) -> dict[str, str]:
    """Give what a program may inherit that runs for a VM, with the mark of the VM in ``home`` if it is of one."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | ({MARK: str(home.resolve())} if home is not None else {})


def all_processes() -> Iterator[ProcessStat]:
    """Give what the kernel says of every process, also of those that are dead and not buried."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := read_stat(int(entry.name))) is not None:
            yield stat


def _bears_mark(pid: int, mark: bytes) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (PermissionError, FileNotFoundError, ProcessLookupError):
        # Another user's process is none of ours.
        return False
    return mark in environment.split(b"\0")


def _is_linked(stat: ProcessStat, members: set[int]) -> bool:
    return bool({stat.parent, stat.group, stat.session} & members)
