"""What ends a run from outside, and what does not: a deaf terminal, a full disk, a log that grew."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from volcloud.centre.interruption import Ground, ended_from_outside
from volcloud.centre.log_bounds import cut_long
from volcloud.centre.voice import Voice

#: A run that is held by ``ended_from_outside`` and says how it ended.
RUN = """
import asyncio, pathlib, signal, sys
from volcloud.centre import interruption
interruption.LOOK_S = 0.02

async def main():
    work = asyncio.ensure_future(asyncio.sleep(60))
    here = pathlib.Path(sys.argv[1])
    async with interruption.ended_from_outside(work, here, lambda _: None, follows_starter=True) as end:
        print("held", flush=True)
        try:
            await work
        except asyncio.CancelledError:
            print(end.reason, flush=True)

asyncio.run(main())
"""
#: A starter that starts such a run, with hang-ups ignored or not, says its pid and waits.
STARTER = """
import signal, subprocess, sys
if sys.argv[2] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
run = subprocess.Popen([sys.executable, "-c", sys.argv[3], sys.argv[1]])
print(run.pid, flush=True)
run.wait()
"""


def start(directory: Path, mode: str) -> subprocess.Popen[str]:
    """Start a starter with its run; its output is the run's."""
    command = [sys.executable, "-c", textwrap.dedent(STARTER), str(directory), mode, RUN]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> subprocess.Popen[str]:
    return start(tmp_path, getattr(request, "param", ""))


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def test_a_run_ends_when_its_starter_is_killed(run: subprocess.Popen[str]) -> None:
    lines_of(run, 2)

    run.kill()
    run.wait()

    assert lines_of(run, 1) == [f"the process that started it (pid {run.pid}) has ended"]


@pytest.mark.parametrize("run", ["nohup"], indirect=True)
def test_nohup_means_that_neither_the_starters_end_nor_a_hang_up_ends_it(run: subprocess.Popen[str]) -> None:
    pid = int(next(line for line in lines_of(run, 2) if line.isdigit()))
    run.kill()
    run.wait()

    os.kill(pid, signal.SIGHUP)
    os.kill(pid, signal.SIGTERM)

    assert lines_of(run, 1) == ["SIGTERM came"]


def test_a_run_ends_when_its_directory_is_removed_also_when_another_takes_its_name(tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.mkdir()
    ground = Ground(place, follows_starter=False)
    assert ground.lost() == ""

    place.rename(tmp_path / "elsewhere")
    assert ground.lost() == f"{place} was removed"

    place.mkdir()
    assert ground.lost() == f"{place} was removed"


async def test_the_first_reason_counts(tmp_path: Path) -> None:
    work = asyncio.ensure_future(asyncio.sleep(60))
    async with ended_from_outside(work, tmp_path, lambda _: None, follows_starter=False) as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait([work])
        interruption.end("something else")

    assert work.cancelled()
    assert (interruption.reason, interruption.signal) == ("SIGTERM came", signal.SIGTERM)


class Closed(io.StringIO):
    """A terminal that was closed, or a pipe that nobody reads."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error"), OSError(28, "")]
)
def test_a_voice_that_nobody_hears_goes_on_in_the_log(error: OSError, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    voice = Voice(Closed(error))

    voice.say("starting")
    voice.say("stopping")

    assert not voice.is_heard
    assert [record.message for record in caplog.records if record.message.startswith("st")] == ["starting", "stopping"]


def test_a_voice_tells_no_secret() -> None:
    stream = io.StringIO()

    Voice(stream).say("cannot use postgresql://u:pLanted-7@db/x")

    assert stream.getvalue().endswith("cannot use postgresql://u:***@db/x\n")


def test_what_foreign_words_have_made_too_long_is_cut_and_its_end_is_kept(tmp_path: Path) -> None:
    long, short = tmp_path / "a.log", tmp_path / "b.log"
    long.write_bytes(b"old" * 1000 + b"new" * 1000)
    short.write_bytes(b"x" * 100)

    with long.open("ab") as writer:
        assert cut_long([tmp_path], most_bytes=3000) == [long]
        writer.write(b"after")

    assert long.read_bytes() == b"after"
    assert (tmp_path / "a.log.1").read_bytes() == b"new" * 500
    assert short.stat().st_size == 100
