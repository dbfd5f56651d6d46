"""A session with a Rucio server: logged in, with answers read and its errors made ours. Knows no files.

Rucio's statuses say little: 401 is both a token that has run out and a right that we have not, 500 a name that it does
not like. What counts is the name of the exception that an answer carries. Secrets are in headers alone: no error and no
log has them.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec

from adapters.bounded_calls import BoundedCalls
from adapters.catalogues.rucio import RucioSettings
from adapters.errors import CatalogueRefused, CatalogueUnavailable
from schemas.plain_text import plain

#: A token is renewed so long before it runs out, seconds.
_EARLY_S = 60.0
#: For how long a token is used that says nothing of its end, seconds.
_TRUSTED_S = 600.0
#: How many times a single answer's limit an answer may take that comes drop by drop.
_DROPS = 3
#: Longest words of the server that are passed on, characters.
_MOST_WORDS = 500

_TOKEN = "X-Rucio-Auth-Token"
#: The exceptions by which Rucio says that we are not logged in (any more).
_NOT_LOGGED_IN = "CannotAuthenticate"
#: Those that no other file would fare better with; and those that pass.
_REFUSED = {"AccessDenied", "AccountNotFound", "IdentityError", "RSENotFound", "ScopeNotFound", _NOT_LOGGED_IN}
_PASSING = {"DatabaseException", "ResourceTemporaryUnavailable", "ServiceUnavailable"}


class RucioAnswer(NamedTuple):
    """What the server said to one request."""

    #: The exception's name; empty: it was done.
    fault: str
    words: str
    rows: list[dict[str, Any]]


class RucioSession:
    """Logs in when it is needed, and anew when a token has run out. Thread-safe."""

    def __init__(self, settings: RucioSettings) -> None:
        self._settings = settings
        self._url = settings.url.rstrip("/")
        self._calls = BoundedCalls()
        self._lock = threading.Lock()
        self._token, self._good_until = "", 0.0
        # Its debug lines show the headers of answers, and so our token.
        logging.getLogger("httpcore").setLevel(logging.WARNING)
        with _mapped(self._url):
            self._client = httpx.Client(verify=self._tls(), timeout=settings.timeout_s)

    def post(self, path: str, body: object) -> RucioAnswer:
        """Ask, logged in. Raises CatalogueUnavailable, and CatalogueRefused where no other file would fare better."""
        content = msgspec.json.encode(body)
        token = self._logged_in()
        answer = self._read(self._sent(path, content, token))
        if answer.fault == _NOT_LOGGED_IN:
            self._forget(token)
            answer = self._read(self._sent(path, content, self._logged_in()))
        if answer.fault in _REFUSED:
            raise CatalogueRefused(f"catalogue {self._url}: {answer.fault}: {answer.words}")
        return answer

    def log_in(self) -> None:
        """Log in anew. Raises CatalogueRefused where the server does not accept us."""
        with self._lock:
            self._log_in()

    def close(self) -> None:
        """Drop connections."""
        self._client.close()

    def _logged_in(self) -> str:
        with self._lock:
            if time.monotonic() >= self._good_until:
                self._log_in()
            return self._token

    def _forget(self, token: str) -> None:
        with self._lock:
            if self._token == token:  # nobody has renewed it meanwhile
                self._good_until = 0.0

    def _log_in(self) -> None:
        secret_file = Path(self._settings.secret_file)
        if self._settings.auth == "token":
            self._token, self._good_until = self._secret(secret_file), time.monotonic() + _TRUSTED_S
            return
        headers = {"X-Rucio-Account": self._settings.account}
        if self._settings.auth == "userpass":
            headers |= {"X-Rucio-Username": self._settings.username, "X-Rucio-Password": self._secret(secret_file)}
        answer = self._asked_to_log_in(headers)
        if answer.status_code != httpx.codes.OK or _TOKEN not in answer.headers:
            read = self._read(answer)
            raise CatalogueRefused(f"catalogue {self._url}: it does not log us in: {read.words or read.fault}")
        self._token = answer.headers[_TOKEN]
        self._good_until = time.monotonic() + _left_s(answer.headers.get(f"{_TOKEN}-Expires", ""))

    def _asked_to_log_in(self, headers: dict[str, str]) -> httpx.Response:
        """Ask for a token, by a connection of its own: a proxy may be another one than at the last login."""
        way = "userpass" if self._settings.auth == "userpass" else "x509_proxy"
        url = f"{(self._settings.auth_url or self._url).rstrip('/')}/auth/{way}"

        def ask() -> httpx.Response:
            with httpx.Client(verify=self._tls(), timeout=self._settings.timeout_s) as client:
                return client.get(url, headers=headers)

        return self._bounded(ask)

    def _sent(self, path: str, content: bytes, token: str) -> httpx.Response:
        headers = {_TOKEN: token, "Content-Type": "application/json", "Accept": "*/*"}
        return self._bounded(lambda: self._client.post(f"{self._url}{path}", content=content, headers=headers))

    def _bounded(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        with _mapped(self._url):
            return self._calls.run(call, _DROPS * self._settings.timeout_s)

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._settings.ca or None)
        if self._settings.auth == "proxy":
            context.load_cert_chain(self._settings.secret_file)
        return context

    def _secret(self, file: Path) -> str:
        with _mapped(self._url):
            secret = file.read_text().strip()
        if not secret.isprintable() or not secret.isascii() or not secret:
            raise CatalogueRefused(f"catalogue {self._url}: {file} holds no single line of ASCII: no login without")
        return secret

    def _read(self, answer: httpx.Response) -> RucioAnswer:
        """Read an answer; raises CatalogueUnavailable for what passes, or is none of Rucio's."""
        if answer.is_success:
            return RucioAnswer("", "", _rows(answer, self._url))
        try:
            said = msgspec.json.decode(answer.content, type=dict[str, Any])
            fault, words = str(said["ExceptionClass"]), plain(str(said["ExceptionMessage"]))[:_MOST_WORDS]
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
            text = plain(answer.text[:_MOST_WORDS])
            raise CatalogueUnavailable(f"catalogue {self._url}: {answer.status_code} {text}; we try again") from None
        if fault in _PASSING or (fault == "RucioException" and "IntegrityError" not in words):
            raise CatalogueUnavailable(f"catalogue {self._url}: {fault}: {words}; we try again")
        return RucioAnswer(fault, words, [])


@contextlib.contextmanager
def _mapped(url: str) -> Iterator[None]:
    """The one place where HTTP's errors, and those of files to log in with, become ours."""
    try:
        yield
    except (TimeoutError, httpx.HTTPError) as error:
        words = plain(str(error)) or type(error).__name__
        raise CatalogueUnavailable(f"catalogue {url}: {words}; we try again") from error
    except OSError as error:  # of a file: HTTP's own come as HTTPError
        words = f"{error.filename or 'what we log in with'}: {error.strerror or error}"
        raise CatalogueRefused(f"catalogue {url}: {words}") from error


def _rows(answer: httpx.Response, url: str) -> list[dict[str, Any]]:
    """Read a stream of JSON, one a line; other answers have none."""
    if "x-json-stream" not in answer.headers.get("Content-Type", ""):
        return []
    try:
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in answer.content.splitlines() if line.strip()]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CatalogueUnavailable(f"catalogue {url}: an answer that makes no sense: {error}; we try again") from error


def _left_s(expires: str) -> float:
    """Say for how long a token is good, by the server's words (``Mon, 30 Nov 2026 03:54:17 UTC``)."""
    try:
        left_s = parsedate_to_datetime(expires).timestamp() - time.time()
    except (ValueError, TypeError):
        return _TRUSTED_S
    return max(0.0, left_s - _EARLY_S)
