"""A grid store behind XRootD that is full, read-only, away, silent, cut off, or whose writer is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.errors import GridStoreFull, GridStoreRefused, GridStoreUnavailable
from adapters.grid_stores.contract import GridStore, StoredCopy
from adapters.grid_stores.names import copy_name
from adapters.grid_stores.xrootd import XrootdSettings, make_xrootd
from tests.grid_stores.places import at_server
from tests.grid_stores.wire import wire
from tests.grid_stores.xrootd_peer import HOLD_S, XrootdPeer, xrootd_peer

pytestmark = pytest.mark.slow

NAME = copy_name("site-a/run-7.1", 2, "histogram.root")
MIB = 1 << 20
#: What a silent server is given, seconds, and how long any call may take then: each is a few answers.
PATIENCE_S, MOST_S = 2, 25

#: Puts a file until it is killed.
PUT = """
import sys
from pathlib import Path
from adapters.grid_stores.xrootd import XrootdSettings, make_xrootd
make_xrootd(XrootdSettings(url=sys.argv[1], timeout_s=60)).put(Path(sys.argv[2]), sys.argv[3])
"""


@pytest.fixture(scope="module")
def peer() -> Iterator[XrootdPeer]:
    with xrootd_peer() as one:
        yield one


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_bytes(os.urandom(64 * MIB))
    return path


def through(port: int, timeout_s: int = PATIENCE_S) -> GridStore:
    return make_xrootd(XrootdSettings(url=f"root://localhost:{port}//grid/volunteers", timeout_s=timeout_s))


def until(holds: Callable[[], bool], patience_s: float = 30.0) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_full_store_is_said_and_keeps_nothing_of_it(local: Path) -> None:
    with xrootd_peer(disk_bytes=8 * MIB) as full:
        place = at_server(full)

        with pytest.raises(GridStoreFull, match=f"{full.port}: .*no space left on device; free some space"):
            place.store.put(local, NAME)

        assert full.files() == []
        local.write_bytes(b"small")
        place.store.put(local, NAME)
        assert place.look(NAME) == b"small"


def test_a_store_that_is_read_only_is_refused_in_its_own_words(local: Path) -> None:
    with xrootd_peer(is_read_only=True) as read_only:
        store = at_server(read_only).store

        for ask in (store.try_out, lambda: store.put(local, NAME), lambda: store.remove(NAME)):
            with pytest.raises(GridStoreRefused, match=f"{read_only.port}: .*marked read/only"):
                ask()


def test_a_server_that_is_away_is_said_to_be_at_once_and_is_there_when_it_is_back(
    local: Path, peer: XrootdPeer
) -> None:
    with wire(peer.port) as gone:
        port = gone.port
    store = through(port, 10)
    began = time.monotonic()

    for ask in (store.try_out, lambda: store.put(local, NAME), lambda: store.stat(NAME), lambda: store.remove(NAME)):
        with pytest.raises(GridStoreUnavailable, match=f"grid store root://localhost:{port}.*we try again"):
            ask()

    assert time.monotonic() - began < MOST_S
    with wire(peer.port, at=port):
        until(lambda: works(store))


def works(store: GridStore) -> bool:
    try:
        store.try_out()
    except GridStoreUnavailable:
        return False
    return True


def test_no_call_waits_for_ever_for_a_server_that_takes_all_and_says_nothing(local: Path, peer: XrootdPeer) -> None:
    with wire(peer.port, is_silent=True) as silent:
        store = through(silent.port)

        for ask in (
            store.try_out,
            lambda: store.put(local, NAME),
            lambda: store.stat(NAME),
            lambda: store.remove(NAME),
        ):
            began = time.monotonic()
            with pytest.raises(GridStoreUnavailable, match="we try again"):
                ask()
            assert time.monotonic() - began < MOST_S


def test_a_server_that_falls_silent_in_the_middle_is_given_up_and_nothing_is_under_the_name(
    local: Path, peer: XrootdPeer
) -> None:
    name = copy_name("site-a/run-7.2", 1, "silent.root")
    with wire(peer.port, hold_after=20 * MIB) as holding:
        began = time.monotonic()

        with pytest.raises(GridStoreUnavailable, match="we try again"):
            through(holding.port).put(local, name)

        assert holding.is_holding.is_set()
        assert time.monotonic() - began < 2 * MOST_S
        assert not peer.path(name).exists()
    until(lambda: not [file for file in peer.files() if "silent" in file], HOLD_S + 30)


def test_a_connection_that_is_cut_is_made_anew_and_the_file_arrives_whole(local: Path, peer: XrootdPeer) -> None:
    name = copy_name("site-a/run-7.3", 1, "cut.root")
    content = local.read_bytes()
    with wire(peer.port, cut_after=30 * MIB) as cutting:
        store = through(cutting.port, 20)

        for _ in range(3):  # what does not help at once is repeated by who delivers
            try:
                store.put(local, name)
                break
            except GridStoreUnavailable:
                assert not peer.path(name).exists()

        assert cutting.cuts >= 1
        assert store.stat(name) == StoredCopy(len(content), f"{zlib.adler32(content):08x}")
    assert peer.path(name).read_bytes() == content


def test_a_writer_that_is_killed_leaves_nothing_under_the_name_and_the_server_clears_up(
    local: Path, peer: XrootdPeer
) -> None:
    name = copy_name("site-a/run-7.4", 1, "killed.root")
    with wire(peer.port, hold_after=20 * MIB) as holding:
        url = f"root://localhost:{holding.port}//grid/volunteers"
        writer = subprocess.Popen([sys.executable, "-c", PUT, url, str(local), name])
        until(holding.is_holding.is_set)
        until(lambda: any("killed" in file for file in peer.files()))
        writer.kill()
        writer.wait(20)

    assert not peer.path(name).exists()
    until(lambda: not any("killed" in file for file in peer.files()), HOLD_S + 30)
    at_server(peer).store.put(local, name)
    assert peer.path(name).read_bytes() == local.read_bytes()


def test_the_same_again_sends_nothing(local: Path, peer: XrootdPeer) -> None:
    name = copy_name("site-a/run-7.5", 1, "again.root")
    with wire(peer.port) as counted:
        store = through(counted.port, 20)
        store.put(local, name)
        once = counted.sent

        store.put(local, name)

        assert once > 64 * MIB
        assert counted.sent - once < MIB


def test_what_was_damaged_in_the_store_is_told_by_its_checksum_and_replaced(local: Path, peer: XrootdPeer) -> None:
    name = copy_name("site-a/run-7.6", 1, "damaged.root")
    store = at_server(peer).store
    store.put(local, name)
    sound = store.stat(name)
    with peer.path(name).open("r+b") as file:
        file.write(b"damaged")
    os.utime(peer.path(name), (1, 1))  # the server keeps sums by the second of the last change

    damaged = store.stat(name)
    store.put(local, name)

    assert damaged.size == sound.size
    assert damaged.adler32 != sound.adler32
    assert store.stat(name) == sound


def test_the_systems_own_client_reads_what_the_url_names(local: Path, peer: XrootdPeer, tmp_path: Path) -> None:
    name = copy_name("site-a/run-7.7", 1, "Ergebnis für später.root")
    store = at_server(peer).store
    store.put(local, name)

    subprocess.run(["xrdcp", "-s", store.url(name), str(tmp_path / "back")], check=True, timeout=60)

    assert (tmp_path / "back").read_bytes() == local.read_bytes()
