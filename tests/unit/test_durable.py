"""What was said to be written is there, whatever the kernel's count and however full the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker import durable


@pytest.fixture
def grudging(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A kernel that takes seven bytes at a time, as it may on a disk that is nearly full; gives the counts."""
    counts: list[int] = []
    write, pwrite = os.write, os.pwrite

    def some(descriptor: int, data: bytes) -> int:
        counts.append(write(descriptor, data[:7]))
        return counts[-1]

    def some_at(descriptor: int, data: bytes, offset: int) -> int:
        counts.append(pwrite(descriptor, data[:7], offset))
        return counts[-1]

    monkeypatch.setattr(os, "write", some)
    monkeypatch.setattr(os, "pwrite", some_at)
    return counts


def test_a_write_that_is_taken_in_pieces_is_written_whole(tmp_path: Path, grudging: list[int]) -> None:
    with (tmp_path / "file").open("wb") as file:
        durable.write_all(file.fileno(), bytes(range(100)), 50)
        durable.write_all(file.fileno(), b"from the start", None)

    content = (tmp_path / "file").read_bytes()
    assert content[50:] == bytes(range(100))
    assert content.startswith(b"from the start")
    assert len(grudging) == 17


def test_a_replaced_file_is_whole_and_its_owners_alone(tmp_path: Path, grudging: list[int]) -> None:
    path = tmp_path / "new" / "file"

    durable.replace(path, b"x" * 1000)

    assert path.read_bytes() == b"x" * 1000
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_content_names_the_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    durable.replace(path, b"old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/file'"):
        durable.replace(path, b"new")

    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_the_new_file_has_a_name_that_nobody_foretells_and_is_never_one_that_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    names = iter(["taken", "free"])
    monkeypatch.setattr(durable.secrets, "token_hex", lambda _: next(names))
    (tmp_path / ".file.taken").symlink_to(victim)

    with pytest.raises(FileExistsError):
        durable.replace(tmp_path / "file", b"new")
    durable.replace(tmp_path / "file", b"new")

    assert victim.read_bytes() == b"mine"
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_file_that_a_stranger_has_laid_down_before_is_not_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable.secrets, "token_hex", lambda _: "foretold")
    stranger = (tmp_path / ".login.foretold").open("w+b")

    with pytest.raises(FileExistsError):
        durable.replace(tmp_path / "login", b"password")

    assert stranger.read() == b""


@pytest.mark.parametrize("name", ["n" * 239, "ü" * 127, "日" * 85, "s" * 255])
def test_a_file_with_the_longest_name_that_a_disk_takes_is_replaced(tmp_path: Path, name: str) -> None:
    """200 characters may be 600 bytes, and with them no other name fits beside the file's own."""
    durable.replace(tmp_path / name, b"content")

    assert (tmp_path / name).read_bytes() == b"content"
    assert len(os.fsencode(durable.beside(tmp_path / name, "0123456789ab.part").name)) <= 255


def test_a_large_file_is_gone_at_once_and_its_room_is_back_soon(tmp_path: Path) -> None:
    file, link = tmp_path / "memory", tmp_path / "link"
    file.write_bytes(b"x" * 1024)
    link.symlink_to(file)
    whose = file.stat()

    durable.remove_large(file)

    assert not file.exists()
    durable.remove_large(link)
    durable.remove_large(file)
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 30
    while whose.st_ino in _open_files():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_large_file_goes_also_where_there_is_no_thread_and_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    for name in ("a", "b"):
        (tmp_path / name).touch()
    inodes = [(tmp_path / name).stat().st_ino for name in ("a", "b")]
    with monkeypatch.context() as patch:
        patch.setattr(durable.threading, "Thread", none)
        durable.remove_large(tmp_path / "a")
    (tmp_path / "b").chmod(0)
    durable.remove_large(tmp_path / "b")

    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 30
    while set(inodes) & set(_open_files()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _open_files() -> list[int]:
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(descriptor.stat().st_ino)
    return found


def test_what_killed_writers_left_goes_and_what_is_written_just_now_stays(tmp_path: Path) -> None:
    held = os.open(tmp_path / ".at-work.0123456789abcdef", os.O_WRONLY | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    kept = ["file", ".hidden", ".file.part", ".file.0123456789abcdeg", ".0123456789abcdef", ".file.0123456789abcdef0"]
    for name in (*kept, ".file.0123456789abcdef", ".other.0123456789abcdef"):
        (tmp_path / name).touch()
    (tmp_path / ".directory.0123456789abcdef").mkdir()
    (tmp_path / ".link.0123456789abcdef").symlink_to(tmp_path / "file")

    durable.remove_unfinished(tmp_path, "file")
    of_one = (tmp_path / ".other.0123456789abcdef").exists()
    durable.remove_unfinished(tmp_path)
    os.close(held)

    left = {path.name for path in tmp_path.iterdir()}
    stay = {".at-work.0123456789abcdef", ".directory.0123456789abcdef", ".link.0123456789abcdef"}
    assert (of_one, left) == (True, {*kept, *stay})
    assert durable.remove_unfinished(tmp_path / "none") == []


def test_a_writer_that_is_killed_leaves_what_the_next_start_removes(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom broker import durable\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "durable.replace(Path(sys.argv[1]), b'new')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "file")], check=False)
    assert len(list(tmp_path.iterdir())) == 1

    assert len(durable.remove_unfinished(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_taken_for_left_behind_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, removed = fcntl.flock, list[Path]()

    def flock(descriptor: int, kind: int) -> None:
        if not kind & fcntl.LOCK_NB and not removed:
            removed.extend(durable.remove_unfinished(tmp_path, "file"))
        real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", flock)

    durable.replace(tmp_path / "file", b"new")

    assert len(removed) == 1
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


def test_a_file_system_without_locks_is_written_to_and_nothing_is_removed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    (tmp_path / ".file.0123456789abcdef").touch()
    monkeypatch.setattr(fcntl, "flock", flock)

    durable.replace(tmp_path / "file", b"new")

    assert durable.remove_unfinished(tmp_path) == []
    assert (tmp_path / "file").read_bytes() == b"new"
