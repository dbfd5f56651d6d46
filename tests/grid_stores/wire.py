"""A TCP relay on loopback that can cut its connections, hold what goes through, or take all and say nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

#: How long a relayed connection may rest before its threads end by themselves, seconds.
_PATIENCE_S = 120.0


class Wire:
    """Between a client and a server's port. ``cut_after`` and ``hold_after`` count what clients have sent, bytes."""

    def __init__(self, port: int, cut_after: int, hold_after: int, is_silent: bool, at: int) -> None:
        self._to, self._is_silent = port, is_silent
        self._cut_after, self._hold_after = cut_after, hold_after
        self._listener = socket.create_server(("127.0.0.1", at))
        self.port: int = self._listener.getsockname()[1]
        self.sent = 0
        self.cuts = 0
        self.is_holding = threading.Event()
        self._released = threading.Event()
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection that there is; later ones go through."""
        self.cuts += 1
        ends, self._ends = self._ends, []
        for end in ends:
            _shut(end)

    def close(self) -> None:
        self._released.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or who waits in accept takes one more
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._ends.append(client)
            if self._is_silent:
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._to), timeout=10)
            except OSError:
                _shut(client)
                continue
            self._ends.append(server)
            for source, target, counts in ((client, server, True), (server, client, False)):
                source.settimeout(_PATIENCE_S)
                threading.Thread(target=self._relay, args=(source, target, counts), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 16):
                if counts:
                    self._count(len(block))
                if self.is_holding.is_set():
                    self._released.wait(_PATIENCE_S)
                target.sendall(block)
        _shut(source)
        _shut(target)

    def _count(self, size: int) -> None:
        self.sent += size
        if self._cut_after and self.sent >= self._cut_after:
            self._cut_after = 0
            self.cut()
        if self._hold_after and self.sent >= self._hold_after:
            self.is_holding.set()


@contextlib.contextmanager
def wire(port: int, *, cut_after: int = 0, hold_after: int = 0, is_silent: bool = False, at: int = 0) -> Iterator[Wire]:
    """Have a relay for as long as the block lasts, at a port of one's own or any."""
    made = Wire(port, cut_after, hold_after, is_silent, at)
    try:
        yield made
    finally:
        made.close()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
