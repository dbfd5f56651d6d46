"""Who comes in: the judgement of a request's head, before a byte of its body is read. Nothing here talks to a socket.

A loopback port is open to every program of the machine, and to every page in its browsers. So the token is asked for
each time; a name that is not the loopback's is refused (a page whose name was made to point here), and so is whatever a
browser says that a page sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

from volcloud.xmlrpc.token_file import is_token

#: The path that every XML-RPC client takes by itself.
PATH = b"/RPC2"
#: Names by which a program on this machine may call it.
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
#: Longest request body: arguments are names and short texts; what is large goes by cpFileToVM, bytes.
MOST_BODY_BYTES = 1 << 20
_XML = (b"text/xml", b"application/xml")


class HttpRefusal(NamedTuple):
    """Why a request is not let in."""

    status: HTTPStatus
    text: str
    header: tuple[str, str] | None = None


class Gate:
    """See the module."""

    def __init__(self, token: bytes, port: int) -> None:
        self._token = token
        self._hosts = {f"{name}:{port}".encode() for name in LOOPBACK_NAMES}

    def judge(self, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> HttpRefusal | None:
        """Say why a request is refused; None: it may go on. Names of headers are in lower case."""
        given: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            given.setdefault(name, []).append(value)
        return self._of_browsers(given) or self._of_stranger(given) or _of_form(method, target, given)

    def _of_browsers(self, given: dict[bytes, list[bytes]]) -> HttpRefusal | None:
        hosts = given.get(b"host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            names = " or ".join(sorted(host.decode() for host in self._hosts))
            return HttpRefusal(HTTPStatus.MISDIRECTED_REQUEST, f"the Host header must be {names}: call it by that")
        if b"origin" in given or given.get(b"sec-fetch-site", [b"none"]) != [b"none"]:
            return HttpRefusal(HTTPStatus.FORBIDDEN, "pages in browsers are not served: call it from a program")
        return None

    def _of_stranger(self, given: dict[bytes, list[bytes]]) -> HttpRefusal | None:
        words = given.get(b"authorization", [])
        if len(words) == 1 and is_token(self._token, words[0]):
            return None
        text = (
            "the token is missing or wrong: it is in the file xmlrpc/token of the data directory; "
            f'ServerProxy("http://token:TOKEN@{LOOPBACK_NAMES[0]}:PORT{PATH.decode()}") sends it'
        )
        return HttpRefusal(HTTPStatus.UNAUTHORIZED, text, ("WWW-Authenticate", 'Basic realm="volcloud xmlrpc"'))


def _of_form(method: bytes, target: bytes, given: dict[bytes, list[bytes]]) -> HttpRefusal | None:
    if target.partition(b"?")[0].rstrip(b"/") != PATH:
        return HttpRefusal(HTTPStatus.NOT_FOUND, f"there is nothing but {PATH.decode()}: call that")
    if method != b"POST":
        return HttpRefusal(HTTPStatus.METHOD_NOT_ALLOWED, "calls are POSTs", ("Allow", "POST"))
    kinds = [value.partition(b";")[0].strip().lower() for value in given.get(b"content-type", [])]
    if len(kinds) != 1 or kinds[0] not in _XML:
        return HttpRefusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be text/xml")
    if given.get(b"content-encoding", [b"identity"]) != [b"identity"]:
        return HttpRefusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must not be compressed: send it as it is")
    if any(int(value) > MOST_BODY_BYTES for value in given.get(b"content-length", [])):
        return too_large()
    return None


def too_large() -> HttpRefusal:
    """Refuse a body that is too long."""
    text = f"a request may have {MOST_BODY_BYTES:,} bytes: send files by cpFileToVM"
    return HttpRefusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
