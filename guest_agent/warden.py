"""The first process of a job slot: a small program from which payloads are started, and which ends all that they leave.

Where it may, it is the first process of namespaces of its own (processes, mounts, IPC), in which it is root and
payloads are not: the kernel kills everything in them with it, and what it signals with ``kill(-1)`` cannot fork away.
It is told what to do over a socket, reports what becomes of it, and ends when the agent at the other end does.

A program of its own, started by file name without site packages: it imports the standard library only, stays small,
and starts payloads by vfork, so that nothing of the agent's memory counts as theirs and limits hold from the first
instruction. What it says and hears: see ``guest_agent.container``.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

NEW_MOUNTS, NEW_IPC, NEW_PIDS = 0x00020000, 0x08000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 8, 4096, 16384, 1 << 19
MNT_DETACH = 2
SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36

#: A request is no longer; an order that is comes in a file, bytes.
MOST_BYTES = 64 << 10
#: How long killed processes may take to end, seconds: one that hangs in the kernel does not.
PATIENCE_S = 10.0
#: Whom the kernel ends first when memory is short.
FIRST_VICTIM = b"1000"

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Be told how to live by the command line: the socket's descriptor, then the setting as JSON."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    setting = json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _wait_for_predecessor(setting["keep"])
    if setting["group"]:
        _write(f"{setting['group']}/cgroup.procs", b"0")
    parts = _separate(setting)
    if "pids" in parts:
        _become_first()
    _libc.prctl(SET_CHILD_SUBREAPER, 1)
    _bound(setting["limits"])
    if "mounts" in parts:
        _arrange(setting, own_proc="pids" in parts)
    Warden(channel, setting, parts).serve()


def _wait_for_predecessor(directory: str) -> None:
    """Hold the slot. A warden whose agent was killed holds it until all that it had started has ended."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def _separate(setting: dict[str, Any]) -> list[str]:
    """Leave the namespaces that the agent asks to leave: mounts first, without which none of the others is whole."""
    flags = {"mounts": NEW_MOUNTS, "ipc": NEW_IPC, "pids": NEW_PIDS}
    left = []
    for part in setting["apart"]:
        if _libc.unshare(flags[part]):
            break
        left.append(part)
    return left


def _become_first() -> None:
    """Go on as the first process of the new namespace; the one before waits, and ends with it."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _libc.prctl(SET_PDEATHSIG, signal.SIGKILL)


def _arrange(setting: dict[str, Any], *, own_proc: bool) -> None:
    """Lay out what payloads see: scratch directories of their own, and of the agent's nothing but their slot's."""
    _mount(None, "/", None, MS_REC | MS_SLAVE)
    kept = os.open(setting["keep"], os.O_PATH | os.O_DIRECTORY)
    scratch = [(os.open(source, os.O_PATH | os.O_DIRECTORY), target) for source, target in setting["scratch"]]
    for source, target in scratch:
        _mount(f"/proc/self/fd/{source}", target, None, MS_BIND)
    for target in setting["cover"]:
        if os.path.isdir(target):
            _mount("cover", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    os.makedirs(setting["keep"], exist_ok=True)
    _mount(f"/proc/self/fd/{kept}", setting["keep"], None, MS_BIND)
    if os.path.isdir("/dev/shm"):
        _mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    if own_proc:
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for descriptor in (kept, *(source for source, _ in scratch)):
        os.close(descriptor)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, options)]
    if _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), target)


class Warden:
    """Serves one slot: at most one payload at a time, with whatever it starts."""

    def __init__(self, channel: socket.socket, setting: dict[str, Any], parts: list[str]) -> None:
        self._channel = channel
        self._parts = parts
        self._is_first = os.getpid() == 1
        self._leader = 0
        self._ended: dict[str, Any] | None = None
        self._cpu_seconds = 0.0
        self._oom = _oom_score()
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._has_shm = "mounts" in parts and os.path.isdir("/dev/shm")
        self._ipc = _Ipc() if "ipc" in parts else None
        self._account: list[int] | None = None
        self._cgroup = ""
        self._wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def serve(self) -> NoReturn:
        """Say hello, then do as told until the agent is gone."""
        self._say(hello=self._parts, pid=os.getpid())
        doing: dict[str, Callable[..., None]] = {
            "start": self._start,
            "read": self._read,
            "signal": self._signal,
            "measure": self._measure,
        }
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._wake:
                    self._on_children()
                    continue
                request, files = self._hear()
                doing[request.pop("do")](*files, **request)

    def _hear(self) -> tuple[dict[str, Any], list[int]]:
        try:
            message, files, _, _ = socket.recv_fds(self._channel, MOST_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            self._leave()
        if not message:
            self._leave()
        return json.loads(message), files

    def _say(self, **words: Any) -> None:
        try:
            self._channel.send(json.dumps(words).encode())
        except OSError:
            self._leave()

    def _leave(self) -> NoReturn:
        """The agent is gone: so is all that we have started."""
        self._end_all()
        os._exit(0)

    def _read(self, stdout: int, stderr: int, order: int) -> None:
        """Start a payload by an order that is too long for a message: it is in a file."""
        with open(order, "rb") as file:
            file.seek(0)
            told = {word: value for word, value in json.loads(file.read()).items() if word != "do"}
        self._start(stdout, stderr, **told)

    def _start(self, stdout: int, stderr: int, account: list[int] | None, cgroup: str, **told: Any) -> None:
        """Start a payload as told, as the leader of a session of its own. What is said of it is its end."""
        self._cpu_seconds, self._ended = 0.0, None
        self._account, self._cgroup = account, cgroup
        try:
            self._leader = self._spawn(stdout, stderr, **told)
        except OSError as error:
            self._say(failed=error.errno)
        finally:
            os.close(stdout)
            os.close(stderr)

    def _spawn(
        self, stdout: int, stderr: int, program: str, command: list[str], directory: str, environment: dict[str, str]
    ) -> int:
        """Put ourselves where the payload shall be, spawn it there, and come back: vfork leaves no time between."""
        actions = [(os.POSIX_SPAWN_DUP2, *pair) for pair in ((self._null, 0), (stdout, 1), (stderr, 2))]
        undo: list[Callable[[], None]] = []
        try:
            os.chdir(directory)
            undo.append(_enter(self._cgroup))
            undo.append(_expose(*self._oom))
            undo.append(_become(self._account))
            return os.posix_spawn(
                program,
                command,
                environment,
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM],
            )
        finally:
            for step in reversed(undo):
                step()
            os.chdir("/")

    def _signal(self, number: int) -> None:
        """Signal the payload's group; SIGKILL ends all that belongs to it, in whatever group it is."""
        if self._leader and number == signal.SIGKILL:
            self._kill_all()
        elif self._leader:
            _kill(-self._leader, number)

    def _on_children(self) -> None:
        try:
            os.read(self._wake, 4096)
            while self._bury():
                pass
        except (BlockingIOError, ChildProcessError):
            pass
        if self._ended is not None:
            self._finish(self._ended)

    def _bury(self) -> bool:
        """Bury one dead child, ours or adopted, and count what it has used. Raises ChildProcessError: there is none."""
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if not pid:
            return False
        self._cpu_seconds += usage.ru_utime + usage.ru_stime
        if pid == self._leader:
            self._ended = {"status": status, "peak_bytes": usage.ru_maxrss * 1024}
        return True

    def _finish(self, ended: dict[str, Any]) -> None:
        """The payload has ended: kill all that it left, bury it, and only then say so, with how many still live."""
        left = self._end_all()
        self._leader, self._ended = 0, None
        self._say(**ended, cpu_seconds=self._cpu_seconds, left=left)

    def _end_all(self) -> bool:
        """Kill and bury until there is nobody; says whether somebody lives on, who hangs in the kernel."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                while self._bury():
                    pass
            except ChildProcessError:
                self._tidy()
                return False
            self._kill_all()
            select.poll().poll(1)
        return True

    def _tidy(self) -> None:
        """What payloads leave in memory is not for the next: shared memory of either kind."""
        if self._has_shm and os.listdir("/dev/shm"):
            _libc.umount2(b"/dev/shm", MNT_DETACH)
            _mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
        if self._ipc is not None and self._ipc.has_entries():
            self._ipc.renew()

    def _kill_all(self) -> None:
        """By one call that nobody forks away from, where there is one: to a cgroup, a namespace, an account."""
        if self._cgroup:
            _write(f"{self._cgroup}/cgroup.kill", b"1")
        if self._is_first:
            _kill(-1, signal.SIGKILL)
            return
        if self._account:
            back = _become(self._account)
            _kill(-1, signal.SIGKILL)
            back()
        for pid in _family():
            _kill(pid, signal.SIGKILL)

    def _measure(self) -> None:
        """Say what all of it has in memory now."""
        resident = sum(pages for _, pages in _family().values()) * resource.getpagesize()
        self._say(resident_bytes=resident)


def _family() -> dict[int, tuple[int, int]]:
    """Find all that descend from us: process id to (parent, resident pages). The dead do not count."""
    everybody = {pid: found for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if (found := _stat(pid))}
    mine = {os.getpid()}
    while grown := {pid for pid, (parent, _) in everybody.items() if parent in mine and pid not in mine}:
        mine |= grown
    return {pid: everybody[pid] for pid in mine - {os.getpid()}}


def _stat(pid: int) -> tuple[int, int] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:  # it is gone
        return None
    return None if fields[0] in b"ZX" else (int(fields[1]), int(fields[21]))


class _Ipc:
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


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:  # nobody is there, which is as good
        pass


def _become(account: list[int] | None) -> Callable[[], None]:
    """Take an account on, root kept in reserve, which exec drops. As the first process no signal of it reaches us."""
    if not account:
        return lambda: None
    os.setgroups([])
    os.setresgid(account[1], account[1], 0)
    os.setresuid(account[0], account[0], 0)
    mask = os.umask(0o022)

    def back() -> None:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.umask(mask)

    return back


def _bound(limits: dict[str, int]) -> None:
    """Set limits for good, on ourselves and so on all that we start; none of them is one that we could meet."""
    for name, value in limits.items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def _oom_score() -> tuple[int, bytes]:
    """Open what says whom the kernel ends first, and give what it says of us."""
    file = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    return file, os.pread(file, 16, 0)


def _expose(file: int, before: bytes) -> Callable[[], None]:
    """Be, for the time of the spawn, whom the kernel ends first when memory is short."""
    os.pwrite(file, FIRST_VICTIM, 0)

    def back() -> None:
        os.pwrite(file, before, 0)

    return back


def _enter(cgroup: str) -> Callable[[], None]:
    """Enter the payload's cgroup for the time of the spawn; ours is beside it."""
    if not cgroup:
        return lambda: None
    home = f"{os.path.dirname(cgroup)}/warden"
    _write(f"{cgroup}/cgroup.procs", b"0")
    return lambda: _write(f"{home}/cgroup.procs", b"0")


def _write(path: str, word: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(word)


if __name__ == "__main__":
    main()
