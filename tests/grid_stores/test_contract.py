"""One contract, every grid store: files put whole under their names, asked for, and removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapters.errors import GridStoreRefused, NotInGridStore
from adapters.grid_stores.contract import StoredCopy
from adapters.grid_stores.names import CopyName, copy_name
from tests.grid_stores.places import Place, at_server, in_directory, in_memory
from tests.grid_stores.xrootd_peer import XrootdPeer, xrootd_peer

CONTENT = b"a result of physics\n" * 1000
NAME = copy_name("site-a/run-7.1", 2, "histogram.root")
STORES = ("memory", "local", "xrootd", "xrootd without checksums")


@pytest.fixture(scope="module")
def peers() -> Iterator[dict[str, XrootdPeer]]:
    with xrootd_peer() as usual, xrootd_peer(checksum="") as bare:
        yield {"xrootd": usual, "xrootd without checksums": bare}


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "memory":
        return in_memory()
    if request.param == "local":
        return in_directory(tmp_path / "grid")
    peer = request.getfixturevalue("peers")[request.param]
    shutil.rmtree(peer.data / "grid", ignore_errors=True)
    return at_server(peer)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_bytes(CONTENT)
    return path


def copy_of(content: bytes) -> StoredCopy:
    return StoredCopy(len(content), f"{zlib.adler32(content):08x}")


def test_what_is_put_is_there_whole_and_alone(place: Place, local: Path) -> None:
    place.store.put(local, NAME)

    assert place.look(NAME) == CONTENT
    assert place.names() == [NAME]
    assert place.store.stat(NAME) == copy_of(CONTENT)
    assert local.read_bytes() == CONTENT


def test_the_same_again_leaves_what_is_there(place: Place, local: Path) -> None:
    for _ in range(3):
        place.store.put(local, NAME)

    assert place.names() == [NAME]
    assert place.store.stat(NAME) == copy_of(CONTENT)


@pytest.mark.parametrize("other", [b"another", b"A" + CONTENT[1:]], ids=["shorter", "of the same size"])
def test_another_file_under_the_name_is_replaced(place: Place, local: Path, other: bytes) -> None:
    local.write_bytes(other)
    place.store.put(local, NAME)
    local.write_bytes(CONTENT)

    place.store.put(local, NAME)

    assert place.look(NAME) == CONTENT
    assert place.names() == [NAME]


def test_a_file_may_be_empty(place: Place, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    place.store.put(tmp_path / "empty", NAME)

    assert place.look(NAME) == b""
    assert place.store.stat(NAME) == StoredCopy(0, "00000001")


@pytest.mark.parametrize("zeros", [b"\0" * 5, b""], ids=["zeros", "none"])
def test_a_checksum_has_eight_digits(place: Place, tmp_path: Path, zeros: bytes) -> None:
    (tmp_path / "small").write_bytes(zeros)

    place.store.put(tmp_path / "small", NAME)

    assert len(place.store.stat(NAME).adler32) == 8


def test_what_is_not_there_is_said_not_to_be(place: Place) -> None:
    with pytest.raises(NotInGridStore, match="grid store"):
        place.store.stat(NAME)


def test_what_is_removed_is_gone_and_may_be_removed_again(place: Place, local: Path) -> None:
    place.store.put(local, NAME)

    for _ in range(2):
        place.store.remove(NAME)

    assert place.names() == []
    with pytest.raises(NotInGridStore):
        place.store.stat(NAME)


def test_a_store_that_works_is_tried_out_and_left_as_it_was(place: Place) -> None:
    place.store.try_out()

    assert place.names() == []


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../b", "a//b", ".hidden", "a b", "a\nb", "ü", "", "a" * 300]
)
def test_a_name_that_is_no_copy_name_is_refused(place: Place, local: Path, name: str) -> None:
    for ask in (place.store.stat, place.store.remove, place.store.url, lambda one: place.store.put(local, one)):
        with pytest.raises(GridStoreRefused, match="may not be called so"):
            ask(CopyName(name))

    assert place.names() == []


@pytest.mark.parametrize(
    "output", ["Ergebnis für später.root", "deep/er/out.txt", "../../etc/passwd", "x" * 1000, "%2e\n"]
)
def test_whatever_an_output_is_called_it_has_a_place(place: Place, local: Path, output: str) -> None:
    name = copy_name("site-a/run-7.1", 1, output)

    place.store.put(local, name)

    assert place.names() == [name]
    assert place.store.stat(name) == copy_of(CONTENT)
    assert place.store.url(name).endswith(f"/{name}")


@pytest.mark.parametrize("called", ["a?b", "a b%20c#d", "root:", "ü\n", "-", "a?authz=b&c"])
def test_it_is_the_local_file_that_is_put_whatever_it_is_called(place: Place, tmp_path: Path, called: str) -> None:
    (tmp_path / "a").write_bytes(b"another file whose name begins alike")
    (tmp_path / called).write_bytes(CONTENT)

    place.store.put(tmp_path / called, NAME)

    assert place.look(NAME) == CONTENT


def test_many_threads_may_put_at_once_also_the_same(place: Place, local: Path) -> None:
    names = [copy_name("site-a/run-7.1", 1, f"out-{number % 4}") for number in range(12)]

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda name: place.store.put(local, name), names))

    assert place.names() == sorted(set(names))
    assert {place.store.stat(name) for name in names} == {copy_of(CONTENT)}


def test_a_local_file_that_is_not_there_is_no_fault_of_the_store(place: Place, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        place.store.put(tmp_path / "nothing", NAME)

    assert place.names() == []


def test_a_store_may_be_closed_twice_and_what_was_put_stays(place: Place, local: Path) -> None:
    place.store.put(local, NAME)

    place.store.close()
    place.store.close()

    assert place.look(NAME) == CONTENT


@pytest.mark.slow
def test_a_large_file_arrives_and_the_systems_own_tool_agrees_on_its_checksum(place: Place, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        for _ in range(100):
            file.write(os.urandom(1 << 20))
    told = subprocess.run(["xrdadler32", str(large)], capture_output=True, text=True, check=True, timeout=60)

    place.store.put(large, NAME)

    assert place.store.stat(NAME) == StoredCopy(100 << 20, told.stdout.split()[0])
