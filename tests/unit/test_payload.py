"""Processes of a guest: whole groups, wall times, capped output, usage, clear errors."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from guest_agent.errors import CannotRun
from guest_agent.minded import MindedCommand, Streams
from guest_agent.minders import Minders
from guest_agent.payload import Payload
from guest_agent.pipes import Pipes, Sink
from guest_agent.streams import CappedFile
from tests.broker.polling import until

MINDERS = Minders()
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def is_gone(pid: int) -> bool:
    """Say whether a process is dead, buried or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Kept:
    """A sink that keeps everything, up to a window."""

    def __init__(self, window: int = 1 << 30) -> None:
        self.data = b""
        self.window = window

    def take(self, data: bytes) -> bool:
        self.data += data
        return len(self.data) < self.window


async def start(*command: str, directory: Path, out: Sink | None = None) -> Payload:
    pipes, leader = Pipes(), MindedCommand(MINDERS, command, directory, None)
    stdin = os.open(os.devnull, os.O_RDONLY)
    try:
        await leader.start(ENVIRONMENT, Streams(stdin=stdin, stdout=pipes.out_write, stderr=pipes.err_write))
    except CannotRun:
        pipes.drop()
        raise
    finally:
        pipes.hand_over()
        os.close(stdin)
    return Payload(leader, pipes, out or Kept(), Kept())


async def test_a_process_ends_with_its_output_and_status(tmp_path: Path) -> None:
    out = Kept()

    ended = await (await start("sh", "-c", "echo hello; exit 3", directory=tmp_path, out=out)).wait()

    assert (ended.exit_status, out.data, ended.timed_out) == (3, b"hello\n", False)


async def test_a_death_by_signal_is_told_as_the_shell_does(tmp_path: Path) -> None:
    ended = await (await start("sh", "-c", "kill -TERM $$", directory=tmp_path)).wait()

    assert ended.exit_status == 128 + signal.SIGTERM


async def test_the_wall_time_ends_the_whole_group(tmp_path: Path) -> None:
    payload = await start("sh", "-c", "sleep 600 & echo $! > child; sleep 600", directory=tmp_path)
    await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip() != "")

    ended = await payload.wait(0.1)

    child = int((tmp_path / "child").read_text())
    assert ended.timed_out
    await until(lambda: is_gone(child))


async def test_a_child_that_outlives_its_leader_is_ended_too(tmp_path: Path) -> None:
    ended = await (await start("sh", "-c", "sleep 600 & echo $! > child", directory=tmp_path)).wait()

    child = int((tmp_path / "child").read_text())
    assert (ended.exit_status, ended.timed_out) == (0, False)
    await until(lambda: is_gone(child))


@pytest.mark.parametrize("limit", [1000, 50_000], ids=["kept in memory", "kept in a file"])
async def test_output_beyond_the_limit_is_cut_with_a_loud_mark(tmp_path: Path, limit: int) -> None:
    sink = CappedFile(tmp_path, "out", limit)
    payload = await start("sh", "-c", "yes | head -c 100000; echo; echo last", directory=tmp_path, out=sink)

    await payload.wait()
    sink.close()

    text = (tmp_path / "out").read_text() if (tmp_path / "out").exists() else sink.head.decode()
    told = f"\n*** TRUNCATED: {100_006 - limit} bytes were not kept here (limit {limit}) ***\n"
    head, mark, tail = text.partition(told)
    assert mark
    assert head == "y\n" * (limit // 4)
    assert tail.endswith("y\n\nlast\n")
    assert len(head) + len(tail) == limit


async def test_a_full_window_holds_the_process_back_and_loses_nothing(tmp_path: Path) -> None:
    out = Kept(window=100_000)
    payload = await start("sh", "-c", "head -c 1000000 /dev/zero; echo done >&2", directory=tmp_path, out=out)
    await until(lambda: len(out.data) >= 100_000)
    held_at = len(out.data)
    assert held_at < 400_000

    out.window = 1 << 30
    payload.go_on()
    ended = await payload.wait()

    assert (ended.exit_status, len(out.data)) == (0, 1_000_000)


@pytest.mark.parametrize(
    ("program", "said"), [("no-such-program", "there is no such program"), ("./plain", "may not be executed")]
)
async def test_a_program_that_cannot_run_is_named(tmp_path: Path, program: str, said: str) -> None:
    (tmp_path / "plain").write_text("text")

    with pytest.raises(CannotRun, match=said):
        await start(program, directory=tmp_path)
