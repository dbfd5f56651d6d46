"""A transport whose questions end in time, whatever the other side does: the library's own limits count from one byte
to the next, so that a server which sends one now and then would hold a thread for good."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

#: Connections to one server at once, and how long one is kept that nobody uses, seconds: less than servers do.
_MOST_CONNECTIONS, _KEPT_S = 16, 3.0

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
            keepalive_expiry=_KEPT_S,
            network_backend=_TimedBackend(),
        )
