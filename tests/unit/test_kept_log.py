"""What strangers print, kept within bounds: how it began and how it went on, whatever they print."""

from __future__ import annotations

from pathlib import Path

from host_agent.hypervisors.kept_log import HEAD_BYTES, TAIL_BYTES, KeptLog, trim


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_a_short_log_is_one_file_as_it_was_printed(tmp_path: Path) -> None:
    console = KeptLog(tmp_path / "console.log")

    for line in (b"Linux version 6.1\n", b"login: "):
        console.write(line)

    assert (tmp_path / "console.log").read_bytes() == b"Linux version 6.1\nlogin: "
    assert [path.name for path in tmp_path.iterdir()] == ["console.log"]


def test_a_guest_that_prints_for_ever_leaves_its_beginning_its_end_and_no_more_than_the_bound(tmp_path: Path) -> None:
    console = KeptLog(tmp_path / "console.log")

    for number in range(200):
        console.write(f"{number:09}\n".encode() * 5000)

    assert (tmp_path / "console.log").read_bytes().startswith(b"000000000\n")
    assert (tmp_path / "console.log.tail").read_bytes().endswith(b"000000199\n")
    assert size_of(tmp_path) <= HEAD_BYTES + 2 * TAIL_BYTES


def test_one_huge_print_keeps_the_bound_too(tmp_path: Path) -> None:
    KeptLog(tmp_path / "console.log").write(b"began\n" + b"x" * 10_000_000 + b"\nlast words\n")

    assert (tmp_path / "console.log").read_bytes().startswith(b"began\n")
    assert (tmp_path / "console.log.tail").read_bytes().endswith(b"\nlast words\n")
    assert size_of(tmp_path) <= HEAD_BYTES + 2 * TAIL_BYTES


def test_boots_leave_the_last_but_one_and_no_more(tmp_path: Path) -> None:
    for boot in range(5):
        console = KeptLog(tmp_path / "console.log")
        console.begin()
        console.write(b"%d" % boot * HEAD_BYTES)
        console.write(b"end of %d" % boot)

    assert (tmp_path / "console.log").read_bytes().startswith(b"4")
    assert (tmp_path / "console.log.1").read_bytes().startswith(b"3")
    assert (tmp_path / "console.log.1.tail").read_bytes() == b"end of 3"
    assert size_of(tmp_path) <= 2 * (HEAD_BYTES + 2 * TAIL_BYTES)


def test_a_log_that_another_process_appends_to_is_shortened_while_it_does(tmp_path: Path) -> None:
    path = tmp_path / "guest.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"began\n" + b"x" * 3_000_000 + b"\nlast words\n")

        trim(path)
        writer.write(b"goes on\n")

    kept = path.read_bytes()
    assert kept.startswith(b"began\n")
    assert b"bytes are left out here" in kept
    assert kept.endswith(b"\nlast words\ngoes on\n")
    assert len(kept) < HEAD_BYTES + TAIL_BYTES + 1000


def test_a_log_within_its_bounds_and_one_that_is_not_there_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "guest.log").write_bytes(b"x" * HEAD_BYTES)

    trim(tmp_path / "guest.log")
    trim(tmp_path / "none.log")

    assert (tmp_path / "guest.log").read_bytes() == b"x" * HEAD_BYTES
