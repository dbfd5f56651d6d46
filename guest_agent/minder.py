"""The parent of a console's command: a small program that starts it, tells of its end, and leaves nothing of it.

It adopts whatever the command starts, in whatever session, and kills it with the command's end, or with the agent's:
the socket to the agent closes then. What the kernel says of the command's use is of the command alone, as none of the
agent's memory is ever the command's.

Minders are forked from a program of its own, the forge, which is started once, without site packages: to start Python
takes an emulated guest seconds. It and what it imports need the standard library only. Over its socket come those of
minders, one for each that is to be forked; over a minder's own a file with its command's order, and its standard
streams; see ``guest_agent.minded``. A minder has one command after another, for as long as nothing is left of any, not
in itself either: it has become nobody else for one, and has not grown.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from guest_agent.process_tree import ENDS_S, descendants

SET_CHILD_SUBREAPER = 36
#: What comes with the files of an order.
ORDER = b"mind"
#: Descriptors that come with a command: its order and its streams.
MOST_FILES = 4
#: A command that ends within this time is not said to have begun before, ms: the agent hears of it once.
SHORT_MS = 3
#: A minder that has grown by more has no other command, KiB: what it is itself counts in the next one's memory. The
#: first costs 1 MiB.
MOST_GROWTH_KIB = 3072
#: Signals that a command finds as they are by default, whatever the agent or this does with them.
_DEFAULT = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> NoReturn:
    """Fork a minder for each command that comes, until the agent is gone."""
    forge = socket.socket(fileno=int(sys.argv[1]))
    forge.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    while True:
        _, files = _receive(forge)
        if len(files) == 1 and os.fork() == 0:
            forge.close()
            libc.prctl(SET_CHILD_SUBREAPER, 1)
            _mind(socket.socket(fileno=files[0]))
        for descriptor in files:
            os.close(descriptor)


def _mind(channel: socket.socket) -> NoReturn:
    """Be the minder of commands, which may be long in coming."""
    try:
        os.setsid()
        first_kib = _largest_kib()
        while True:
            order, *streams = _receive_order(channel)
            for descriptor, stream in enumerate(streams):
                os.dup2(stream, descriptor)
                os.close(stream)
            with os.fdopen(order, "rb") as file:
                file.seek(0)
                told = json.loads(file.read())
            Minder(channel, first_kib + MOST_GROWTH_KIB).run(told)
    finally:
        os._exit(1)  # never back to the forge


def _receive_order(channel: socket.socket) -> list[int]:
    """Give the files of the next order. A signal that comes before it was for the command that has ended."""
    while True:
        message, files = _receive(channel)
        if message == ORDER:
            return files


def _largest_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Give the next message and the files that it brings; end when the agent has closed its end."""
    message, files, _, _ = socket.recv_fds(channel, 64, MOST_FILES)
    for descriptor in files:  # Python 3.11 does not heed the flag that would
        os.set_inheritable(descriptor, False)
    if not message:
        os._exit(0)
    return message, files


class Minder:
    """Minds one command."""

    def __init__(self, channel: socket.socket, most_kib: int) -> None:
        """``most_kib``: larger than this it has no other command."""
        self._channel, self._most_kib = channel, most_kib
        self._stays, self._began_s = True, 0.0
        self._leader = 0
        #: What is known of its end; empty until then.
        self._ended: dict[str, Any] = {}
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def run(self, order: dict[str, Any]) -> None:
        """Start the command and say so, or why not; then do as told to its end, and say that. Returns where nothing is
        left of it, so that there may be another.

        Who has asked for it may have given up meanwhile, and said that it was not started: then it is not."""
        if self._is_alone():
            os._exit(0)
        self._stays, self._began_s = order["account"] is None, time.monotonic()
        try:
            self._leader = _start(**order)
        except OSError as error:
            self._say_last(failed=error.errno, at=error.filename)
        except ValueError:  # a word that no program can be started with
            self._say_last(failed=errno.EINVAL, at=None)
        else:
            _let_go_of_streams()
            self._mind()
        if not self._stays:
            os._exit(0)
        os.chdir("/")
        _let_go_of_streams()
        signal.set_wakeup_fd(-1)
        os.close(self._wake)
        os.close(self._woken)

    def _mind(self) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        is_said = False
        while not self._ended:
            for descriptor, _ in poll.poll(None if is_said else SHORT_MS):
                self._on_children() if descriptor == self._wake else self._hear()
            if not self._ended and not is_said:
                self._say(pid=self._leader)
                is_said = True
        is_left = self._end_all()
        self._stays &= not is_left
        self._say_last(**self._ended, left=is_left)

    def _is_alone(self) -> bool:
        """Say whether the agent has closed its end."""
        try:
            return self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _hear(self) -> None:
        try:
            message = self._channel.recv(4096)
        except OSError:
            message = b""
        if not message:
            self._end_all()
            os._exit(0)
        number = json.loads(message)["signal"]
        if number == signal.SIGKILL:
            self._kill_all()
        else:
            _kill(-self._leader, number)

    def _say_last(self, **words: Any) -> None:
        """Say what became of the command, and whether there may be another."""
        self._stays &= _largest_kib() <= self._most_kib
        self._say(**words, stays=self._stays)

    def _say(self, **words: Any) -> None:
        try:
            self._channel.send(json.dumps(words).encode())
        except OSError:  # the agent is gone
            self._end_all()
            os._exit(0)

    def _on_children(self) -> None:
        try:
            os.read(self._wake, 4096)
            while self._reap():
                pass
        except (BlockingIOError, ChildProcessError):
            pass

    def _reap(self) -> bool:
        """Reap one dead child, the command or one that was adopted. Raises ChildProcessError: there is none."""
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid and pid == self._leader:
            self._ended = {
                "status": status,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "system_seconds": usage.ru_stime,
                "peak_bytes": usage.ru_maxrss * 1024,
                "wall_seconds": time.monotonic() - self._began_s,
            }
        return bool(pid)

    def _end_all(self) -> bool:
        """Kill and reap until there is nobody; says whether somebody lives on, who hangs in the kernel."""
        deadline = time.monotonic() + ENDS_S
        while time.monotonic() < deadline:
            try:
                while self._reap():
                    pass
            except ChildProcessError:
                return False
            self._kill_all()
            select.poll().poll(1)
        return True

    def _kill_all(self) -> None:
        for pid in descendants(os.getpid()):
            _kill(pid, signal.SIGKILL)


def _start(
    *,
    command: list[str],
    environment: dict[str, str],
    directory: str,
    account: dict[str, Any] | None,
    terminal: str,
) -> int:
    """Become who the command is, go where it is, and start it as the leader of a session. Raises OSError that names
    what is to blame."""
    if account is not None:
        os.setgroups(account["groups"])
        os.setresgid(account["gid"], account["gid"], 0)
        os.setresuid(account["uid"], account["uid"], 0)
    try:
        _enter(directory)
        return _spawn(command, environment, terminal)
    finally:
        if account is not None:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)


def _enter(directory: str) -> None:
    """Go there. Raises OSError with an empty name: what it names else is a program, which may be a directory too."""
    try:
        os.chdir(directory)
    except OSError as error:
        error.filename = ""
        raise


def _spawn(command: list[str], environment: dict[str, str], terminal: str) -> int:
    """Start the first program of that name on the search path that can be. Root is kept in reserve; exec drops it."""
    blame = OSError(errno.ENOENT, "", command[0])
    for program in _candidates(command[0], environment):
        try:
            return os.posix_spawn(
                program,
                command,
                environment,
                file_actions=_streams(terminal),
                setsid=True,
                setsigmask=[],
                setsigdef=_DEFAULT,
            )
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            if error.errno == errno.EACCES:
                blame = error
    raise OSError(blame.errno, "", command[0])


def _candidates(name: str, environment: dict[str, str]) -> list[str]:
    """Name what may be the program. To try one that is not there takes a process, to look whether it is does not."""
    if os.path.dirname(name):
        return [name]
    places = [os.path.join(place, name) for place in os.get_exec_path(environment)]
    return [place for place in places if os.path.lexists(place)]


def _streams(terminal: str) -> list[tuple[Any, ...]]:
    """A terminal that the leader of a session opens is the session's own: so it is opened again, by its name."""
    if not terminal:
        return []
    return [
        (os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]


def _let_go_of_streams() -> None:
    """Leave them to the command: who waits for their end waits for it alone."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:  # nobody is there, which is as good
        pass
