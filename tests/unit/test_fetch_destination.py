"""Where outputs land at home: a guest chose their names, and a person's files are his own."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from schemas.jobs import OutputEntry
from volcloud.errors import CommandFailed
from volcloud.fetch_destination import FetchDestination


def output(name: str, content: bytes = b"x") -> OutputEntry:
    return OutputEntry(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest(), content=content)


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "//x"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CommandFailed, match="leads out of"):
        FetchDestination(tmp_path, [output(name)])


def test_names_from_the_real_world_are_kept(tmp_path: Path) -> None:
    names = ["stdout", "injections_10^{6}_test.hdf5", "a/b c.root", "*.root", "-rf", "…"]

    assert FetchDestination(tmp_path, [output(name) for name in names]).paths == [tmp_path / name for name in names]


def test_a_name_that_does_not_print_is_written_as_it_is_shown(tmp_path: Path) -> None:
    assert FetchDestination(tmp_path, [output("a\x1b[2J\n\0b")]).paths == [tmp_path / "a\\x1b[2J\\n\\x00b"]


@pytest.mark.parametrize("names", [("stdout", "stdout"), ("a/b", "a//b"), ("a\x1b", "a\\x1b")])
def test_two_outputs_never_share_a_place(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(CommandFailed, match="two outputs of the job"):
        FetchDestination(tmp_path, [output(name) for name in names])


def test_another_file_in_the_way_is_never_overwritten_in_silence(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    destination = FetchDestination(tmp_path, [output("new/a"), output("b")])

    with pytest.raises(CommandFailed, match=r"b: there already .* nothing was overwritten"):
        destination.missing(overwrite=False)

    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert [path.name for _, path in destination.missing(overwrite=True)] == ["a", "b"]


def test_a_link_in_the_way_counts_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")

    with pytest.raises(CommandFailed, match="there already"):
        FetchDestination(tmp_path, [output("a")]).missing(overwrite=False)


def test_the_same_file_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")

    assert FetchDestination(tmp_path, [output("a")]).missing(overwrite=False) == []


def test_thousands_of_outputs_have_their_places_at_once(tmp_path: Path) -> None:
    many = [OutputEntry(name=f"out-{number}", size=0, sha256="0" * 64) for number in range(20_000)]
    began = time.process_time()

    assert len(FetchDestination(tmp_path, many).paths) == 20_000
    assert time.process_time() - began < 10  # each compared with each took 100 s
