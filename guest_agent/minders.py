"""The forge of minders, as the agent sees it: started when the first command comes, and again when it is gone."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess

from broker import durable
from broker.vm_mark import own_mark
from guest_agent.programs import MINDER, command_of

#: What goes with the files of an order; the minder loads nothing of ours to know it.
ORDER = b"mind"
#: How long the forge may take to end, seconds: it has nothing to do but that.
END_S = 2.0


class Minders:
    """See the module. Closing it ends the forge, not the minders that have a command: each has a socket of its own.

    Once there was a first command a minder is there before it is needed: the one that has come back, or a new one."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._spare: socket.socket | None = None

    def mind(self, order: bytes, streams: tuple[int, int, int]) -> socket.socket:
        """Have a minder start a command with these standard streams; give the socket to it. Raises OSError."""
        minder, self._spare = self._spare or self._fork(), None
        try:
            with os.fdopen(os.memfd_create("order"), "wb", buffering=0) as file:
                durable.write_all(file.fileno(), order)
                files = [file.fileno(), *streams]
                try:
                    socket.send_fds(minder, [ORDER], files)
                except (ConnectionError, BlockingIOError):  # killed, as root may, or full of signals that came late
                    minder.close()
                    minder = self._fork()
                    socket.send_fds(minder, [ORDER], files)
        except BaseException:
            minder.close()
            raise
        return minder

    def take_back(self, minder: socket.socket) -> None:
        """Let a minder of whose command nothing is left be the next one's."""
        if self._spare is None and self._socket is not None:
            self._spare = minder
        else:
            minder.close()

    def prepare(self) -> None:
        """Have a minder ready for the next command. Nothing happens where there was none yet, or where it cannot be."""
        if self._spare is None and self._socket is not None:
            with contextlib.suppress(OSError):
                self._spare = self._fork()

    def close(self) -> None:
        """End the forge, and a minder that has no command. Idempotent."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
            self._process = None

    def _fork(self) -> socket.socket:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            try:
                socket.send_fds(self._forge(), [b"fork"], [its.fileno()])
            except ConnectionError:  # somebody has killed it, as root may
                self.close()
                socket.send_fds(self._forge(), [b"fork"], [its.fileno()])
        mine.setblocking(False)
        return mine

    def _forge(self) -> socket.socket:
        if self._socket is None:
            mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with its:
                self._process = subprocess.Popen(
                    [*command_of(MINDER), str(its.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(its.fileno(),),
                    start_new_session=True,
                    env={"LANG": "C.UTF-8"} | own_mark(),
                )
            mine.setblocking(False)  # one that takes nothing any more fails the command, not the agent
            self._socket = mine
        return self._socket
