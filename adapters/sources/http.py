"""Questions to a server by HTTP, each with a token, a bound in time and one in bytes; what goes wrong is said in words.

A credential goes to the server's own address alone: with one no redirect is followed. The foreign library's errors are
mapped here and nowhere else. Nothing is tried twice, but with another token where the server has refused the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from adapters.errors import SourceDenied, SourceError, SourceRefused, SourceUnavailable
from adapters.sources.certificates import Certificates
from adapters.sources.deadlines import RenewedTransport, TimedTransport, ending_within
from adapters.sources.inflow import flowing_in
from adapters.sources.tokens import TokenAnswer, TokenFile
from broker.errors import ConfigError
from broker.masking import mask
from schemas.codec import UNREADABLE, clip
from schemas.plain_text import plain

T = TypeVar("T")

#: Longest answer, bytes: a thousand jobs with their history take some 2 MiB.
MOST_ANSWER_BYTES = 16 << 20
#: What of an answer's own words is shown, characters.
MOST_WORDS = 300
_BLOCK = 1 << 18
#: Answers to a question with which a person has to do something; all others that are no success may pass.
_OF_US = dict.fromkeys((400, 403, 404, 405, 409, 413, 414, 415, 422), SourceDenied)
#: Answers of a store that say that there is no such file.
_OF_A_FILE = dict.fromkeys((404, 410), SourceRefused)
_LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})
#: Answers of a store that has a file on another machine, and how often one is sent on.
_ELSEWHERE, _MOST_STEPS = frozenset({301, 302, 303, 307, 308}), 5


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
        except UNREADABLE as error:
            words = f"{plain(str(error))}: {_head(self.body)}"
            raise SourceUnavailable(f"the server's answer makes no sense: {words}") from None

    def words(self) -> str:
        """Give what a refusal says, in a person's words."""
        try:
            detail = msgspec.json.decode(self.body, type=_Refusal).detail
        except UNREADABLE:
            return _head(self.body)
        return shown(detail if isinstance(detail, str) else msgspec.json.encode(detail).decode())


class _Refusal(Struct):
    detail: Any = ""


class TokenRenewal(NamedTuple):
    """Where the server renews tokens, as OAuth has it, and by which name it knows us."""

    path: str
    client_id: str


#: Says of an answer whether it refuses the token, and not what was asked.
IsRefused = Callable[[HttpAnswer], bool]


class Http:
    """A server by its address, and stores that it sends us to."""

    def __init__(
        self,
        url: str,
        certificates: Certificates,
        timeout_s: float,
        renewal: TokenRenewal | None = None,
        is_refused: IsRefused = lambda answer: answer.status == 401,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``headers`` go with every question. Raises ConfigError for an address that cannot be one, and SourceRefused
        for certificates that are none."""
        demand_address(url, "source.url")
        self._renewal, self._is_refused, self._timeout_s = renewal, is_refused, timeout_s
        self._client = _client(RenewedTransport(certificates), url, headers or {})
        #: Whoever else we are sent to sees no certificate of ours.
        self._others = _client(TimedTransport(certificates.trusted()), "", {})

    def close(self) -> None:
        """Drop connections. Idempotent."""
        self._client.close()
        self._others.close()

    def ask(
        self,
        credential: TokenFile | None,
        method: str,
        path: str,
        budget: Budget,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        also: frozenset[int] = frozenset(),
        *,
        file: tuple[str, BinaryIO] | None = None,
        within_s: float = 0.0,
        most_bytes: int = MOST_ANSWER_BYTES,
    ) -> HttpAnswer:
        """Ask a question with a token, where there is one; ``also`` names statuses that are answers, beside those of
        success. ``file``, a name and what it holds, is sent as the form field of that name in the place of a body;
        ``within_s`` bounds this answer in the place of the settings.

        Raises SourceUnavailable, also for a token that cannot be had, and SourceDenied.
        """
        headers = {"Content-Type": "application/json"} if body is not None else {}
        content = msgspec.json.encode(body) if body is not None else None

        def asked(token: str) -> HttpAnswer:
            seconds = min(within_s or self._timeout_s, budget.left_s())
            with self._bounded(path, seconds):
                bearer = {**headers, "Authorization": f"Bearer {token}"} if token else headers
                files = None if file is None else {"file": file}
                if file is not None:
                    file[1].seek(0)
                request = self._client.build_request(
                    method, path, params=params, content=content, files=files, headers=bearer
                )
                return self._answer(request, self._client, seconds, most_bytes)

        answer = asked("") if credential is None else self._asked_with(credential, asked, budget)
        if not 200 <= answer.status < 300 and answer.status not in also:
            whose = "" if credential is None else f", {credential.what}"
            raise _refusal(answer, f"{method} {path}{whose}", _OF_US)
        return answer

    def _asked_with(self, credential: TokenFile, asked: Callable[[str], HttpAnswer], budget: Budget) -> HttpAnswer:
        renew = None if self._renewal is None else lambda refresh: self._renewed(refresh, budget)
        token = credential.bearer(renew)
        answer = asked(token)
        if self._is_refused(answer):
            answer = asked(credential.after_refusal(token, renew))
        if self._is_refused(answer):
            raise SourceUnavailable(f"the server refuses {credential.path} ({credential.what}): {answer.words()}")
        return answer

    def upload(self, url: str, fields: Mapping[str, str], file: BinaryIO, budget: Budget) -> None:
        """Send a file to where the server has said, with no token. Raises SourceError."""
        with self._bounded("the sandbox store", budget.left_s()):
            request = self._others.build_request("POST", url, data=dict(fields), files={"file": ("sandbox", file)})
            answer = self._answer(request, self._others, self._timeout_s)
        if not 200 <= answer.status < 300:
            raise _refusal(answer, "the sandbox store", {})

    def download(
        self, url: str, target: Path, most_bytes: int, budget: Budget, where: str = "the sandbox store"
    ) -> str:
        """Fetch into a new file from where the server has said, with no token; gives its SHA-256. Raises SourceError,
        which says ``where``, and NoStagingRoom; there may be a part of the file then."""
        digest, size = hashlib.sha256(), 0
        with self._bounded(where, budget.left_s()), contextlib.closing(self._found(url, where)) as response:
            expected = min(_length(response), most_bytes)
            with flowing_in(target, where, expected) as flow:
                for block in response.iter_raw(_BLOCK):
                    size += len(block)
                    if size > most_bytes:
                        raise SourceRefused(f"{where}: a file of more than {most_bytes >> 20} MiB")
                    digest.update(block)
                    flow.write(block)
        return digest.hexdigest()

    def _found(self, url: str, where: str) -> httpx.Response:
        """Follow a file to where its store has it: many send whoever asks to another of their machines."""
        for _ in range(_MOST_STEPS):
            request = self._others.build_request("GET", url, headers={"Accept-Encoding": "identity"})
            response = self._sent(request, self._others, self._timeout_s)
            if response.status_code == 200:
                return response
            with contextlib.closing(response):
                next_url = str(request.url.join(response.headers.get("Location", "")))
                # To servers of this machine nobody else sends us.
                may_follow = _is_address(next_url) and (not _is_here(next_url) or _is_here(url))
                if response.status_code not in _ELSEWHERE or not may_follow:
                    raise _refusal(self._read(response), where, _OF_A_FILE)
            url = next_url
        raise SourceUnavailable(f"{where}: sent elsewhere more than {_MOST_STEPS} times")

    def _renewed(self, refresh_token: str, budget: Budget) -> TokenAnswer:
        if self._renewal is None:
            raise SourceUnavailable("this server renews none: have another one written")
        path, client_id = self._renewal
        form = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": refresh_token}
        with self._bounded(path, min(self._timeout_s, budget.left_s())):
            request = self._client.build_request("POST", path, data=form)
            answer = self._answer(request, self._client, self._timeout_s)
        if answer.status != 200:
            said = answer.words() if answer.status in (400, 401, 403) else f"status {answer.status}"
            raise SourceUnavailable(f"the server does not do so: {said}: log in again")
        try:
            return msgspec.json.decode(answer.body, type=TokenAnswer)
        except UNREADABLE:
            raise SourceUnavailable("the server's answer to a refresh makes no sense") from None

    def _answer(
        self, request: httpx.Request, client: httpx.Client, seconds: float, most_bytes: int = MOST_ANSWER_BYTES
    ) -> HttpAnswer:
        with contextlib.closing(self._sent(request, client, seconds)) as response:
            return self._read(response, most_bytes)

    def _sent(self, request: httpx.Request, client: httpx.Client, seconds: float) -> httpx.Response:
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        return client.send(request, stream=True)

    def _read(self, response: httpx.Response, most_bytes: int = MOST_ANSWER_BYTES) -> HttpAnswer:
        body = bytearray()
        for block in response.iter_bytes(_BLOCK):
            body += block
            if len(body) > most_bytes:
                raise SourceUnavailable(f"an answer of more than {most_bytes >> 20} MiB")
        return HttpAnswer(response.status_code, bytes(body), response.headers.get("Date", "")[:40], time.monotonic())

    @contextlib.contextmanager
    def _bounded(self, what: str, seconds: float) -> Iterator[None]:
        """Have questions end in time, and their errors be ours."""
        began_s = time.monotonic()
        try:
            with ending_within(seconds):
                yield
        except httpx.TimeoutException as error:
            is_over = seconds > self._timeout_s and time.monotonic() - began_s >= seconds
            limit_s = seconds if is_over else min(seconds, self._timeout_s)
            late = "not over" if is_over else "no answer"
            raise SourceUnavailable(f"{what}: {late} within {limit_s:.3g} s{_server_of(error)}") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            words = mask(shown(str(error) or type(error).__name__))
            raise SourceUnavailable(f"{what}: cannot be reached{_server_of(error)}: {words}") from None
        except OSError as error:
            raise SourceUnavailable(f"{what}: {shown(str(error))}") from error


def shown(text: str) -> str:
    """Give a stranger's words as they are shown."""
    return plain(clip(text, MOST_WORDS))


def _head(body: bytes) -> str:
    text = body[: 4 * MOST_WORDS].decode("utf-8", "replace").strip()
    return shown(" ".join(text.split())) if text else "nothing at all"


def _refusal(answer: HttpAnswer, asked: str, final: Mapping[int, type[SourceError]]) -> SourceError:
    """Give what is to be raised for an answer that is none of success; ``final`` says what of some statuses."""
    words = f"{asked}: status {answer.status}: {answer.words()}"
    if 300 <= answer.status < 400:
        return SourceUnavailable(f"{asked}: the server sends us elsewhere, where no token goes: status {answer.status}")
    return final.get(answer.status, SourceUnavailable)(words)


def demand_address(url: str, setting: str) -> None:
    """Raise ConfigError that names ``setting`` for what is no address, or one where what is sent can be read."""
    if not _is_address(url) or urlsplit(url).query:
        said = shown(url.rpartition("@")[2])
        raise ConfigError(f"{setting} = '{said}': must be https://HOST, or http://127.0.0.1:PORT on this machine")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and host in _LOCAL)
    return bool(host) and not parts.username and is_safe


def _server_of(error: Exception) -> str:
    """Name the server that was asked, where that is known; of the address no more, which may be a key to a file."""
    request = getattr(error, "_request", None)
    if not isinstance(request, httpx.Request):
        return ""
    return f" at {shown(request.url.netloc.decode('ascii', 'replace'))}"


def _is_here(url: str) -> bool:
    return (urlsplit(url).hostname or "") in _LOCAL


def _length(response: httpx.Response) -> int:
    """Say how long a server says that its answer is; 0 where it does not."""
    said = response.headers.get("Content-Length", "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 19 else 0


def _client(transport: httpx.BaseTransport, url: str, headers: Mapping[str, str]) -> httpx.Client:
    known = {"User-Agent": "volunteer-cloud", "Accept": "application/json", "Connection": "close"}
    return httpx.Client(
        base_url=url, transport=transport, follow_redirects=False, trust_env=False, headers={**known, **headers}
    )
