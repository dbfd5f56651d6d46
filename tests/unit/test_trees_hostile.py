"""Manifests and places of strangers: the receiver decides, nothing lands where it should not, nothing is half-made."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from broker.errors import TransferFailed
from broker.trees import into_tree
from broker.trees.manifest import MOST_TOLD, judge_manifest, make_manifest
from schemas.errors import ErrorCode
from schemas.files import FileOffer, GuestTree
from schemas.trees import (
    MAX_ENTRIES,
    TreeDirectory,
    TreeEntry,
    TreeFile,
    TreeLink,
    TreeSkipped,
    encode_manifest,
)
from tests.unit.trees import move, place_in, read_of, seen

NOTHING = hashlib.sha256().digest()


def directory(parent: int, name: bytes, mode: int = 0o755) -> TreeDirectory:
    return TreeDirectory(parent=parent, name=name, mode=mode, mtime_ns=0)


def file(parent: int, name: bytes, data: bytes = b"", size: int | None = None, **fields: object) -> TreeFile:
    return msgspec.structs.replace(
        TreeFile(
            parent=parent, name=name, mode=0o644, mtime_ns=0, size=len(data) if size is None else size,
            sha256=hashlib.sha256(data).digest(), extents=((0, len(data)),) if data else (),
        ),
        **fields,
    )  # fmt: skip


def link(parent: int, name: bytes, target: bytes) -> TreeLink:
    return TreeLink(parent=parent, name=name, mtime_ns=0, target=target)


ROOT = directory(-1, b"")
REFUSED: dict[str, list[TreeEntry]] = {
    "nothing": [],
    "no root": [file(-1, b"")],
    "a root with a name": [directory(-1, b"x")],
    "a second root": [ROOT, directory(-1, b"")],
    "..": [ROOT, directory(0, b".."), file(1, b"x")],
    ".": [ROOT, file(0, b".")],
    "absolute": [ROOT, file(0, b"/etc/x")],
    "two parts": [ROOT, file(0, b"a/b")],
    "zero byte": [ROOT, file(0, b"a\0b")],
    "no name": [ROOT, file(0, b"")],
    "a file below a link": [ROOT, link(0, b"l", b"/etc"), file(1, b"x")],
    "a file below a file": [ROOT, file(0, b"f"), file(1, b"x")],
    "a file below what comes later": [ROOT, file(2, b"x"), directory(0, b"d")],
    "a file below itself": [ROOT, directory(1, b"x")],
    "a name twice": [ROOT, file(0, b"x"), file(0, b"x")],
    "a link and a directory": [ROOT, link(0, b"x", b"/etc"), directory(0, b"x"), file(2, b"y")],
    "a link to what no path is": [ROOT, link(0, b"l", b"a\0b")],
    "more bytes than any disk has": [
        ROOT,
        *(file(0, b"%d" % n, size=1 << 61, extents=((0, 1 << 61),)) for n in range(5)),
    ],
    "bytes beyond its size": [ROOT, file(0, b"x", b"data", size=3)],
    "bytes twice": [ROOT, file(0, b"x", size=9, extents=((0, 5), (4, 2)))],
    "more directories within each other": [ROOT, *(directory(n, b"d") for n in range(201))],
}


@pytest.mark.parametrize("entries", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there"])
def test_a_manifest_that_is_no_tree_is_refused_and_leaves_nothing(
    tmp_path: Path, entries: list[TreeEntry], is_there: bool
) -> None:
    (tmp_path / "to").mkdir()
    if is_there:
        (tmp_path / "to" / "target").mkdir()
    body = encode_manifest(entries)
    size = min(1 << 62, len(body) + sum(one.length for one in entries if isinstance(one, TreeFile)))
    offer = FileOffer(file=GuestTree(path="x", manifest=len(body)), size=size, sha256=hashlib.sha256(body).hexdigest())
    landing = into_tree(place_in(tmp_path / "to"), offer)

    with pytest.raises(TransferFailed, match="the manifest of the tree is refused: "):
        landing.write([body])
    landing.discard()

    assert [path.name for path in tmp_path.rglob("*")] == ["to", *(["target"] if is_there else [])]


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0\0\1", b"\xff\xff\xff\xff" + bytes(100), b"\0\0\0\1\xc0", b"\0\0\0\5\xdd\xff\xff\xff\xff", b"x"],
)
def test_bytes_that_are_no_manifest_are_refused(body: bytes) -> None:
    with pytest.raises(TransferFailed) as caught:
        judge_manifest(body, len(body))

    assert caught.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("field", [{"mode": 0o4755}, {"size": -1}, {"mtime_ns": 1 << 63}, {"extents": ((-1, 5),)}])
def test_fields_beyond_their_bounds_are_no_entry(field: dict[str, object]) -> None:
    body = encode_manifest([ROOT, file(0, b"x", **field)])  # type: ignore[arg-type]

    with pytest.raises(TransferFailed, match="no page of a manifest"):
        judge_manifest(body, len(body))


def test_a_million_entries_are_refused_before_they_are_all_read() -> None:
    page = msgspec.msgpack.encode([file(0, b"x")] * 5000)
    body = (len(page).to_bytes(4, "big") + page) * 200

    with pytest.raises(TransferFailed, match=f"may have {MAX_ENTRIES} entries") as caught:
        judge_manifest(body, len(body))

    assert caught.value.code is ErrorCode.TOO_LARGE


def test_sizes_that_lie_are_refused(tmp_path: Path) -> None:
    body = encode_manifest([ROOT, file(0, b"x", b"data")])

    for size in (len(body), len(body) + 3, len(body) + 5):
        with pytest.raises(TransferFailed, match="were offered"):
            judge_manifest(body, size)
    with pytest.raises(TransferFailed, match="were offered"):
        into_tree(place_in(tmp_path), FileOffer(file=GuestTree(path="x", manifest=9), size=8, sha256="0" * 64))
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_is_not_the_one_offered_is_refused(tmp_path: Path) -> None:
    body = encode_manifest([ROOT])
    offer = FileOffer(file=GuestTree(path="x", manifest=len(body)), size=len(body), sha256="0" * 64)
    landing = into_tree(place_in(tmp_path), offer)

    with pytest.raises(TransferFailed, match="is not the one offered"):
        landing.write([body])
    landing.discard()

    assert list(tmp_path.iterdir()) == []


def test_setuid_and_its_like_are_dropped(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "su").write_text("#!/bin/sh")
    (source / "su").chmod(0o6755)
    (source / "d").mkdir()
    (source / "d").chmod(0o3777)

    move(read_of(source), place_in(tmp_path))

    modes = {path.name: oct(path.stat().st_mode & 0o7777) for path in (tmp_path / "target").iterdir()}
    assert modes == {"su": "0o755", "d": "0o777"}


def a_file_where_a_directory_comes(target: Path) -> None:
    (target / "d").write_text("here")


def a_link_where_a_directory_comes(target: Path) -> None:
    (target / "d").symlink_to(target.parent / "outside")


def a_directory_where_a_file_comes(target: Path) -> None:
    (target / "z").mkdir()


def a_directory_where_a_link_comes(target: Path) -> None:
    (target / "l").mkdir()


@pytest.mark.parametrize(
    "prepare",
    [
        a_file_where_a_directory_comes,
        a_link_where_a_directory_comes,
        a_directory_where_a_file_comes,
        a_directory_where_a_link_comes,
    ],
)
def test_what_is_in_the_way_refuses_the_tree_before_anything_is_changed(
    tmp_path: Path, prepare: Callable[[Path], None]
) -> None:
    source, target, outside = tmp_path / "source", tmp_path / "target", tmp_path / "outside"
    (source / "d").mkdir(parents=True)
    (source / "d" / "x").write_text("x")
    (source / "a").write_text("a")
    (source / "z").write_text("z")
    (source / "l").symlink_to("a")
    for made in (target, outside):
        made.mkdir()
    prepare(target)
    before = seen(target)

    with pytest.raises(TransferFailed, match="Nothing was changed; move what is in the way"):
        move(read_of(source), place_in(tmp_path))

    assert seen(target) == before
    assert list(outside.iterdir()) == []
    assert not (tmp_path / ".gathering").exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_tree_whose_place_is_no_directory_is_refused_with_a_sentence(tmp_path: Path, kind: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (tmp_path / "elsewhere").mkdir()
    target.write_text("mine") if kind == "file" else target.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(TransferFailed, match="target is no directory; name one, or a name that is free"):
        move(read_of(source), place_in(tmp_path))

    assert target.is_symlink() == (kind == "link")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "source", "target"]


def test_a_link_in_the_place_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    source, target, secret = tmp_path / "source", tmp_path / "target", tmp_path / "secret"
    source.mkdir()
    target.mkdir()
    secret.write_text("secret")
    (source / "f").write_text("pushed")
    (target / "f").symlink_to(secret)

    move(read_of(source), place_in(tmp_path))

    assert secret.read_text() == "secret"
    assert (target / "f").read_text() == "pushed"
    assert not (target / "f").is_symlink()


def test_a_directory_that_becomes_a_link_while_the_tree_comes_leads_nowhere(tmp_path: Path) -> None:
    source, target, outside = tmp_path / "source", tmp_path / "target", tmp_path / "outside"
    (source / "d" / "e").mkdir(parents=True)
    (source / "d" / "e" / "f").write_text("pushed")
    (target / "d" / "e").mkdir(parents=True)
    (outside / "e").mkdir(parents=True)
    tree = read_of(source)
    offer = FileOffer(
        file=GuestTree(path="x", manifest=tree.manifest.length), size=tree.manifest.size, sha256=tree.sha256
    )
    landing = into_tree(place_in(tmp_path), offer)
    tree.open()
    landing.write([tree.read(0, landing.bound)])
    (target / "d").rename(tmp_path / "aside")
    (target / "d").symlink_to(outside)

    landing.write([tree.read(landing.written, tree.manifest.size)])

    landing._placing._held._leave()  # type: ignore[union-attr]
    with pytest.raises(NotADirectoryError):
        landing.commit(tree.sha256)
    landing.discard()
    tree.close()

    assert list((outside / "e").iterdir()) == []


def test_another_name_of_a_file_that_is_there_keeps_its_bytes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("a", "b"):
        (source / name).write_text("new")
    (target / "a").write_text("old")
    for name in ("b", "kept"):
        os.link(target / "a", target / name)

    move(read_of(source), place_in(tmp_path))

    assert [(target / name).read_text() for name in ("a", "b", "kept")] == ["new", "new", "old"]


def test_a_directory_without_rights_is_refilled_and_has_its_mode_at_the_end(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "f").write_text("one")
    (source / "d").chmod(0o555)
    move(read_of(source), place_in(tmp_path))
    (source / "d").chmod(0o755)
    (source / "d" / "f").write_text("two!")
    (source / "d").chmod(0o555)

    move(read_of(source), place_in(tmp_path))

    assert (tmp_path / "target" / "d" / "f").read_text() == "two!"
    assert (tmp_path / "target" / "d").stat().st_mode & 0o777 == 0o555
    for path in (source, tmp_path / "target"):
        (path / "d").chmod(0o755)


def test_of_very_much_that_is_left_out_the_first_are_named(tmp_path: Path) -> None:
    many = [TreeSkipped(parent=1, name=b"%d" % number, why="a device") for number in range(3000)]
    manifest, _ = make_manifest([directory(0, b""), directory(0, b"d" * 255), *many])

    assert manifest.left_out == 3000
    assert len(manifest.skipped()) == MOST_TOLD
