"""The forge of minders, as the agent sees it: started when the first command comes, and again when it is gone."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess

from broker import durable
from broker.vm_mark import own_mark
from guest_agent.programs import MINDER, command_of

#: How long the forge may take to end, seconds: it has nothing to do but that.
END_S = 2.0


class Minders:
    """See the module. Closing it ends the forge, not the minders that it has forked: each has a socket of its own."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def fork(self, order: bytes, streams: tuple[int, int, int]) -> socket.socket:
        """Have a minder for a command with these standard streams; give the socket to it. Raises OSError."""
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its, os.fdopen(os.memfd_create("order"), "wb", buffering=0) as file:
            durable.write_all(file.fileno(), order)
            files = [its.fileno(), file.fileno(), *streams]
            try:
                socket.send_fds(self._forge(), [b"mind"], files)
            except ConnectionError:  # somebody has killed it, as root may
                self.close()
                socket.send_fds(self._forge(), [b"mind"], files)
        mine.setblocking(False)
        return mine

    def close(self) -> None:
        """End the forge. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
            self._process = None

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
