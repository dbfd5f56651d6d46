"""Reading what a guest has printed: the last lines, or on from a place, with whatever is lost between told by place."""

from __future__ import annotations

from pathlib import Path

import pytest

from host_agent.hypervisors import kept_log
from host_agent.hypervisors.kept_boots import LogAnswer, ask
from host_agent.hypervisors.kept_log import HEAD_BYTES, KeptLog, trim
from schemas.looks import MOST_OF_A_LOG

LINES = [b"line %09d of the guest\n" % number for number in range(60_000)]


def printed(pieces: LogAnswer) -> list[tuple[int, bytes]]:
    return [(piece.at, piece.data) for piece in pieces.pieces]


def read_all(path: Path, boot: str) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while True:
        answer = ask(path, boot, at, 0)
        assert sum(len(piece.data) for piece in answer.pieces) <= MOST_OF_A_LOG
        found += printed(answer)
        at = answer.next_at
        if not answer.more:
            return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


def test_of_a_short_log_the_last_lines_are_given_and_then_what_follows(path: Path) -> None:
    console = KeptLog(path)
    console.begin()
    console.write(b"one\ntwo\nthree\n")

    last = ask(path, "", 0, 2)
    console.write(b"four\n")
    on = ask(path, last.boot, last.next_at, 0)

    assert printed(last) == [(4, b"two\nthree\n")]
    assert printed(on) == [(14, b"four\n")]
    assert printed(ask(path, on.boot, on.next_at, 0)) == []
    assert printed(ask(path, "", 0, 0)) == []


def test_of_a_line_that_has_not_ended_what_there_is_of_it_is_given(path: Path) -> None:
    KeptLog(path).write(b"one\nlogin: ")

    assert printed(ask(path, "", 0, 1)) == [(4, b"login: ")]


@pytest.mark.parametrize("block", [1, 37, 5000])
def test_every_byte_that_is_kept_stands_at_its_place_however_it_was_written(path: Path, block: int) -> None:
    console, everything = KeptLog(path), b"".join(LINES)
    console.begin()
    for at in range(0, len(LINES), block):
        console.write(b"".join(LINES[at : at + block])) if block > 1 else None
    if block == 1:
        console.write(everything)

    found = read_all(path, ask(path, "", 0, 1).boot)

    assert found[0][0] == 0
    assert len(found[0][1]) >= HEAD_BYTES
    assert found[-1][1].endswith(LINES[-1])
    for at, data in found:
        assert everything[at : at + len(data)] == data


def test_a_log_that_somebody_else_appends_to_keeps_its_places_when_it_is_trimmed_again_and_again(path: Path) -> None:
    everything = b""
    kept_log.begin(path)
    for number in range(5):
        more = b"".join(LINES[number * 12_000 : number * 12_000 + 12_000]) * 5
        everything += more
        with path.open("ab") as log:
            log.write(more)
        trim(path)

    found = read_all(path, ask(path, "", 0, 1).boot)

    assert found[-1][0] + len(found[-1][1]) == len(everything)
    for at, data in found:
        assert everything[at : at + len(data)] == data


def test_who_reads_on_when_the_vm_has_booted_gets_the_rest_of_the_boot_before_and_the_name_of_the_next(
    path: Path,
) -> None:
    console = KeptLog(path)
    console.begin()
    console.write(b"first\n")
    first = ask(path, "", 0, 10)
    console.write(b"Kernel panic\n")
    console.begin()
    console.write(b"second\n")

    rest = ask(path, first.boot, first.next_at, 0)
    second = ask(path, rest.newer, 0, 0)

    assert printed(rest) == [(6, b"Kernel panic\n")]
    assert printed(second) == [(0, b"second\n")]
    assert (second.newer, first.newer) == ("", "")


def test_of_a_boot_that_is_kept_no_more_the_oldest_that_is_comes_from_its_beginning(path: Path) -> None:
    console = KeptLog(path)
    console.begin()
    gone = ask(path, "", 0, 10)
    for number in range(3):
        console.begin()
        console.write(b"boot %d\n" % number)

    answer = ask(path, gone.boot, 4711, 0)

    assert printed(answer) == [(0, b"boot 1\n")]
    assert answer.boot != gone.boot
    assert printed(ask(path, answer.newer, 0, 0)) == [(0, b"boot 2\n")]


def test_a_log_of_before_there_were_notes_is_read_and_goes_on(path: Path) -> None:
    path.write_bytes(b"x" * HEAD_BYTES)
    Path(f"{path}.tail").write_bytes(b"old tail\n")

    before = ask(path, "", 0, 1)
    KeptLog(path).write(b"new\n")
    after = ask(path, before.boot, before.next_at, 0)

    assert printed(before)[0][1].endswith(b"old tail\n")
    assert printed(after) == [(HEAD_BYTES + 9, b"new\n")]


def test_where_nothing_was_printed_nothing_is_told(path: Path) -> None:
    assert ask(path, "", 0, 10) == LogAnswer("", [], 0, False, "")
    assert ask(path, "c0ffee", 10, 0) == LogAnswer("", [], 0, False, "")


def test_a_place_that_a_crash_of_the_host_has_taken_away_is_left_for_the_end(path: Path) -> None:
    console = KeptLog(path)
    console.begin()
    console.write(b"little\n")

    answer = ask(path, ask(path, "", 0, 1).boot, 1 << 40, 0)

    assert (printed(answer), answer.next_at, answer.more) == ([], 7, False)
