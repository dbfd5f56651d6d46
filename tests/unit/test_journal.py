"""The journal: what was acknowledged survives, a record cut short ends the file, an answer is kept."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from broker.rpc.journal import Entry, Journal


async def journal_of(path: Path, **options: float) -> Journal:
    journal = Journal(path, **options)
    journal.open()
    return journal


async def reopened(path: Path) -> Journal:
    """What a process sees that comes after one that was killed: the file as it is, never closed."""
    return await journal_of(path)


async def test_an_accepted_command_survives_a_kill(tmp_path: Path) -> None:
    journal = await journal_of(tmp_path / "j")
    await journal.accept("c1", "console-a", b"body")

    after = await reopened(tmp_path / "j")

    assert after.unfinished() == [
        Entry(id="c1", sender="console-a", at_ms=after.unfinished()[0].at_ms, command=b"body")
    ]


async def test_an_ended_command_is_known_with_its_answer(tmp_path: Path) -> None:
    journal = await journal_of(tmp_path / "j")
    await journal.accept("c1", "console-a", b"body")
    await journal.start("c1")
    await journal.end("c1", b"answer")

    entry = (await reopened(tmp_path / "j")).get("c1")

    assert entry is not None
    assert (entry.reply, entry.command, entry.started) == (b"answer", None, True)


async def test_many_commands_at_once_share_syncs_and_all_survive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (syncs.append(fd), real(fd)))
    journal = await journal_of(tmp_path / "j")

    await asyncio.gather(*(journal.accept(f"c{i}", "console-a", b"x") for i in range(200)))

    assert len((await reopened(tmp_path / "j")).unfinished()) == 200
    assert len(syncs) < 20


@pytest.mark.parametrize("cut", [1, 7, 20])
async def test_a_record_cut_short_by_a_crash_is_not_believed(tmp_path: Path, cut: int) -> None:
    journal = await journal_of(tmp_path / "j")
    await journal.accept("c1", "console-a", b"first")
    await journal.accept("c2", "console-a", b"second")
    data = (tmp_path / "j").read_bytes().rstrip(b"\0")
    (tmp_path / "j").write_bytes(data[:-cut] + bytes(4096))

    after = await reopened(tmp_path / "j")

    assert [entry.id for entry in after.unfinished()] == ["c1"]


async def test_a_byte_that_rotted_ends_the_file(tmp_path: Path) -> None:
    journal = await journal_of(tmp_path / "j")
    await journal.accept("c1", "console-a", b"first")
    await journal.accept("c2", "console-a", b"second")
    data = bytearray((tmp_path / "j").read_bytes())
    data[data.index(b"second")] ^= 1
    (tmp_path / "j").write_bytes(data)

    after = await reopened(tmp_path / "j")

    assert [entry.id for entry in after.unfinished()] == ["c1"]


async def test_ended_commands_are_forgotten_after_their_time_and_open_ones_never(tmp_path: Path) -> None:
    now = 1000.0
    journal = Journal(tmp_path / "j", keep_s=60, wall=lambda: now)
    journal.open()
    for name in ("old", "open"):
        await journal.accept(name, "console-a", b"x")
    await journal.end("old", b"answer")
    now += 100

    after = Journal(tmp_path / "j", keep_s=60, wall=lambda: now)
    after.open()

    assert after.get("old") is None
    assert after.get("open") is not None


async def test_a_file_that_grew_too_long_is_written_anew_while_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.rpc.journal.COMPACT_ABOVE_BYTES", 50_000)
    journal = Journal(tmp_path / "j", keep_s=-1)
    journal.open()
    for i in range(100):
        await journal.accept(f"c{i}", "console-a", bytes(1000))
        await journal.end(f"c{i}", b"answer")

    await journal.accept("last", "console-a", b"x")

    after = await reopened(tmp_path / "j")
    assert [entry.id for entry in after.unfinished()] == ["last"]
    assert len((tmp_path / "j").read_bytes().rstrip(b"\0")) < 100_000
