"""Questions by HTTP to servers that do harm: they end in time and within bounds, and no token goes elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.errors import SourceError, SourceRefused, SourceUnavailable
from adapters.sources.certificates import Certificates
from adapters.sources.contract import GridJob, GridProgress, Offer
from adapters.sources.dirac import make_dirac
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.http import Budget, Http, HttpAnswer
from adapters.sources.tokens import TokenFile
from schemas.jobs import Machine
from schemas.ledger import JobState

Talk = Callable[[socket.socket], None]
MACHINE = Machine(cpus=1, memory_mib=1000, disk_mib=1000, platform="linux-x86_64")


@contextlib.contextmanager
def server(talk: Talk, *, hears: bool = True) -> Iterator[tuple[str, list[bytes]]]:
    """Talk with whoever connects; gives the address, and what was asked where it ``hears`` that first."""
    listening = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                one, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(one,), daemon=True).start()

    def answer(one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            if hears:
                heard.append(one.recv(1 << 16))
            talk(one)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", heard
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(60)


def says(body: bytes, status: str = "200 OK", headers: str = "") -> Talk:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    return lambda one: one.sendall(head.encode() + body)


def drips(piece: bytes, head: bytes = b"") -> Talk:
    def talk(one: socket.socket) -> None:
        one.sendall(head)
        while True:
            one.sendall(piece)
            time.sleep(0.1)

    return talk


@pytest.fixture
def token(tmp_path: Path) -> TokenFile:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text("a-secret-token")
    return TokenFile(path, "operator_credential")


def asked(url: str, token: TokenFile, budget_s: float = 10.0) -> HttpAnswer:
    http = Http(url, Certificates(""), 1.0)
    try:
        return http.ask(token, "GET", "/x", Budget(budget_s))
    finally:
        http.close()


@pytest.mark.parametrize(
    "talk",
    [
        drips(b"H"),
        drips(b"X: y\r\n", b"HTTP/1.1 200 OK\r\n"),
        drips(b"y", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
        drips(b"1\r\ny\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        lambda one: time.sleep(5),
    ],
    ids=["status", "headers", "body", "chunks", "nothing"],
)
def test_a_server_that_sends_a_byte_now_and_then_is_not_waited_for(token: TokenFile, talk: Talk) -> None:
    with server(talk) as (url, _):
        began = time.monotonic()

        with pytest.raises(SourceUnavailable, match="within 1 s"):
            asked(url, token)

        assert time.monotonic() - began < 3


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_an_answer_that_comes_twice_is_not_taken_for_that_of_the_next_question(
    token: TokenFile, pause_s: float
) -> None:
    numbers = itertools.count(1)

    def talk(one: socket.socket) -> None:
        while True:
            body = str(next(numbers)).encode()
            said = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            one.sendall(said)
            time.sleep(pause_s)
            one.sendall(said)
            if not one.recv(1 << 16):
                return

    with server(talk) as (url, _):
        http = Http(url, Certificates(""), 2.0)
        found = [http.ask(token, "GET", "/x", Budget(5)).body for _ in range(3)]
        http.close()

    assert found == [b"1", b"2", b"3"]


def test_a_call_has_one_budget_for_all_its_questions(token: TokenFile) -> None:
    budget = Budget(0.05)
    time.sleep(0.1)

    with pytest.raises(SourceUnavailable, match="all together"):
        budget.left_s()


@pytest.mark.parametrize(
    "talk",
    [
        drips(b"y" * (1 << 20), b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n"),
        says(b""),
        says(b"\xff\xfe" * 100),
        lambda one: one.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"),
        lambda one: one.close(),
        says(b"{}", headers="X: " + "y" * 200_000 + "\r\n"),
    ],
    ids=["endless", "empty", "no text", "no http", "closed", "headers"],
)
def test_whatever_is_no_answer_is_said_to_be_unavailable(token: TokenFile, talk: Talk) -> None:
    with server(talk) as (url, _), pytest.raises(SourceUnavailable) as caught:
        asked(url, token).decoded(dict[str, int])

    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_nobody_there_is_said(token: TokenFile) -> None:
    with pytest.raises(SourceUnavailable, match=r"/x: cannot be reached at 127\.0\.0\.1:1: "):
        asked("http://127.0.0.1:1", token)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_no_token_follows_to_another_server(token: TokenFile, status: str) -> None:
    with server(says(b"{}")) as (other, heard):
        with server(says(b"", status, f"Location: {other}/x\r\n")) as (url, _):
            with pytest.raises(SourceUnavailable, match="elsewhere"):
                asked(url, token)

    assert heard == []


def test_a_server_is_spoken_to_by_tls_if_its_certificate_is_good_and_in_time(token: TokenFile, tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)

    def talk(talk_on: Talk) -> Talk:
        return lambda one: talk_on(context.wrap_socket(one, server_side=True))

    def read_and_say(one: socket.socket) -> None:
        one.recv(1 << 16)
        says(b'{"a": 1}')(one)

    for talk_on, ca_file, words in (
        (read_and_say, str(tmp_path / "ca.pem"), ""),
        (read_and_say, "", "certificate verify failed"),
        (drips(b"H"), str(tmp_path / "ca.pem"), "within 1 s"),
    ):
        with server(talk(talk_on), hears=False) as (url, _):
            http = Http(url.replace("http:", "https:"), Certificates(ca_file), 1.0)
            if not words:
                assert http.ask(token, "GET", "/x", Budget(5)).decoded(dict[str, int]) == {"a": 1}
            else:
                with pytest.raises(SourceUnavailable, match=words):
                    http.ask(token, "GET", "/x", Budget(5))
            http.close()


def test_a_file_is_fetched_with_no_token(token: TokenFile, tmp_path: Path) -> None:
    with server(says(b"body")) as (url, heard):
        http = Http("https://diracx.example.org", Certificates(""), 1.0)
        http.download(f"{url}/file?signature=x", tmp_path / "file", 100, Budget(5))
        http.close()

    assert (tmp_path / "file").read_bytes() == b"body"
    assert b"authorization" not in heard[0].lower()


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with server(says(b"b" * 1000)) as (url, _):
        http = Http("https://diracx.example.org", Certificates(""), 1.0)
        with pytest.raises(SourceRefused, match="more than"):
            http.download(url, tmp_path / "file", 100, Budget(5))
        http.close()


def test_a_file_that_takes_too_long_in_all_says_which_limit_that_was(tmp_path: Path) -> None:
    with server(drips(b"y", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")) as (url, _):
        http = Http("https://diracx.example.org", Certificates(""), 1.0)
        with pytest.raises(SourceUnavailable, match=r"input a: not over within 1\.5 s"):
            http.download(f"{url}/a?signature=secret", tmp_path / "file", 100_000_000, Budget(1.5), "input a")
        http.close()


def test_nobody_sends_us_to_servers_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(302, headers={"Location": "http://127.0.0.1:15672/api/definitions"})

    http = Http("https://diracx.example.org", Certificates(""), 1.0)
    monkeypatch.setattr(http, "_others", httpx.Client(transport=httpx.MockTransport(answer)))
    with pytest.raises(SourceUnavailable, match="sends us elsewhere"):
        http.download("https://storage.example.org/file", tmp_path / "file", 100, Budget(5))
    http.close()

    assert asked == ["storage.example.org"]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["JobID", "Status", "Site", "success", "failed", "detail", "LoggingInfo", "1", "x"]), inner
        ),
    ),
    max_leaves=15,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=200)))
def test_whatever_a_server_answers_the_source_knows_what_to_make_of_it(token: TokenFile, body: bytes) -> None:
    with server(says(body)) as (url, heard):
        file = str(token.path)
        source = make_dirac(DiracSettings(url=url, operator_credential=file, pilot_credential=file), "x")
        progress = GridProgress(job=GridJob(id="1"), state=JobState.RUNNING)
        for call in (lambda: source.acquire([Offer(MACHINE, 1)], 5), lambda: source.beat([progress])):
            heard.clear()
            with contextlib.suppress(SourceError):
                call()
            assert heard, "it asked"
        source.close()
