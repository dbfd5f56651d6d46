"""Questions to a server by HTTP, each with a token, a bound in time and one in bytes; what goes wrong is said in words.

A token goes to the server's own address alone: no redirect is followed. The foreign library's errors are mapped here
and nowhere else. Nothing is tried twice, but with another token after a 401.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from adapters.errors import SourceError, SourceRefused, SourceUnavailable
from adapters.sources.dirac.deadlines import TimedTransport, ending_within
from adapters.sources.dirac.tokens import TokenAnswer, TokenFile
from broker.errors import ConfigError
from broker.masking import mask
from schemas.codec import clip
from schemas.plain_text import plain

T = TypeVar("T")

#: Longest answer, bytes: a thousand jobs with their history take some 2 MiB.
MOST_ANSWER_BYTES = 16 << 20
#: What of an answer's own words is shown, characters.
MOST_WORDS = 300
_BLOCK = 1 << 18
#: Answers that a person has to look at; all others that are no success may pass.
_FOR_GOOD = frozenset({400, 403, 404, 405, 409, 413, 414, 415, 422})
_LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})


class Budget:
    """The time that one call of a source has, in all its questions."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def left_s(self) -> float:
        """Give what is left, seconds. Raises SourceUnavailable when nothing is."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise SourceUnavailable("the server's answers took too long, all together")
        return left

    @contextlib.contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[None]:
        """Hold a lock. Raises SourceUnavailable where others have it for too long."""
        if not lock.acquire(timeout=self.left_s()):
            raise SourceUnavailable("calls before this one took too long")
        try:
            yield
        finally:
            lock.release()


class HttpAnswer(Struct, frozen=True):
    """What the server said."""

    status: int
    body: bytes
    #: When it said so by its own clock, as in the header.
    date: str
    #: When that was read, by our monotonic clock, seconds.
    read_s: float

    def decoded(self, kind: type[T]) -> T:
        """Read the body. Raises SourceUnavailable for what makes no sense."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            words = f"{plain(str(error))}: {_head(self.body)}"
            raise SourceUnavailable(f"the server's answer makes no sense: {words}") from None

    def words(self) -> str:
        """Give what a refusal says, in a person's words."""
        try:
            detail = msgspec.json.decode(self.body, type=_Refusal).detail
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _head(self.body)
        return shown(detail if isinstance(detail, str) else msgspec.json.encode(detail).decode())


class _Refusal(Struct):
    detail: Any = ""


class Http:
    """A server by its address."""

    def __init__(self, url: str, client_id: str, ca_file: str, timeout_s: float) -> None:
        """Raises ConfigError for an address that cannot be one, and SourceRefused for certificates that are none."""
        _demand_address(url)
        self._client_id, self._timeout_s = client_id, timeout_s
        self._client = httpx.Client(
            base_url=url,
            transport=TimedTransport(_certificates(ca_file)),
            follow_redirects=False,
            trust_env=False,
            headers={"User-Agent": "volunteer-cloud", "Accept": "application/json"},
        )

    def close(self) -> None:
        """Drop connections. Idempotent."""
        self._client.close()

    def ask(
        self,
        credential: TokenFile,
        method: str,
        path: str,
        budget: Budget,
        body: Any = None,
        params: Mapping[str, str | int] | None = None,
        also: frozenset[int] = frozenset(),
    ) -> HttpAnswer:
        """Ask a question with a token; ``also`` names statuses that are answers, beside those of success.

        Raises SourceUnavailable, also for a token that cannot be had, and SourceRefused.
        """
        headers = {"Content-Type": "application/json"} if body is not None else {}
        content = msgspec.json.encode(body) if body is not None else None

        def asked(token: str) -> HttpAnswer:
            with self._bounded(path, min(self._timeout_s, budget.left_s())):
                bearer = {**headers, "Authorization": f"Bearer {token}"}
                request = self._client.build_request(method, path, params=params, content=content, headers=bearer)
                return self._answer(request)

        token = credential.bearer(lambda refresh: self._renewed(refresh, budget))
        answer = asked(token)
        if answer.status == 401:
            token = credential.after_refusal(token, lambda refresh: self._renewed(refresh, budget))
            answer = asked(token)
        if answer.status == 401:
            raise SourceUnavailable(f"{credential.what}: the server refuses {credential.path}: {answer.words()}")
        if not 200 <= answer.status < 300 and answer.status not in also:
            raise _refusal(answer, f"{method} {path}, {credential.what}")
        return answer

    def upload(self, url: str, fields: Mapping[str, str], file: BinaryIO, budget: Budget) -> None:
        """Send a file to where the server has said, with no token. Raises SourceError."""
        with self._bounded("the sandbox store", budget.left_s()):
            request = self._client.build_request("POST", url, data=dict(fields), files={"file": ("sandbox", file)})
            answer = self._answer(request)
        if not 200 <= answer.status < 300:
            raise _refusal(answer, "the sandbox store")

    def download(self, url: str, target: Path, most_bytes: int, budget: Budget) -> str:
        """Fetch into a new file from where the server has said, with no token; gives its SHA-256. Raises SourceError;
        there may be a part of the file then."""
        digest, size = hashlib.sha256(), 0
        with self._bounded("the sandbox store", budget.left_s()), target.open("xb") as file:
            request = self._client.build_request("GET", url, headers={"Accept-Encoding": "identity"})
            with contextlib.closing(self._sent(request)) as response:
                if response.status_code != 200:
                    raise _refusal(self._read(response), "the sandbox store")
                for block in response.iter_raw(_BLOCK):
                    size += len(block)
                    if size > most_bytes:
                        raise SourceRefused(f"a sandbox of more than {most_bytes >> 20} MiB")
                    digest.update(block)
                    file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _renewed(self, refresh_token: str, budget: Budget) -> TokenAnswer:
        form = {"grant_type": "refresh_token", "client_id": self._client_id, "refresh_token": refresh_token}
        with self._bounded("/api/auth/token", min(self._timeout_s, budget.left_s())):
            answer = self._answer(self._client.build_request("POST", "/api/auth/token", data=form))
        if answer.status != 200:
            said = answer.words() if answer.status in (400, 401, 403) else f"status {answer.status}"
            raise SourceUnavailable(f"the token has expired, and the server does not refresh it: {said}: log in again")
        try:
            return msgspec.json.decode(answer.body, type=TokenAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise SourceUnavailable("the server's answer to a refresh makes no sense") from None

    def _answer(self, request: httpx.Request) -> HttpAnswer:
        with contextlib.closing(self._sent(request)) as response:
            return self._read(response)

    def _sent(self, request: httpx.Request) -> httpx.Response:
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_s)
        return self._client.send(request, stream=True)

    def _read(self, response: httpx.Response) -> HttpAnswer:
        body = bytearray()
        for block in response.iter_bytes(_BLOCK):
            body += block
            if len(body) > MOST_ANSWER_BYTES:
                raise SourceUnavailable(f"an answer of more than {MOST_ANSWER_BYTES >> 20} MiB")
        return HttpAnswer(response.status_code, bytes(body), response.headers.get("Date", "")[:40], time.monotonic())

    @contextlib.contextmanager
    def _bounded(self, what: str, seconds: float) -> Iterator[None]:
        """Have questions end in time, and their errors be ours."""
        try:
            with ending_within(seconds):
                yield
        except httpx.TimeoutException:
            raise SourceUnavailable(f"{what}: no answer within {min(seconds, self._timeout_s):.3g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            words = mask(shown(str(error) or type(error).__name__))
            raise SourceUnavailable(f"{what}: cannot be reached: {words}") from None
        except OSError as error:
            raise SourceUnavailable(f"{what}: {shown(str(error))}") from error


def shown(text: str) -> str:
    """Give a stranger's words as they are shown."""
    return plain(clip(text, MOST_WORDS))


def _head(body: bytes) -> str:
    text = body[: 4 * MOST_WORDS].decode("utf-8", "replace").strip()
    return shown(" ".join(text.split())) if text else "nothing at all"


def _refusal(answer: HttpAnswer, asked: str) -> SourceError:
    words = f"{asked}: status {answer.status}: {answer.words()}"
    if answer.status in _FOR_GOOD:
        return SourceRefused(words)
    if 300 <= answer.status < 400:
        return SourceUnavailable(f"{asked}: the server sends us elsewhere, where no token goes: status {answer.status}")
    return SourceUnavailable(words)


def _demand_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if (
        not host
        or parts.username
        or parts.query
        or not (parts.scheme == "https" or (parts.scheme == "http" and host in _LOCAL))
    ):
        said = shown(url.rpartition("@")[2])
        raise ConfigError(f"source.url = '{said}': must be https://HOST, or http://127.0.0.1:PORT on this machine")


def _certificates(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:  # ssl.SSLError is one
        raise SourceRefused(f"source.ca_file = {ca_file!r}: {error.strerror or error}") from error
