"""A TCP proxy that keeps every byte that passes, either way: what a guest could have heard, and what it said."""

from __future__ import annotations

import socket
import threading

#: Bytes that are kept; a test that makes more of them fails.
MOST_BYTES = 256 << 20


class Recorder:
    """Forwards connections from a port of its own to another on loopback until it is closed."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        #: By connection and direction, each in order.
        self._streams: list[bytearray] = []
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def streams(self) -> list[bytes]:
        """Give what has passed."""
        with self._lock:
            return [bytes(stream) for stream in self._streams]

    def close(self) -> None:
        """Break all connections. Idempotent."""
        with self._lock:
            sockets, self._sockets = [self._listener, *self._sockets], []
        for one in sockets:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # closed
                return
            for source, sink in ((near, far), (far, near)):
                stream = bytearray()
                with self._lock:
                    self._streams.append(stream)
                    self._sockets.append(source)
                threading.Thread(target=self._pump, args=(source, sink, stream), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, stream: bytearray) -> None:
        try:
            while block := source.recv(1 << 16):
                with self._lock:
                    stream += block
                    assert sum(map(len, self._streams)) < MOST_BYTES, "more passes than is kept"
                sink.sendall(block)
        except OSError:
            pass
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
