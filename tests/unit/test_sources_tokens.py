"""Credentials in files: which are taken, how each that is none is told, and that no token is told with it."""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from adapters.errors import SourceUnavailable
from adapters.sources import tokens
from adapters.sources.tokens import TokenAnswer, TokenFile

NOW_S = 1_000_000.0


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch()
    path.write_text(text)
    path.chmod(mode)
    return path


def login(access: str = "old", refresh: str = "again", expires_on: float = NOW_S + 3600) -> str:
    return json.dumps({"access_token": access, "refresh_token": refresh, "expires_on": expires_on})


def jwt(expiry: float) -> str:
    return f"head.{base64.urlsafe_b64encode(json.dumps({'exp': expiry}).encode()).decode().rstrip('=')}.sign"


def credential(path: Path) -> TokenFile:
    return TokenFile(path, "pilot_credential", lambda: NOW_S)


def never(refresh: str) -> TokenAnswer:
    raise AssertionError("it was refreshed")


def fresh(refresh: str) -> TokenAnswer:
    return TokenAnswer(f"new after {refresh}".replace(" ", "-"), 1200, "again-2")


def test_what_dirac_login_has_written_is_taken(tmp_path: Path) -> None:
    assert credential(written(tmp_path / "c", login())).bearer(never) == "old"


def test_a_bare_token_is_taken_and_read_again_when_it_changes(tmp_path: Path) -> None:
    one = credential(written(tmp_path / "c", f"{jwt(NOW_S + 600)}\n"))
    assert one.bearer(never) == jwt(NOW_S + 600)

    written(tmp_path / "next", jwt(NOW_S + 1200)).rename(tmp_path / "c")

    assert one.bearer(never) == jwt(NOW_S + 1200)


def test_a_token_that_is_about_to_expire_is_refreshed_and_written_back_in_place(tmp_path: Path) -> None:
    path = written(tmp_path / "c", login(expires_on=NOW_S + 5))
    number = path.stat().st_ino

    assert credential(path).bearer(fresh) == "new-after-again"

    assert json.loads(path.read_text()) == {
        "access_token": "new-after-again",
        "refresh_token": "again-2",
        "expires_on": NOW_S + 1200,
    }
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (number, 0o600)
    assert credential(path).bearer(never) == "new-after-again"


def test_a_fresh_token_that_the_disk_does_not_take_is_used_and_the_spent_one_is_not_shown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "c", login(expires_on=NOW_S + 5))
    one, full, asked = credential(path), [OSError(errno.ENOSPC, "No space left on device")], list[str]()

    def write(descriptor: int, data: bytes, offset: int) -> None:
        if full:
            raise full[0]
        os.pwrite(descriptor, data, offset)

    def renew(refresh: str) -> TokenAnswer:
        asked.append(refresh)
        return TokenAnswer(f"new-{len(asked)}", 10, f"again-{len(asked)}")

    monkeypatch.setattr(tokens, "write_all", write)
    first, second = one.bearer(renew), one.bearer(renew)
    full.clear()
    third = one.bearer(renew)

    assert (first, second, third) == ("new-1", "new-2", "new-3")
    assert asked == ["again", "again-1", "again-2"]
    assert json.loads(path.read_text())["refresh_token"] == "again-3"


@pytest.mark.parametrize("token", ["", "two words", "line\n", "\u00e9"])
def test_an_answer_that_holds_no_token_leaves_the_file_as_it_is(tmp_path: Path, token: str) -> None:
    path = written(tmp_path / "c", login(expires_on=NOW_S))
    before = path.read_bytes()

    with pytest.raises(SourceUnavailable, match="holds no token"):
        credential(path).bearer(lambda refresh: TokenAnswer(token, 1200, "other"))

    assert path.read_bytes() == before


def test_of_many_that_need_it_one_refreshes(tmp_path: Path) -> None:
    path = written(tmp_path / "c", login(expires_on=NOW_S - 5))
    asked: list[str] = []
    found: list[str] = []

    def renew(refresh: str) -> TokenAnswer:
        asked.append(refresh)
        return fresh(refresh)

    several = [credential(path) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda one=one: found.append(one.bearer(renew)), daemon=True) for one in 4 * several
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert set(found) == {"new-after-again"}
    assert asked == ["again"]


def test_a_file_that_another_program_writes_anew_is_not_read_until_it_is_whole(tmp_path: Path) -> None:
    path, whole, found = written(tmp_path / "c", login()), login("fresh"), list[str]()
    one = credential(path)
    assert one.bearer(never) == "old"
    reader = threading.Thread(target=lambda: found.append(one.bearer(never)), daemon=True)
    with path.open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(whole[:30])
        other.flush()
        reader.start()
        reader.join(0.3)
        assert not found
        other.write(whole[30:])
        other.truncate()
    reader.join(60)

    assert found == ["fresh"]


def test_a_token_that_lasts_is_used_while_another_program_keeps_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "LOCK_S", 0.2)
    path = written(tmp_path / "c", login())
    one = credential(path)
    assert one.bearer(never) == "old"
    with path.open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(login("fresh"))
        other.truncate()
        other.flush()

        assert one.bearer(never) == "old"

    assert one.bearer(never) == "fresh"


def test_a_lock_of_another_program_is_not_waited_for_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "LOCK_S", 0.2)
    path = written(tmp_path / "c", login(expires_on=NOW_S))
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        with pytest.raises(SourceUnavailable, match="held by another program"):
            credential(path).bearer(never)

    assert credential(path).bearer(fresh) == "new-after-again"


def test_a_refusal_is_answered_with_another_token_or_in_words(tmp_path: Path) -> None:
    one = credential(written(tmp_path / "c", login()))
    assert one.after_refusal("an older one", never) == "old"
    assert one.after_refusal("old", fresh) == "new-after-again"

    bare = credential(written(tmp_path / "d", "token"))
    with pytest.raises(SourceUnavailable, match="log in again"):
        bare.after_refusal("token", never)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no token"),
        ("{", "what a login has written"),
        ('{"access_token": 3}', "what a login has written"),
        ('{"token": "secret"}', "what a login has written"),
        ("secret and more", "more than a token"),
        ("secr\u00e9t", "what a login has written"),
        ("x" * 100_000, "bytes"),
        (jwt(NOW_S - 600), "expired 10 min ago"),
    ],
)
def test_a_file_that_holds_none_is_told_without_what_it_holds(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path / "c", text)

    with pytest.raises(SourceUnavailable, match=words) as caught:
        credential(path).bearer(never)

    assert str(path) in str(caught.value)
    assert ", of pilot_credential, " in str(caught.value)
    assert "secr" not in str(caught.value)


def test_a_missing_file_a_directory_and_an_open_one_are_told(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "nothing", "not there"),
        (tmp_path, "no regular file"),
        (written(tmp_path / "open", login(), 0o644), "chmod 600"),
    ):
        with pytest.raises(SourceUnavailable, match=words):
            credential(path).bearer(never)


def test_no_token_is_in_what_is_shown_of_it(tmp_path: Path) -> None:
    one = credential(written(tmp_path / "c", login("secret-access", "secret-refresh")))
    one.bearer(never)

    shown = [repr(one), repr(one._kept), repr(fresh("secret"))]

    assert not any("secret" in text for text in shown)
