"""What a detached command prints on disk: in order, bounded, and loud about what was cut."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from guest_agent.spool import Place, Spool
from schemas.execs import Stream

HALF, SEGMENT = 4000, 1000


def small(directory: Path) -> Spool:
    return Spool(directory, half_bytes=HALF, segment_bytes=SEGMENT)


def all_of(spool: Spool, place: Place | None = None) -> list[tuple[Stream, bytes]]:
    place, found = place or Place(), []
    while pieces := spool.read(place):
        found += pieces
    return found


def of(found: list[tuple[Stream, bytes]], stream: Stream) -> bytes:
    return b"".join(data for kind, data in found if kind is stream)


def test_both_streams_come_back_in_their_order(tmp_path: Path) -> None:
    spool = small(tmp_path)
    said = [(Stream.STDOUT, b"one"), (Stream.STDERR, b"two"), (Stream.STDOUT, b"three")]
    for stream, data in said:
        spool.put(stream, data)

    assert all_of(spool) == said
    spool.close()
    assert all_of(Spool(tmp_path)) == said


def test_head_and_tail_are_kept_and_what_is_between_is_said(tmp_path: Path) -> None:
    spool = small(tmp_path)
    lines = [b"line %06d\n" % number for number in range(10_000)]
    for line in lines:
        spool.put(Stream.STDOUT, line)
    spool.close()

    found = all_of(spool)
    kept = of(found, Stream.STDOUT)
    mark = of(found, Stream.STDERR)
    cut = sum(map(len, lines)) - len(kept)
    assert kept.startswith(b"".join(lines[:200]))
    assert kept.endswith(b"".join(lines[-150:]))
    assert mark == b"\n*** TRUNCATED: %d bytes of output were not kept here ***\n" % cut
    assert spool.cut_bytes == cut
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * HALF + SEGMENT
    assert all_of(Spool(tmp_path)) == found


def test_a_reader_that_falls_behind_is_told_what_it_has_missed(tmp_path: Path) -> None:
    spool, place = small(tmp_path), Place()
    spool.put(Stream.STDOUT, b"x" * 3000)
    read = of(all_of(spool, place), Stream.STDOUT)
    for _ in range(30):
        spool.put(Stream.STDOUT, b"y" * 900)

    found = all_of(spool, place)
    missed = 3000 + 30 * 900 - len(read) - len(of(found, Stream.STDOUT))

    assert b"TRUNCATED: %d bytes" % missed in of(found, Stream.STDERR)
    assert spool.read(place) == []


def test_a_full_disk_cuts_and_that_is_said_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = small(tmp_path)
    spool.put(Stream.STDOUT, b"before ")

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("guest_agent.spool.reserve.demand", full)
        spool.put(Stream.STDOUT, b"lost" * 100)
    spool.put(Stream.STDOUT, b"after")
    spool.close()

    found = all_of(spool)
    assert of(found, Stream.STDOUT) == b"before after"
    assert b"TRUNCATED: 400 bytes" in of(found, Stream.STDERR)
    assert spool.cut_bytes == 400


@pytest.mark.parametrize("length", [1, 4, 7, 9])
def test_a_record_that_a_kill_has_cut_short_is_not_read(tmp_path: Path, length: int) -> None:
    spool = small(tmp_path)
    spool.put(Stream.STDOUT, b"whole")
    spool.put(Stream.STDOUT, b"torn")
    spool.close()
    (path,) = tmp_path.iterdir()
    os.truncate(path, path.stat().st_size - length + 1 if length < 9 else 12)

    assert all_of(Spool(tmp_path))[:1] == [(Stream.STDOUT, b"whole")] or length == 9
