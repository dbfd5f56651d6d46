"""A grid store in a directory whose disk is full, whose writer is killed, or which is not there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters.errors import GridStoreFull, GridStoreRefused, GridStoreUnavailable
from adapters.grid_stores.local import LocalGridSettings, LocalGridStore
from adapters.grid_stores.names import CopyName, copy_name
from tests.grid_stores.places import in_directory
from tests.unit.disks import small_disk

NAME = copy_name("site-a/run-7.1", 2, "histogram.root")

#: Puts a file and is killed after its first block.
KILLED = """
import os, signal, sys
from pathlib import Path
from adapters.grid_stores.local import LocalGridSettings, LocalGridStore
from broker import durable

def write_and_die(descriptor, data, _write=durable.write_all):
    _write(descriptor, data)
    os.kill(os.getpid(), signal.SIGKILL)

durable.write_all = write_and_die
LocalGridStore(LocalGridSettings(directory=sys.argv[1])).put(Path(sys.argv[2]), sys.argv[3])
"""


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_bytes(os.urandom(4 << 20))
    return path


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, local: Path) -> None:
    with small_disk(tmp_path / "grid", 2 << 20) as disk:
        place = in_directory(disk)

        with pytest.raises(GridStoreFull, match=r"No space left.*free some space"):
            place.store.put(local, NAME)

        assert place.names() == []
        local.write_bytes(b"small")
        place.store.put(local, NAME)
        assert place.look(NAME) == b"small"


def test_a_file_that_is_there_stays_when_another_finds_no_room(tmp_path: Path, local: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"first")
    with small_disk(tmp_path / "grid", 2 << 20) as disk:
        place = in_directory(disk)
        place.store.put(small, NAME)

        with pytest.raises(GridStoreFull):
            place.store.put(local, NAME)

        assert place.look(NAME) == b"first"
        assert place.names() == [NAME]


def test_a_writer_that_is_killed_leaves_nothing_under_the_name_and_the_next_clears_up(
    tmp_path: Path, local: Path
) -> None:
    place = in_directory(tmp_path / "grid")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "grid"), str(local), NAME], check=False, timeout=60
    )
    left = place.names()

    place.store.put(local, NAME)

    assert killed.returncode == -9
    assert [name.rpartition("/")[2].startswith(".histogram.root.") for name in left] == [True]
    assert place.names() == [NAME]
    assert place.look(NAME) == local.read_bytes()


def test_a_file_system_that_is_read_only_is_refused(tmp_path: Path, local: Path) -> None:
    with small_disk(tmp_path / "grid", 8 << 20) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        store = in_directory(disk).store

        for ask in (store.try_out, lambda: store.put(local, NAME)):
            with pytest.raises(GridStoreRefused, match="Read-only"):
                ask()


@pytest.mark.parametrize("is_mount", [False, True])
def test_a_directory_that_is_not_there_is_away_and_is_not_made(tmp_path: Path, local: Path, is_mount: bool) -> None:
    directory = tmp_path / "grid"
    if is_mount:
        directory.mkdir()
    store = LocalGridStore(LocalGridSettings(directory=str(directory), is_mount=is_mount))

    for ask in (store.try_out, lambda: store.put(local, NAME), lambda: store.stat(NAME), lambda: store.remove(NAME)):
        with pytest.raises(GridStoreUnavailable, match="mount"):
            ask()

    assert directory.exists() == is_mount
    assert not is_mount or list(directory.iterdir()) == []


def test_what_is_mounted_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"1")
    with small_disk(tmp_path / "grid", 2 << 20) as disk:
        store = LocalGridStore(LocalGridSettings(directory=str(disk), is_mount=True))

        store.put(tmp_path / "small", NAME)

        assert (disk / NAME).read_bytes() == b"1"


def test_a_directory_in_the_way_is_refused(tmp_path: Path, local: Path) -> None:
    place = in_directory(tmp_path / "grid")
    (tmp_path / "grid" / NAME).mkdir(parents=True)

    with pytest.raises(GridStoreRefused):
        place.store.put(local, NAME)

    assert place.names() == []


def test_a_directory_that_hangs_is_given_up_in_time(tmp_path: Path) -> None:
    fifo = tmp_path / NAME  # whoever opens it waits for a writer
    fifo.parent.mkdir(parents=True)
    os.mkfifo(fifo)
    (tmp_path / "empty").touch()
    store = LocalGridStore(LocalGridSettings(directory=str(tmp_path), timeout_s=1))

    for ask in (lambda: store.stat(NAME), lambda: store.put(tmp_path / "empty", NAME)):
        began = time.monotonic()
        with pytest.raises(GridStoreUnavailable, match="no answer within 1 s"):
            ask()
        assert time.monotonic() - began < 20

    os.close(os.open(fifo, os.O_WRONLY))  # both come back
    store.try_out()


def test_others_may_read_what_is_delivered(tmp_path: Path, local: Path) -> None:
    in_directory(tmp_path / "grid").store.put(local, NAME)

    assert (tmp_path / "grid" / NAME).stat().st_mode & 0o777 == 0o644


def test_the_grids_own_name_of_the_directory_makes_the_url(tmp_path: Path) -> None:
    settings = LocalGridSettings(directory=str(tmp_path), url="root://se.example.org//grid/")

    assert LocalGridStore(settings).url(CopyName("a/b")) == "root://se.example.org//grid/a/b"
    assert LocalGridStore(LocalGridSettings(directory=str(tmp_path))).url(NAME) == f"{tmp_path.as_uri()}/{NAME}"
