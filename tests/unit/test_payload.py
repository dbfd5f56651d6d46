"""Processes of a guest: whole groups, wall times, capped output, usage, clear errors."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from guest_agent.errors import CannotRun
from guest_agent.payload import CappedFile, Payload, kill_group_left_behind, since_boot, start_time_of
from tests.broker.polling import until

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


class Kept:
    """A sink that keeps everything, up to a window."""

    def __init__(self, window: int = 1 << 30) -> None:
        self.data = b""
        self.window = window

    def take(self, data: bytes) -> bool:
        self.data += data
        return len(self.data) < self.window


def start(*command: str, directory: Path, out: Kept | None = None, **options: object) -> Payload:
    return Payload.start(
        command,
        directory=directory,
        environment=ENVIRONMENT,
        stdout=out or Kept(),
        stderr=Kept(),
        **options,  # type: ignore[arg-type]
    )


async def test_a_process_ends_with_its_output_and_status(tmp_path: Path) -> None:
    out = Kept()

    ended = await start("sh", "-c", "echo hello; exit 3", directory=tmp_path, out=out).wait()

    assert (ended.exit_status, out.data, ended.timed_out) == (3, b"hello\n", False)


async def test_a_death_by_signal_is_told_as_the_shell_does(tmp_path: Path) -> None:
    ended = await start("sh", "-c", "kill -TERM $$", directory=tmp_path).wait()

    assert ended.exit_status == 128 + signal.SIGTERM


async def test_the_wall_time_ends_the_whole_group(tmp_path: Path) -> None:
    payload = start("sh", "-c", "sleep 600 & echo $! > child; sleep 600", directory=tmp_path)
    await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip() != "")

    ended = await payload.wait(0.1)

    child = int((tmp_path / "child").read_text())
    assert ended.timed_out
    await until(lambda: start_time_of(child) == "" or "Z" in Path(f"/proc/{child}/stat").read_text())


async def test_a_child_that_outlives_its_leader_is_ended_too(tmp_path: Path) -> None:
    ended = await start("sh", "-c", "sleep 600 & echo $! > child", directory=tmp_path).wait()

    child = int((tmp_path / "child").read_text())
    assert (ended.exit_status, ended.timed_out) == (0, False)
    await until(lambda: start_time_of(child) == "" or "Z" in Path(f"/proc/{child}/stat").read_text())


@pytest.mark.parametrize("limit", [1000, 50_000], ids=["kept in memory", "kept in a file"])
async def test_output_beyond_the_limit_is_cut_with_a_loud_mark(tmp_path: Path, limit: int) -> None:
    sink = CappedFile(tmp_path / "out", limit)
    payload = Payload.start(
        ["sh", "-c", "yes | head -c 100000"],
        directory=tmp_path,
        environment=ENVIRONMENT,
        stdout=sink,
        stderr=Kept(),
    )

    await payload.wait()
    sink.close()

    text = (tmp_path / "out").read_text() if (tmp_path / "out").exists() else sink.head.decode()
    assert text.startswith("y\n" * (limit // 2))
    assert f"*** TRUNCATED: {100_000 - limit} more bytes were not kept (limit {limit}) ***" in text


async def test_a_full_window_holds_the_process_back_and_loses_nothing(tmp_path: Path) -> None:
    out = Kept(window=100_000)
    payload = start("sh", "-c", "head -c 1000000 /dev/zero; echo done >&2", directory=tmp_path, out=out)
    await until(lambda: len(out.data) >= 100_000)
    held_at = len(out.data)
    assert held_at < 400_000

    out.window = 1 << 30
    payload.go_on()
    ended = await payload.wait()

    assert (ended.exit_status, len(out.data)) == (0, 1_000_000)


async def test_usage_is_the_kernels_own_account(tmp_path: Path) -> None:
    code = "x = bytearray(64 << 20); sum(i * i for i in range(2_000_000))"

    ended = await start(sys.executable, "-c", code, directory=tmp_path).wait()

    assert ended.peak_rss_bytes > 64 << 20
    assert ended.cpu_seconds > 0.02
    assert ended.wall_seconds >= 0.02


async def test_a_payload_that_fills_the_memory_meets_its_limit(tmp_path: Path) -> None:
    err = Kept()
    code = "import time; time.sleep(0.05); x = bytearray(1 << 31)"
    payload = Payload.start(
        [sys.executable, "-c", code],
        directory=tmp_path,
        environment=ENVIRONMENT,
        stdout=Kept(),
        stderr=err,
        memory_bytes=512 << 20,
    )

    ended = await payload.wait()

    assert ended.exit_status == 1
    assert b"MemoryError" in err.data


@pytest.mark.parametrize(
    ("program", "said"), [("no-such-program", "there is no such program"), ("./plain", "may not be executed")]
)
async def test_a_program_that_cannot_run_is_named(tmp_path: Path, program: str, said: str) -> None:
    (tmp_path / "plain").write_text("text")

    with pytest.raises(CannotRun, match=said):
        start(program, directory=tmp_path)


async def test_a_group_left_by_a_dead_agent_is_killed_only_if_it_is_that_one(tmp_path: Path) -> None:
    payload = start("sleep", "600", directory=tmp_path)

    assert not kill_group_left_behind(payload.pid, since_boot() - 1000)
    assert not kill_group_left_behind(payload.pid, since_boot() + 1000)
    assert kill_group_left_behind(payload.pid, since_boot())
    assert (await payload.wait()).exit_status == 137


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process another account")
async def test_a_payload_of_another_account_has_no_rights_of_the_agents(tmp_path: Path) -> None:
    from guest_agent.payload import Account

    out = Kept()
    payload = start("id", directory=Path("/"), out=out, account=Account(64000, 64000))

    await payload.wait()

    assert out.data.split() == [b"uid=64000", b"gid=64000", b"groups=64000"]
