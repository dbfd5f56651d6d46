"""The journal: what was acknowledged survives, a record cut short ends the file, an answer is kept."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from broker.rpc.entries import Entry
from broker.rpc.journal import Journal
from broker.rpc.record_file import RESERVE_BYTES, frame
from tests.broker.polling import until
from tests.unit.disks import fill, small_disk


async def journal_of(path: Path, **options: Any) -> Journal:
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


async def test_a_command_that_begins_at_once_costs_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await journal_of(tmp_path / "j")
    syncs: list[int] = []
    monkeypatch.setattr(os, "fdatasync", syncs.append)

    await journal.accept("c1", "console-a", b"body", started=True)

    assert len(syncs) == 1
    assert [(one.id, one.started) for one in (await reopened(tmp_path / "j")).unfinished()] == [("c1", True)]


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
    journal = Journal(tmp_path / "j", keep_s=60, steady=lambda: now)
    journal.open()
    for name in ("old", "open"):
        await journal.accept(name, "console-a", b"x")
    await journal.end("old", b"answer")
    now += 100
    await journal.accept("young", "console-a", b"x")
    await journal.end("young", b"answer")

    after = Journal(tmp_path / "j", keep_s=60, steady=lambda: 5.0)
    after.open()

    assert after.get("old") is None
    assert after.get("open") is not None
    assert after.get("young") is not None


@pytest.mark.parametrize("year", [2000, 2026, 2100])
async def test_a_clock_that_was_set_makes_no_answered_command_old(tmp_path: Path, year: int) -> None:
    """What ended a moment ago, as the machine's clock of then said, and comes again now."""
    at_ms = int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)
    records: list[list[object]] = [["accept", "c1", "console-a", at_ms, b"x"], ["end", "c1", b"answer"]]
    (tmp_path / "j").write_bytes(b"".join(frame(record) for record in records))

    after = await reopened(tmp_path / "j")

    entry = after.get("c1")
    assert entry is not None
    assert entry.reply == b"answer"


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


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_command_whose_record_cannot_be_written_is_not_known_and_can_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await journal_of(tmp_path / "j")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fdatasync", full)
        accepting = asyncio.ensure_future(journal.accept("c1", "console-a", b"first"))
        await asyncio.sleep(0)
        known_meanwhile = journal.get("c1")
        with pytest.raises(OSError, match="No space"):
            await accepting

    assert known_meanwhile is not None
    assert journal.get("c1") is None
    assert b"first" not in (tmp_path / "j").read_bytes()
    await journal.accept("c1", "console-a", b"second")
    assert [entry.command for entry in (await reopened(tmp_path / "j")).unfinished()] == [b"second"]


async def test_a_layout_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await journal_of(tmp_path / "j")
    big = bytes((1 << 20) - 100)
    with monkeypatch.context() as disk:
        disk.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space"):
            await asyncio.gather(journal.accept("c1", "a", big), journal.accept("c2", "a", big))

    await journal.accept("c3", "a", big)

    assert (tmp_path / "j").stat().st_size >= len(big) + RESERVE_BYTES


async def accept_all(journal: Journal, taken: list[str]) -> None:
    for number in range(1000):
        await journal.accept(f"new-{number}", "console-a", bytes(100_000))
        taken.append(f"new-{number}")


@asynccontextmanager
async def at_work(path: Path) -> AsyncIterator[Journal]:
    journal = await journal_of(path)
    try:
        yield journal
    finally:
        await journal.close()


async def test_a_full_disk_takes_nothing_new_and_brings_what_is_at_hand_to_its_end(tmp_path: Path) -> None:
    taken: list[str] = []
    with small_disk(tmp_path / "disk", 6 << 20) as disk:
        async with at_work(disk / "j") as journal:
            await journal.accept("c1", "console-a", b"first")
            fill(disk)
            with pytest.raises(OSError, match="No space"):
                await accept_all(journal, taken)

            await journal.note("c1", bytes(1 << 20))
            await journal.end("c1", b"answer")
            async with at_work(disk / "j") as on_full_disk:
                entry = on_full_disk.get("c1")
            (disk / "ballast").unlink()
            await journal.accept("c2", "console-a", b"second")
            size, used = (disk / "j").stat().st_size, journal._file.end

    assert entry is not None
    assert (entry.reply, 0 < len(taken) < 20) == (b"answer", True)
    assert size >= used + RESERVE_BYTES


async def test_new_and_last_words_of_one_write_fare_each_by_its_own_right(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 6 << 20) as disk:
        async with at_work(disk / "j") as journal:
            await journal.accept("c1", "console-a", b"first")
            fill(disk)
            big = bytes(1 << 20)
            told = await asyncio.gather(
                journal.accept("c2", "console-a", big), journal.note("c1", b"ended"), return_exceptions=True
            )
            async with at_work(disk / "j") as after:
                left = after.unfinished()

    assert isinstance(told[0], OSError)
    assert told[1] is None
    assert [entry.note for entry in left] == [b"ended"]


async def test_a_journal_on_a_full_disk_goes_on_where_the_last_whole_record_ends(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 6 << 20) as disk:
        async with at_work(disk / "j") as before:
            await before.accept("c1", "console-a", b"first")
            await before.accept("c2", "console-a", bytes(1000))
            torn = before._file.end - 500
        with (disk / "j").open("r+b") as file:
            file.seek(torn)
            file.write(b"torn")
        fill(disk)

        async with at_work(disk / "j") as after:
            await after.note("c1", b"ended")
        async with at_work(disk / "j") as last:
            left = last.unfinished()

    assert [(entry.id, entry.note) for entry in left] == [("c1", b"ended")]


async def test_a_rewrite_that_fails_leaves_the_journal_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("broker.rpc.journal.COMPACT_ABOVE_BYTES", 5_000)
    journal = await journal_of(tmp_path / "j")
    monkeypatch.setattr(Path, "replace", full)

    for i in range(20):
        await asyncio.wait_for(journal.accept(f"c{i}", "console-a", bytes(1000)), 5)
    await asyncio.wait_for(journal.close(), 5)
    monkeypatch.undo()

    assert "journal not compacted" in caplog.text
    assert len((await reopened(tmp_path / "j")).unfinished()) == 20


async def test_what_is_kept_is_rewritten_when_it_doubled_and_never_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.rpc.journal.COMPACT_ABOVE_BYTES", 5_000)
    threads: list[str] = []
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        threads.append(threading.current_thread().name)
        return real(path, target)

    journal = await journal_of(tmp_path / "j")
    monkeypatch.setattr(Path, "replace", replace)
    for i in range(100):
        await journal.accept(f"c{i}", "console-a", bytes(1000))
    await journal.close()

    assert 2 <= len(threads) <= 6
    assert all(name.startswith("journal") for name in threads)
    assert len((await reopened(tmp_path / "j")).unfinished()) == 100


async def test_of_ended_commands_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.rpc.entries.MOST_ENDED", 3)
    journal = await journal_of(tmp_path / "j")
    for i in range(6):
        await journal.accept(f"c{i}", "console-a", b"x")
        if i != 1:
            await journal.end(f"c{i}", b"answer")

    after = await reopened(tmp_path / "j")

    assert [i for i in range(6) if after.get(f"c{i}")] == [1, 3, 4, 5]


async def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    (tmp_path / "j").touch(0o644)
    (tmp_path / "j.new").touch(0o644)

    await journal_of(tmp_path / "j")

    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600


async def test_an_answer_that_the_disk_does_not_take_is_owed_and_written_when_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = await journal_of(tmp_path / "j")
    await journal.accept("c1", "console-a", b"first")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fdatasync", full)
        await asyncio.wait_for(journal.end("c1", b"answer"), 5)

    assert "answer not journalled" in caplog.text
    assert b"answer" not in (tmp_path / "j").read_bytes()
    await journal.accept("c2", "console-a", b"second")
    after = await reopened(tmp_path / "j")
    assert [entry.id for entry in after.unfinished()] == ["c2"]
    assert (after.get("c1") or Entry(id="", sender="", at_ms=0)).reply == b"answer"
    await journal.close()


async def test_what_is_owed_is_paid_without_another_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.rpc.group_commit.backoff", lambda *_: iter([0.01] * 1000))
    journal = await journal_of(tmp_path / "j")
    await journal.accept("c1", "console-a", b"first")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fdatasync", full)
        await journal.end("c1", b"answer")
        await asyncio.sleep(0.05)

    await until(lambda: journal._commit._owed == [])

    assert (await reopened(tmp_path / "j")).unfinished() == []
    await journal.close()


async def test_a_beginning_that_the_disk_does_not_take_has_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await journal_of(tmp_path / "j")
    entry = await journal.accept("c1", "console-a", b"first")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fdatasync", full)
        with pytest.raises(OSError, match="No space"):
            await journal.start("c1")

    assert not entry.started
    await journal.close()


async def test_notes_in_no_hurry_share_a_sync_and_go_with_the_first_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await journal_of(tmp_path / "j")
    await asyncio.gather(*(journal.accept(f"c{i}", "console-a", b"x") for i in range(3)))
    syncs = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (syncs.append(fd), real(fd)))

    waiting = [asyncio.ensure_future(journal.note(f"c{i}", b"ended", within_s=3600.0)) for i in range(2)]
    await asyncio.sleep(0)
    await journal.note("c2", b"ended")
    await asyncio.gather(*waiting)

    assert len(syncs) == 1
    assert [entry.note for entry in (await reopened(tmp_path / "j")).unfinished()] == [b"ended"] * 3


async def test_a_note_in_no_hurry_is_durable_within_its_time(tmp_path: Path) -> None:
    journal = await journal_of(tmp_path / "j")
    await journal.accept("c1", "console-a", b"x")

    await journal.note("c1", b"ended", within_s=0.01)

    assert [entry.note for entry in (await reopened(tmp_path / "j")).unfinished()] == [b"ended"]
    await journal.close()


def test_a_journal_that_cannot_be_made_on_a_full_disk_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(OSError, match="No space left on device"):
        Journal(tmp_path / "journal").open()
