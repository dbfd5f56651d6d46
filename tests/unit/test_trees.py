"""Trees from one directory to another: all that is in them arrives, and what is there already is not sent."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import PartialTaken, TransferFailed
from broker.memory import MemoryCarrier
from broker.transfer import Transfers
from broker.transfer.leftovers import remove_left_behind
from broker.trees import TreeSource, into_tree
from broker.trees.contents import digest_of, extents_of, is_content
from schemas.trees import TreeFile
from tests.unit.trees import disk_of, feed, make_tree, move, offer_of, opener, place_in, read_of, seen
from volcloud.client.trees import TreePull
from volcloud.client.watched_transfers import WatchedTransfers

MIB = 1 << 20


def test_a_tree_arrives_with_every_name_mode_time_link_and_hole(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    (tmp_path / "to").mkdir()

    sent = move(read_of(source), place_in(tmp_path / "to"))

    target = tmp_path / "to" / "target"
    assert seen(target) == seen(source)
    compare = ["rsync", "-naci", "--delete", "--exclude=/sparse", f"{source}/", f"{target}/"]
    assert subprocess.run(compare, capture_output=True, check=True).stdout == b""
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["target"]
    assert sent < MIB
    assert disk_of(source) < 2 * MIB
    assert disk_of(target) < 2 * MIB


def test_what_is_there_with_the_same_bytes_is_not_sent_and_what_is_besides_stays(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    target = tmp_path / "target"
    move(read_of(source), place_in(tmp_path))
    (target / "mine").write_text("mine")
    (target / "plain").chmod(0o777)
    os.utime(target / "plain", (0, 0))
    (source / "new").write_text("new")
    tree = read_of(source)

    sent = move(tree, place_in(tmp_path))

    assert sent == tree.manifest.length + 3
    after = seen(target)
    assert after.pop(b"mine")[3] == b"mine"
    assert after == seen(source)


def test_bytes_that_became_a_hole_or_came_into_one_are_found(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name, place in (("filled", 5 * MIB), ("same", 6 * MIB)):
        with (source / name).open("wb") as file:
            file.truncate(10 * MIB)
            file.seek(place)
            file.write(b"x" * 4096)
    move(read_of(source), place_in(tmp_path))
    with (target / "filled").open("r+b") as file:
        file.seek(9 * MIB)
        file.write(b"not there")
    tree = read_of(source)

    sent = move(tree, place_in(tmp_path))

    assert 0 < sent - tree.manifest.length < MIB
    assert seen(target) == seen(source)


def test_devices_fifos_sockets_and_second_names_are_named_and_left_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "b").mkdir(parents=True)
    (source / "a").write_text("a")
    os.link(source / "a", source / "b" / "another\nname")
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(source / "socket"))
        tree = read_of(source)

    move(tree, place_in(tmp_path))

    assert tree.manifest.skipped() == [
        "pipe: is a FIFO",
        "socket: is a socket",
        "b/another\\nname: is a hard link, another name of a",
    ]
    assert sorted(seen(tmp_path / "target")) == [b".", b"a", b"b"]


def test_a_file_that_changes_after_it_was_read_is_told_and_all_else_lands(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("written", "shorter", "gone", "link", "grown", "same"):
        (source / name).write_bytes(os.urandom(50_000))
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(50_000))
    (source / "small").write_text("first")
    tree = read_of(source)
    (source / "written").write_bytes(os.urandom(50_000))
    (source / "shorter").write_bytes(b"x")
    (source / "gone").unlink()
    (source / "small").write_text("later")
    (source / "link").unlink()
    (source / "link").symlink_to(secret)
    with (source / "grown").open("ab") as log:
        log.write(b"more")

    with pytest.raises(TransferFailed, match=r"changed while they were read.*'gone', 'link', 'shorter', 'written'"):
        move(tree, place_in(tmp_path))

    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == ["grown", "same", "small"]
    assert (tmp_path / "target" / "small").read_text() == "first"
    assert (tmp_path / "target" / "grown").read_bytes() == (source / "grown").read_bytes()[:50_000]
    assert not (tmp_path / ".gathering").exists()


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "into one that is there"])
def test_a_tree_cut_anywhere_goes_on_where_it_was_also_when_its_receiver_was_killed(
    tmp_path: Path, is_there: bool
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "many").mkdir(parents=True)
    for number in range(300):
        (source / "many" / f"{number}").write_bytes(os.urandom(4096))
    (source / "large").write_bytes(os.urandom(20 * MIB))
    if is_there:
        target.mkdir()
    sent = 0
    for step in range(6):
        tree = read_of(source)
        landing = into_tree(place_in(tmp_path), offer_of(tree))
        sent += feed(tree, landing, most=4 * MIB)
        if step % 2:
            landing.close()
        else:  # killed: nothing is said to anybody, and the lock is gone
            os.close(landing._held.gathering)  # type: ignore[union-attr]
            landing._held.gathering = -1  # type: ignore[union-attr]
        assert target.exists() == is_there
        (source / f"also-{step}").write_text("the tree goes on changing")

    sent += move(read_of(source), place_in(tmp_path))

    assert seen(target) == seen(source)
    assert sent < 1.2 * 21.5 * MIB + 4 * MIB


def test_one_receiver_at_a_time_holds_a_place(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    tree = read_of(source)
    held = into_tree(place_in(tmp_path), offer_of(tree))

    with pytest.raises(PartialTaken):
        into_tree(place_in(tmp_path), offer_of(tree))
    assert remove_left_behind([tmp_path / ".gathering"], now_s=1e10, keep_s=0, most=0) == []
    held.close()

    assert remove_left_behind([tmp_path / ".gathering"], now_s=1e10, keep_s=0, most=0) == [tmp_path / ".gathering"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_what_gathered_is_kept_as_long_as_anything_in_it_is_young(tmp_path: Path) -> None:
    left = tmp_path / "left.tree"
    (left / "tree").mkdir(parents=True)
    (left / "tree" / "f").write_bytes(bytes(100_000))
    os.utime(left, (0, 0))
    now_s = (left / "tree" / "f").stat().st_ctime

    assert remove_left_behind([left], now_s=now_s + 5, keep_s=60, most=9) == []
    assert remove_left_behind([left], now_s=now_s + 5, keep_s=60, most=9, most_bytes=50_000) == [left]


def test_a_tree_that_cannot_be_read_wholly_says_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_tree(tmp_path / "source")
    read = os.pread

    def failing(file: int, count: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{file}").readlink().name == "with space":
            raise OSError(5, "Input/output error")
        return read(file, count, offset)

    monkeypatch.setattr(os, "pread", failing)

    with pytest.raises(OSError, match="Input/output error") as caught:
        read_of(source)

    assert caught.value.filename == "deep/with space"


PIECES = st.lists(st.tuples(st.booleans(), st.integers(1, 300)), max_size=8)


@settings(max_examples=40, deadline=None)
@given(PIECES, PIECES)
def test_a_file_is_what_an_entry_says_only_where_its_bytes_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, first: list[tuple[bool, int]], second: list[tuple[bool, int]]
) -> None:
    directory = tmp_path_factory.mktemp("contents")
    paths = [directory / "a", directory / "b"]
    for path, pieces in zip(paths, (first, second), strict=True):
        with path.open("wb") as file:
            for is_data, blocks in pieces:
                if is_data:
                    file.write(b"x" * blocks * 1024)
                else:
                    file.seek(blocks * 1024, os.SEEK_CUR)
            file.truncate(sum(blocks for _, blocks in pieces) * 1024)
    with paths[0].open("rb") as a, paths[1].open("rb") as b:
        size, extents = extents_of(a.fileno())
        entry = TreeFile(
            parent=0, name=b"a", mode=0, mtime_ns=0, size=size, extents=extents,
            sha256=digest_of(a.fileno(), extents) or b"",
        )  # fmt: skip

        assert is_content(a.fileno(), entry)
        assert is_content(b.fileno(), entry) == (paths[0].read_bytes() == paths[1].read_bytes())
    shutil.rmtree(directory)


def test_what_another_tree_has_left_in_the_same_place_is_no_part_of_a_new_one(tmp_path: Path) -> None:
    first, source = tmp_path / "first", tmp_path / "source"
    (first / "d" / "was a directory").mkdir(parents=True)
    (first / "d" / "was a directory" / "f").write_text("f")
    (first / "was a file").write_text("f")
    (first / "gone").write_bytes(os.urandom(3 * MIB))
    tree = read_of(first)
    landing = into_tree(place_in(tmp_path), offer_of(tree))
    feed(tree, landing)
    landing.close()
    (source / "was a file").mkdir(parents=True)
    (source / "d").mkdir()
    (source / "d" / "was a directory").write_text("x")

    move(read_of(source), place_in(tmp_path))

    assert seen(tmp_path / "target") == seen(source)


def test_a_tree_that_nobody_waits_for_any_more_is_read_no_further(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    asked = 0

    def is_wanted() -> bool:
        nonlocal asked
        asked += 1
        return asked < 3

    with pytest.raises(TransferFailed, match="nobody waits for it"):
        TreeSource("source", opener(source), is_wanted)

    assert asked == 3


def test_what_another_program_keeps_hidden_beside_a_target_is_not_ours_to_remove(tmp_path: Path) -> None:
    theirs = tmp_path / f".target.{'0' * 16}.tree"
    theirs.mkdir()
    os.utime(theirs, (0, 0))
    source = read_of(make_tree(tmp_path / "source"))
    pull = TreePull(WatchedTransfers(Transfers(MemoryCarrier("console-a"))), "vm-a", "x", tmp_path / "target", None)
    pull._target = tmp_path / "target"

    landing = pull._tree(offer_of(source))(source.manifest.size)

    assert theirs.is_dir()
    landing.discard()


def test_two_large_files_of_the_same_bytes_go_on_where_the_first_was_cut(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    same = os.urandom(4 * MIB)
    for name in ("a", "b"):
        (source / name).write_bytes(same)
    (source / "c").write_bytes(b"small")
    tree = read_of(source)
    landing = into_tree(place_in(tmp_path), offer_of(tree))
    feed(tree, landing, most=2 * MIB + MIB // 2)
    landing.close()

    move(read_of(source), place_in(tmp_path))

    assert seen(target) == seen(source)
