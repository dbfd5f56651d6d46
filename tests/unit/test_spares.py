"""Directories that attempts left as they were made: who gets one, and which are none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from guest_agent.accounts import Account
from guest_agent.directory import Directory
from guest_agent.spares import MOST_KEPT, Spares
from schemas.jobs import Outcome
from tests.unit.guests import Guest, content_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a payload another account")
ACCOUNT = Account(64018, 64018)
#: Prints the directory's inode, owner, mode, and all that is in it, then makes a file.
LOOK = "stat -c '%i %u %a' .; ls -A; touch mine && rm mine"

#: A default access list: all for the owner, all for the user 12345, nothing for others. See acl(5).
ACL_OF_SOMEBODY = (
    b"\x02\0\0\0"
    + b"\x01\0\x07\0\xff\xff\xff\xff"
    + b"\x02\0\x07\0\x39\x30\0\0"
    + b"\x04\0\0\0\xff\xff\xff\xff"
    + b"\x10\0\x07\0\xff\xff\xff\xff"
    + b"\x20\0\0\0\xff\xff\xff\xff"
)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def spares(tmp_path: Path) -> Spares:
    return Spares(tmp_path / "spare")


def test_a_directory_goes_to_the_next_attempt_of_its_array_and_to_no_other(spares: Spares, work: Path) -> None:
    for name in ("a.1.1", "a.2.1", "a.3.1"):
        (work / name).mkdir(mode=0o700)
    inode = (work / "a.1.1").stat().st_ino

    assert [spares.keep(work / name, "a") for name in ("a.1.1", "a.2.1", "a.3.1")] == [True] * 3
    assert list(work.iterdir()) == []
    assert spares.take(work / "a.4.1", "a")
    assert (work / "a.4.1").stat().st_ino == inode
    assert not spares.take(work / "b.1.1", "b")

    assert [path.name for path in work.iterdir()] == ["a.4.1"]
    assert not spares.take(work / "a.5.1", "a"), "those of an array that is over were removed"


@pytest.mark.parametrize(
    "leave",
    [
        lambda path: (path / "file").touch(),
        lambda path: (path / ".hidden").mkdir(),
        lambda path: os.setxattr(path, "user.note", b"hello"),
        lambda path: os.setxattr(path, "system.posix_acl_default", ACL_OF_SOMEBODY),
    ],
    ids=["a file", "a hidden directory", "an attribute", "an access list"],
)
def test_a_directory_that_was_changed_is_not_fit(spares: Spares, work: Path, leave: Callable[[Path], object]) -> None:
    (work / "a.1.1").mkdir(mode=0o700)
    with Directory(work / "a.1.1") as held:
        assert spares.is_fit(held)
        leave(work / "a.1.1")
        is_fit = spares.is_fit(held)

    assert not is_fit


def test_a_directory_that_keeps_the_room_of_many_names_is_not_fit(spares: Spares, work: Path) -> None:
    (work / "a.1.1").mkdir(mode=0o700)
    before = (work / "a.1.1").stat().st_size
    with Directory(work / "a.1.1") as held:
        assert spares.is_fit(held)
        for number in range(100):
            (work / "a.1.1" / f"{'n' * 200}{number}").touch()
        for each in (work / "a.1.1").iterdir():
            each.unlink()
        is_fit = spares.is_fit(held)

    keeps_it = (work / "a.1.1").stat().st_size != before  # a tmpfs does not
    assert is_fit is not keeps_it


def test_no_more_are_kept_than_a_slot_uses_and_none_of_an_agent_before(tmp_path: Path, work: Path) -> None:
    spares = Spares(tmp_path / "spare")
    for number in range(MOST_KEPT + 1):
        (work / f"a.{number}.1").mkdir()

    assert [spares.keep(work / f"a.{number}.1", "a") for number in range(MOST_KEPT + 1)] == [True] * MOST_KEPT + [False]
    Spares(tmp_path / "spare")

    assert list((tmp_path / "spare").iterdir()) == []


def test_one_name_that_is_used_twice_is_two_directories(spares: Spares, work: Path) -> None:
    """An array that was deleted and submitted again has the names of the one before it."""
    for _ in range(2):
        (work / "a.1.1").mkdir(mode=0o700)
        assert spares.keep(work / "a.1.1", "a")

    assert [spares.take(work / name, "a") for name in ("a.2.1", "a.3.1", "a.4.1")] == [True, True, False]


def test_where_the_disk_takes_no_directory_none_is_fit_and_all_goes_on(tmp_path: Path, work: Path) -> None:
    (tmp_path / "spare").write_text("in the way, as a full disk is")
    spares = Spares(tmp_path / "spare")
    (work / "a.1.1").mkdir(mode=0o700)

    with Directory(work / "a.1.1") as held:
        assert not spares.is_fit(held)
    assert not spares.take(work / "a.2.1", "a")


@as_root
async def test_attempts_of_one_array_use_a_directory_again_and_see_it_as_new(tmp_path: Path) -> None:
    guest = Guest(tmp_path, ACCOUNT)
    first = await guest.run("/bin/sh", "-c", LOOK, job="site-a/a.1")
    second = await guest.run("/bin/sh", "-c", f"{LOOK}; chmod 777 .", job="site-a/a.2")
    third = await guest.run("/bin/sh", "-c", f"{LOOK}; touch left", job="site-a/a.3")
    fourth = await guest.run("/bin/sh", "-c", LOOK, job="site-a/a.4")
    other = await guest.run("/bin/sh", "-c", LOOK, job="site-a/b.1")
    guest.close()

    ran = (first, second, third, fourth, other)
    assert [one.outcome for one in ran] == [Outcome.DONE] * 5, [one.cause for one in ran]
    said = [content_of(one, "stdout") for one in ran]
    assert said[0] == said[1] == said[2] != b""
    assert [words.split()[1:] for words in said] == [[b"64018", b"700"]] * 5
    assert list(guest.slot_directory.work.iterdir()) == []
