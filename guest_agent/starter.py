"""The first process of a job slot: a small program from which payloads are started, and which ends all that they leave.

Where it may, it is the first process of namespaces of its own (processes, mounts, IPC), in which it is root and
payloads are not: the kernel kills everything in them with it, and what it signals with ``kill(-1)`` cannot fork away.
It is told what to do over a socket, reports what becomes of it, and ends when the agent at the other end does.

A program of its own, started without site packages: it and what it imports need the standard library only. It stays
small, and starts payloads by vfork, so that nothing of the agent's memory counts as theirs and limits hold from the
first instruction. What it says and hears: see ``guest_agent.container``.
"""

from __future__ import annotations

import ctypes
import errno
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

from guest_agent import namespaces
from guest_agent.process_tree import ENDS_S, descendants

SET_CHILD_SUBREAPER = 36
#: A request is no longer; an order that is comes in a file, bytes.
MOST_BYTES = 64 << 10
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
    parts = namespaces.separate(setting)
    if "pids" in parts:
        namespaces.become_first()
    _libc.prctl(SET_CHILD_SUBREAPER, 1)
    _bound(setting["limits"])
    if os.geteuid() == 0:
        # Once for all payloads: what changes with each is their account.
        os.setgroups([])
        os.umask(0o022)
    if "mounts" in parts:
        namespaces.arrange(setting, own_proc="pids" in parts)
    Starter(channel, setting, parts).serve()


def _wait_for_predecessor(directory: str) -> None:
    """Hold the slot. A starter whose agent was killed holds it until all that it had started has ended: see
    ``guest_agent.predecessor``."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


class Starter:
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
        has_memory = "mounts" in parts and os.path.isdir(namespaces.SHARED_MEMORY)
        self._memory = namespaces.SharedMemory() if has_memory else None
        self._ipc = namespaces.Ipc() if "ipc" in parts else None
        self._account: list[int] | None = None
        self._cgroup, self._own_cgroup = "", setting["group"]
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
            message, files, _, _ = socket.recv_fds(self._channel, MOST_BYTES, 4)
        except OSError:
            self._leave()
        for descriptor in files:  # Python 3.11 does not heed the flag that would
            os.set_inheritable(descriptor, False)
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
        except ValueError:  # a word that no program can be started with
            self._say(failed=errno.EINVAL)
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
            if self._is_first:
                undo.append(namespaces.end_with_outer)
            undo.append(_enter(self._cgroup, self._own_cgroup))
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
            while self._reap():
                pass
        except (BlockingIOError, ChildProcessError):
            pass
        if self._ended is not None:
            self._finish(self._ended)

    def _reap(self) -> bool:
        """Reap one dead child, ours or adopted, and count what it has used. Raises ChildProcessError: there is none."""
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if not pid:
            return False
        self._cpu_seconds += usage.ru_utime + usage.ru_stime
        if pid == self._leader:
            self._ended = {"status": status, "peak_bytes": usage.ru_maxrss * 1024}
        return True

    def _finish(self, ended: dict[str, Any]) -> None:
        """The payload has ended: kill all that it left, reap it, and only then say so, with how many still live."""
        left = self._end_all()
        self._leader, self._ended = 0, None
        self._say(**ended, cpu_seconds=self._cpu_seconds, left=left)

    def _end_all(self) -> bool:
        """Kill and reap until there is nobody; says whether somebody lives on, who hangs in the kernel."""
        deadline = time.monotonic() + ENDS_S
        while time.monotonic() < deadline:
            try:
                while self._reap():
                    pass
            except ChildProcessError:
                self._tidy()
                return False
            self._kill_all()
            select.poll().poll(1)
        return True

    def _tidy(self) -> None:
        """What payloads leave in memory is not for the next: shared memory of either kind."""
        if self._memory is not None and self._memory.has_entries():
            self._memory.renew()
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
        for pid in descendants(os.getpid()):
            _kill(pid, signal.SIGKILL)

    def _measure(self) -> None:
        """Say what all of it has in memory now."""
        resident = sum(pages for _, pages in descendants(os.getpid()).values()) * resource.getpagesize()
        self._say(resident_bytes=resident)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:  # nobody is there, which is as good
        pass


def _become(account: list[int] | None) -> Callable[[], None]:
    """Take an account on, root kept in reserve, which exec drops. As the first process no signal of it reaches us."""
    if not account:
        return lambda: None
    os.setresgid(account[1], account[1], 0)
    os.setresuid(account[0], account[0], 0)

    def back() -> None:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)

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


def _enter(cgroup: str, home: str) -> Callable[[], None]:
    """Enter the payload's cgroup for the time of the spawn."""
    if not cgroup:
        return lambda: None
    _write(f"{cgroup}/cgroup.procs", b"0")
    return lambda: _write(f"{home}/cgroup.procs", b"0")


def _write(path: str, word: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(word)
