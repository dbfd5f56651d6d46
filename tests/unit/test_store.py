"""The store: durable before anybody is told, and copies that are their caller's alone."""

from __future__ import annotations

import hashlib
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapters.errors import NotStored
from adapters.storage.contents import FsspecContents
from adapters.storage.store import FsspecStore
from schemas.files import InputFile, OutputFile

CONTENT = b"result"
OUTPUT = OutputFile(job="site-a/j.1", attempt=1, name="deep/out")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reached the disk, and moves, in order."""
    steps: list[str] = []
    sync, rename = os.fsync, os.rename

    def note_sync(handle: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        sync(handle)

    def note_rename(source: str, target: str) -> None:
        steps.append(f"move {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    return steps


@pytest.mark.parametrize("way", ["file", "bytes"])
def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_end(
    tmp_path: Path, steps: list[str], way: str
) -> None:
    store = FsspecStore(f"file://{tmp_path}/store")
    local = tmp_path / "local"
    local.write_bytes(CONTENT)

    if way == "file":
        store.put(local, OUTPUT)
    else:
        store.put_bytes(CONTENT, OUTPUT)

    moved = steps.index("move out")
    (written,) = steps[:moved]
    assert re.fullmatch(r"sync [0-9a-f]{32}", written)
    assert steps[moved + 1 :] == [f"sync {name}" for name in ("deep", "1", "j.1", "site-a", "outputs", "store")]


def test_what_is_said_to_be_there_is_there_durably(tmp_path: Path, steps: list[str]) -> None:
    store = FsspecStore(f"file://{tmp_path}/store")
    store.put_bytes(CONTENT, OUTPUT)
    steps.clear()

    assert store.holds(OUTPUT, len(CONTENT))
    assert store.digest(OUTPUT) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert "sync deep" in steps


def test_a_file_from_afar_is_copied_to_where_it_is_wanted(tmp_path: Path) -> None:
    store = FsspecStore("memory://test-store-copies")
    store.put_bytes(CONTENT, OUTPUT)

    store.copy(OUTPUT, tmp_path / "copy")

    assert store.local(OUTPUT) is None
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert store.size(OUTPUT) == len(CONTENT)


def test_a_copy_that_failed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FsspecStore("memory://test-store-failing")
    store.put_bytes(CONTENT, OUTPUT)

    def gone(source: str, target: str) -> None:
        raise FileNotFoundError(source)

    monkeypatch.setattr(store.system, "get_file", gone)

    with pytest.raises(NotStored):
        store.copy(OUTPUT, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_local_file_is_given_where_it_is(tmp_path: Path) -> None:
    store = FsspecStore(f"file://{tmp_path}/store")
    file = InputFile(sha256=hashlib.sha256(CONTENT).hexdigest())
    store.put_bytes(CONTENT, file)

    path = store.local(file)

    assert path is not None
    assert path.read_bytes() == CONTENT


def test_a_name_as_long_as_names_may_be_is_stored(tmp_path: Path) -> None:
    store = FsspecStore(f"file://{tmp_path}/store")
    longest = OutputFile(job="site-a/j.1", attempt=1, name="x" * 255)

    store.put_bytes(CONTENT, longest)

    assert store.holds(longest, len(CONTENT))
    assert store.digest(longest) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_files_of_a_store_that_is_elsewhere_age_by_the_walls_clock_which_dates_them() -> None:
    """The ledger's clock counts from nothing: by that one they were from the future, and nothing was ever cleared."""
    store = FsspecStore("memory://test-store-ages", lambda: 1000.0)
    store.put_bytes(CONTENT, OUTPUT)
    (path,) = store.system.find(store.root)
    store.system.store[path].modified = datetime.now(UTC) - timedelta(hours=2)

    (attempt,) = FsspecContents(store).stored_attempts()

    assert 7200 <= attempt.age_s < 7300
    assert store.age_s(f"{store.root}/gone") == 0


def test_files_of_a_local_store_age_by_its_own_clock_whatever_the_walls_says(tmp_path: Path) -> None:
    now = [1000.0]
    store = FsspecStore(f"file://{tmp_path}/store", lambda: now[0])
    store.put_bytes(CONTENT, OUTPUT)
    now[0] += 60

    (attempt,) = FsspecContents(store).stored_attempts()

    assert attempt.age_s == pytest.approx(60)
    assert store.age_s(f"{store.root}/gone") == 0
