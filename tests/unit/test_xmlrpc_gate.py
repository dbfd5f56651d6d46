"""Who is let in by the XML-RPC door: programs of this machine that have the token, and nobody else."""

from __future__ import annotations

import base64
import stat
from http import HTTPStatus
from pathlib import Path

import pytest

from volcloud.errors import BadInput
from volcloud.xmlrpc.gate import MOST_BODY_BYTES, Gate
from volcloud.xmlrpc.token_file import have_token, is_token, token_path

TOKEN = b"t" * 43
GOOD = {
    b"host": b"127.0.0.1:8080",
    b"authorization": b"Basic " + base64.b64encode(b"token:" + TOKEN),
    b"content-type": b"text/xml",
    b"content-length": b"100",
}


def judge(
    changes: dict[bytes, bytes | None] | None = None, *, method: bytes = b"POST", target: bytes = b"/RPC2"
) -> HTTPStatus | None:
    headers = [(name, value) for name, value in (GOOD | (changes or {})).items() if value is not None]
    refusal = Gate(TOKEN, 8080).judge(method, target, headers)
    return refusal.status if refusal else None


@pytest.mark.parametrize("host", [b"127.0.0.1:8080", b"localhost:8080", b"LOCALHOST:8080", b"[::1]:8080"])
def test_who_has_the_token_comes_in(host: bytes) -> None:
    assert judge({b"host": host}) is None
    assert judge({b"host": host, b"authorization": b"Bearer " + TOKEN}) is None


@pytest.mark.parametrize(
    "words",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer " + TOKEN[:-1],
        b"Bearer " + TOKEN + b"t",
        b"Basic " + base64.b64encode(TOKEN),
        b"Basic " + base64.b64encode(TOKEN + b":"),
        b"Basic %%%",
        b"Basic \xff",
        b"Digest " + TOKEN,
        b"Bearer \xff\xfe",
    ],
)
def test_who_has_it_not_does_not(words: bytes | None) -> None:
    assert judge({b"authorization": words}) is HTTPStatus.UNAUTHORIZED


def test_two_tokens_are_none() -> None:
    headers = [*GOOD.items(), (b"authorization", b"Bearer x")]

    refusal = Gate(TOKEN, 8080).judge(b"POST", b"/RPC2", headers)

    assert refusal is not None
    assert refusal.status is HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize("host", [None, b"", b"evil.example:8080", b"127.0.0.1", b"127.0.0.1:80", b"127.0.0.1:8080.e"])
def test_a_name_that_is_not_the_loopbacks_is_refused(host: bytes | None) -> None:
    assert judge({b"host": host}) is HTTPStatus.MISDIRECTED_REQUEST


@pytest.mark.parametrize(
    "sent",
    [{b"origin": b"http://evil.example"}, {b"origin": b"null"}, {b"sec-fetch-site": b"cross-site"}],
)
def test_a_page_in_a_browser_is_refused_even_with_the_token(sent: dict[bytes, bytes | None]) -> None:
    assert judge(sent) is HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("kind", [None, b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data"])
def test_what_a_form_of_a_page_can_send_is_refused(kind: bytes | None) -> None:
    assert judge({b"content-type": kind}) is HTTPStatus.UNSUPPORTED_MEDIA_TYPE


def test_a_request_has_a_form() -> None:
    assert judge(method=b"GET") is HTTPStatus.METHOD_NOT_ALLOWED
    assert judge(method=b"OPTIONS") is HTTPStatus.METHOD_NOT_ALLOWED
    assert judge(target=b"/") is HTTPStatus.NOT_FOUND
    assert judge(target=b"http://127.0.0.1:8080/RPC2") is HTTPStatus.NOT_FOUND
    assert judge({b"content-encoding": b"gzip"}) is HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    assert judge({b"content-length": b"%d" % (MOST_BODY_BYTES + 1)}) is HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert judge({b"content-type": b'text/xml; charset="utf-8"'}) is None


def test_the_token_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = token_path(tmp_path)

    token = have_token(path)

    assert len(token) == 43
    assert have_token(path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["token"]
    assert is_token(token, b"Bearer " + token)


def test_another_token_each_time(tmp_path: Path) -> None:
    tokens = set()
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        tokens.add(have_token(token_path(tmp_path / str(number))))

    assert len(tokens) == 3


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_file_that_others_may_touch_holds_no_token(tmp_path: Path, mode: int) -> None:
    path = token_path(tmp_path)
    have_token(path)
    path.chmod(mode)

    with pytest.raises(BadInput, match="must be a file of yours with mode 0600"):
        have_token(path)


@pytest.mark.parametrize("content", ["", "short", "x" * 129, "with space " * 4, "ü" * 40])
def test_a_file_without_a_token_is_told(tmp_path: Path, content: str) -> None:
    path = token_path(tmp_path)
    have_token(path)
    path.write_text(content)

    with pytest.raises(BadInput, match="holds no token"):
        have_token(path)


def test_a_link_in_the_tokens_place_is_not_followed(tmp_path: Path) -> None:
    path = token_path(tmp_path)
    have_token(path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"):
        have_token(path)
