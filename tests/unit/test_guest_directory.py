"""Directories that strangers have written in: nothing followed out of them, and nothing in them too deep to remove."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guest_agent import tree
from guest_agent.directory import Directory
from guest_agent.errors import PathEscapes, TooMany
from tests.unit.disks import small_disk


def read(held: Directory, name: str) -> bytes:
    descriptor = held.open(name)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("a secret")
    directory = tmp_path / "inside"
    (directory / "d").mkdir(parents=True)
    (directory / "d" / "file").write_text("a file")
    return directory


def test_links_that_stay_inside_are_followed_relative_or_by_the_directorys_own_path(inside: Path) -> None:
    (inside / "near").symlink_to("d/file")
    (inside / "d" / "up").symlink_to("../near")
    (inside / "whole").symlink_to(inside / "d" / "up")

    with Directory(inside) as held:
        assert {read(held, name) for name in ("near", "d/up", "whole", "d/../near")} == {b"a file"}


@pytest.mark.parametrize("target", ["../../secret", "/etc/passwd", "../d/../../secret", "/proc/self/environ", "round"])
def test_a_link_that_leads_out_or_round_is_followed_nowhere(inside: Path, target: str) -> None:
    (inside / "round").symlink_to("round")
    (inside / "d" / "out").symlink_to(target if target != "round" else "../round")

    with Directory(inside) as held, pytest.raises(PathEscapes):
        held.open("d/out")


def test_a_directory_that_became_a_link_is_no_way_out(inside: Path) -> None:
    (inside / "d").rename(inside / "e")
    (inside / "d").symlink_to(inside.parent)

    with Directory(inside) as held:
        with pytest.raises(PathEscapes):
            held.open("d/secret")
        with pytest.raises(OSError):
            os.close(held.create("d/new"))
        with pytest.raises(OSError):
            held.link(inside.parent / "secret", "d/linked")

    assert sorted(path.name for path in inside.parent.iterdir()) == ["inside", "secret"]


@pytest.mark.parametrize("name", ["../new", "/new", "a//b", "./a", "a/..", ""])
def test_what_is_no_name_below_makes_nothing(inside: Path, name: str) -> None:
    with Directory(inside) as held, pytest.raises(PathEscapes):
        held.create(name)


def test_a_pipe_does_not_hold_up_who_opens_it(inside: Path) -> None:
    os.mkfifo(inside / "pipe")

    with Directory(inside) as held:
        os.close(held.open("pipe"))


def test_a_tree_three_thousand_deep_is_removed_with_a_handful_of_descriptors(tmp_path: Path) -> None:
    top = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("deep", dir_fd=top)
    here = os.open("deep", os.O_RDONLY, dir_fd=top)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        there = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    os.close(top)

    with Directory(tmp_path) as held:
        held.remove("deep")

    assert not (tmp_path / "deep").exists()


def test_a_wide_tree_with_links_out_of_it_is_removed_and_what_they_name_stays(inside: Path) -> None:
    for number in range(300):
        (inside / f"{number}").mkdir()
        (inside / f"{number}" / "out").symlink_to(inside.parent / "secret")
        (inside / f"{number}" / ".gone-0").mkdir()
    (inside / "closed" / "more").mkdir(parents=True)
    (inside / "closed").chmod(0)

    with Directory(inside) as held:
        held.empty()

    assert list(inside.iterdir()) == []
    assert (inside.parent / "secret").read_text() == "a secret"


def test_a_pattern_names_files_at_its_own_depth(inside: Path) -> None:
    for name in ("a.root", "b.root", ".hidden.root", "d/c.root", "{x}[1].root"):
        (inside / name).write_text(name)

    with Directory(inside) as held:
        assert tree.matching(held, "*.root", 9) == ["a.root", "b.root", "{x}[1].root"]
        assert tree.matching(held, "d/*", 9) == ["d/c.root", "d/file"]
        assert tree.matching(held, "?/[a-c].root", 9) == ["d/c.root"]


def test_a_pattern_that_matches_too_many_files_or_ways_names_none(inside: Path) -> None:
    for number in range(20):
        (inside / f"{number}.dat").touch()
        (inside / f"way-{number}").mkdir()
    (inside / "way-1" / "only").touch()

    with Directory(inside) as held:
        assert len(tree.matching(held, "*.dat", 20)) == 20
        assert tree.matching(held, "*/only", 21) == ["way-1/only"]
        for pattern in ("*.dat", "way-*/only"):
            with pytest.raises(TooMany):
                tree.matching(held, pattern, 19)


def test_what_leads_to_none_of_the_names_is_removed_and_every_link_on_a_way_stays(inside: Path) -> None:
    for number in range(50):
        (inside / f"junk-{number}" / "deep" / "er").mkdir(parents=True)
        (inside / "d" / f"junk-{number}").write_text("junk")
    (inside / "real" / "far").mkdir(parents=True)
    (inside / "real" / "far" / "file").write_text("far")
    (inside / "real" / "junk").write_text("junk")
    (inside / "d" / "second").symlink_to("../real/far/file")
    (inside / "first").symlink_to("d/second")
    (inside / "way").symlink_to(inside / "real")
    (inside / "dead").symlink_to("nowhere")

    with Directory(inside) as held:
        tree.keep_only(held, ["first", "way/far/../far/file", "d/file"])
        assert {read(held, name) for name in ("first", "way/far/file", "d/file")} == {b"far", b"a file"}

    left = sorted(str(path.relative_to(inside)) for path in inside.rglob("*"))
    assert left == ["d", "d/file", "d/second", "first", "real", "real/far", "real/far/file", "way"]


def test_a_directory_that_a_link_goes_into_and_out_of_again_stays(inside: Path) -> None:
    (inside / "build" / "deep").mkdir(parents=True)
    (inside / "out.dat").write_text("out")
    (inside / "result").symlink_to(inside / "build" / "deep" / ".." / ".." / "out.dat")

    with Directory(inside) as held:
        tree.keep_only(held, ["result"])

        assert read(held, "result") == b"out"


def test_keeping_what_is_not_there_removes_nothing(inside: Path) -> None:
    with Directory(inside) as held, pytest.raises(FileNotFoundError):
        tree.keep_only(held, ["d/file", "missing"])

    assert (inside / "d" / "file").exists()


def test_a_full_disk_takes_no_room_to_be_emptied(tmp_path: Path) -> None:
    def dig(here: Path) -> None:
        while True:
            here.mkdir()
            (here / "beside").mkdir()
            (here / "file").write_bytes(bytes(1000))
            here = here / "d"

    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        with pytest.raises(OSError, match="No space"):
            dig(disk / "deep")
        with Directory(disk) as held:
            held.empty()

        assert list(disk.iterdir()) == []
