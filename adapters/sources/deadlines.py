"""A transport whose questions end in time, whatever the other side does: the library's own limits count from one byte
to the next, so that a server which sends one now and then would hold a thread for good."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

from adapters.sources.certificates import Certificates

#: Connections to one server at once. None is kept for the next question: where a server, or what stands before it,
#: answers twice, the second answer would be taken for that of the next question.
_MOST_CONNECTIONS, _KEPT_CONNECTIONS = 16, 0

#: Until when this thread's question may take, by the monotonic clock, seconds.
_until_s: ContextVar[float] = ContextVar("until_s")


@contextlib.contextmanager
def ending_within(seconds: float) -> Iterator[None]:
    """Have whatever this thread asks in the block end in time, with a time-out of the library's."""
    mark = _until_s.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _until_s.reset(mark)


def _left_s(timeout: float | None, late: type[Exception]) -> float | None:
    until_s = _until_s.get(None)
    if until_s is None:
        return timeout
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise late
    return left_s if timeout is None else min(timeout, left_s)


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left_s = _left_s(timeout, httpcore.ConnectTimeout)
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, left_s))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _TimedBackend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        left_s = _left_s(timeout, httpcore.ConnectTimeout)
        return _TimedStream(super().connect_tcp(host, port, left_s, local_address, socket_options))


class TimedTransport(httpx.HTTPTransport):
    """The library's transport, held to ``ending_within``."""

    def __init__(self, certificates: ssl.SSLContext) -> None:
        super().__init__(verify=certificates, trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=certificates,
            max_connections=_MOST_CONNECTIONS,
            max_keepalive_connections=_KEPT_CONNECTIONS,
            network_backend=_TimedBackend(),
        )


class RenewedTransport(httpx.BaseTransport):
    """A timed transport that shows the server our certificate as it is in its file now."""

    def __init__(self, certificates: Certificates) -> None:
        """Raises SourceRefused and SourceUnavailable."""
        self._certificates, self._lock = certificates, threading.Lock()
        self._mark, context = certificates.current()
        #: The one in use, last; and the one before it, whose questions may not have been answered.
        self._transports = [TimedTransport(context)]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """As the library has it. Raises SourceUnavailable for a certificate that cannot be read any more."""
        return self._now().handle_request(request)

    def close(self) -> None:
        """Drop connections. Idempotent."""
        with self._lock:
            for transport in self._transports:
                transport.close()

    def _now(self) -> TimedTransport:
        with self._lock:
            if self._certificates.is_changed(self._mark):
                self._mark, context = self._certificates.current()
                self._transports.append(TimedTransport(context))
                for old in self._transports[:-2]:
                    old.close()
                self._transports = self._transports[-2:]
            return self._transports[-1]
