"""Calls of RabbitMQ's management API: one HTTP request each, to the first endpoint that answers. Knows no resource.

A connection for each is the larger part of a call (3 to 11 ms of it, 1.5 ms without): calls that are made together have
one.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ssl
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec

from broker.address import AdminAddress
from broker.errors import ManagementError
from broker.peer import require_owner
from broker.tls import context_of, name_at, why_ended
from schemas.endpoints import Endpoint, Tls

#: How long one call may take, seconds.
TIMEOUT_S = 20.0


class Api:
    """One broker's management API, as one administrator, on one virtual host. Calls raise ManagementError."""

    def __init__(self, address: AdminAddress, *, timeout_s: float = TIMEOUT_S) -> None:
        self._address, self._timeout_s = address, timeout_s
        #: The virtual host as it stands in a path.
        self.vhost = quoted(address.vhost)
        login = f"{address.user}:{address.password}".encode()
        self._headers = {"Authorization": f"Basic {base64.b64encode(login).decode()}"}
        self._shared = _Shared()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Make the calls of this thread in the block on one connection. A block within one is a part of it."""
        if self._shared.is_wanted:
            yield
            return
        self._shared.is_wanted = True
        try:
            yield
        finally:
            self._shared.is_wanted = False
            self._shared.drop()

    def get(self, path: str, shape: type[Any]) -> Any:
        """Read what is there, as ``shape``."""
        _, body = self._ask("GET", path, None)
        try:
            return msgspec.json.decode(body, type=shape)
        except msgspec.MsgspecError as error:
            raise ManagementError(f"GET {path}: an answer of an unknown shape: {error}") from error

    def put(self, path: str, body: dict[str, Any]) -> None:
        """Make it, or make it anew. Idempotent."""
        self._ask("PUT", path, msgspec.json.encode(body))

    def delete(self, path: str, *, reason: str = "") -> bool:
        """Delete it, for a reason that the broker passes on. False: there was no such thing."""
        headers = {"X-Reason": reason} if reason else {}
        status, _ = self._ask("DELETE", path, None, allowed={404}, headers=headers)
        return status != 404

    def exists(self, path: str) -> bool:
        """Whether there is such a thing."""
        status, _ = self._ask("GET", path, None, allowed={404})
        return status != 404

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        *,
        allowed: set[int] | frozenset[int] = frozenset(),
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Make one call. Raises ManagementError with the status unless it is a success or ``allowed``."""
        all_headers = self._headers | {"Content-Type": "application/json"} | (headers or {})
        status, text = self._answer(method, path, body, all_headers)
        if status >= 400 and status not in allowed:
            said = text[:200].decode(errors="replace")
            raise ManagementError(f"{method} {path}: HTTP {status}: {said}", status)
        return status, text

    def _answer(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        """Ask the first endpoint that answers: each call may be made twice. Raises ManagementError when none does."""
        shared, self._shared.link = self._shared.link, None
        if shared is not None:
            # The broker may have closed it since: what it was asked then is asked anew, and nothing else is.
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                return self._on_shared(shared, method, path, body, headers)
        errors: list[str] = []
        for endpoint in self._address.management:
            link = self._link(endpoint)
            try:
                link.connect()
                if self._address.tls is None:  # else its certificate has said who it is
                    require_owner(link.sock, self._address.owner)
                return self._exchange(link, method, path, body, headers)
            except ssl.SSLError as error:
                errors.append(f"at {endpoint} is not to be trusted: {why_ended(endpoint, self._address.tls, error)}")
            except (OSError, http.client.HTTPException) as error:
                errors.append(f"at {endpoint} does not answer: {why_ended(endpoint, self._address.tls, error)}")
            finally:
                if link is not self._shared.link:
                    link.close()
        raise ManagementError(f"the broker's management API {'; '.join(errors)}")

    def _on_shared(
        self, link: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Ask where was asked before. Raises ConnectionError, HTTPException; ManagementError where no answer comes."""
        try:
            return self._exchange(link, method, path, body, headers)
        except TimeoutError as error:
            text = f"the broker's management API at {link.host}:{link.port} does not answer: {error}"
            raise ManagementError(text) from error

    def _exchange(
        self, link: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Ask on a connection, which the next call may have too where it is to. Raises OSError, HTTPException."""
        try:
            link.request(method, f"/api/{path}", body=body, headers=headers)
            answer = link.getresponse()
            found = answer.status, answer.read()
        except BaseException:
            link.close()
            raise
        if self._shared.is_wanted and link.sock is not None:
            self._shared.link = link
        else:
            link.close()
        return found

    def _link(self, endpoint: Endpoint) -> http.client.HTTPConnection:
        tls = self._address.tls
        if tls is None:
            return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=self._timeout_s)
        return _NamedHttps(endpoint, tls, self._timeout_s)


class _Shared(threading.local):
    """The connection of the calls that one thread makes together."""

    is_wanted = False
    link: http.client.HTTPConnection | None = None

    def drop(self) -> None:
        """Close it."""
        link, self.link = self.link, None
        if link is not None:
            link.close()


class _NamedHttps(http.client.HTTPSConnection):
    """HTTPS to a host whose certificate may bear another name."""

    def __init__(self, endpoint: Endpoint, tls: Tls, timeout_s: float) -> None:
        self._tls_context, self._name = context_of(tls), name_at(tls, endpoint)
        super().__init__(endpoint.host, endpoint.port, timeout=timeout_s, context=self._tls_context)

    def connect(self) -> None:
        """Connect, and check the other end's certificate. Raises ssl.SSLError, or OSError."""
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls_context.wrap_socket(self.sock, server_hostname=self._name)


def quoted(name: str) -> str:
    """Give a name as it stands in a path."""
    return quote(name, safe="")
