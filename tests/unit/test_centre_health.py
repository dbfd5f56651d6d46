"""What is wrong with a system: every part named, with the mend, and nobody waited for beyond the bound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.errors import ManagementError
from broker.ports import free_ports
from volcloud.centre import health
from volcloud.centre.health import Trouble, ask_all, keep_watch, since, troubles
from volcloud.centre.layout import Layout
from volcloud.centre.plan import Plan, write_plan
from volcloud.centre.process_state import write_state


class EnoughError(Exception):
    """The test has seen enough."""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.make()
    return made


@pytest.fixture
def sleeper(layout: Layout) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is recorded as the key manager."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    write_state(layout.record("key_manager"), "key_manager", process.pid)
    yield process
    process.kill()
    process.wait()


def test_all_are_asked_at_once_and_who_is_silent_is_said_to_be() -> None:
    release = threading.Event()

    def refuses() -> str:
        raise ManagementError("HTTP 500")

    began = time.monotonic()
    answers = ask_all(
        {"well": lambda: "", "ill": lambda: "too hot", "frozen": lambda: str(release.wait()), "away": refuses}, 0.3
    )

    assert answers == {"well": "", "ill": "too hot", "frozen": "does not answer within 0 s", "away": "HTTP 500"}
    assert time.monotonic() - began < 5
    release.set()


def test_a_system_of_which_nothing_runs_has_one_trouble(layout: Layout) -> None:
    assert troubles(layout) == [
        Trouble(part="system", what=f"nothing runs in {layout.root}", mend="`volcloud up` starts it")
    ]


def test_a_process_that_was_stopped_is_frozen_and_one_that_ended_is_gone(
    layout: Layout, sleeper: subprocess.Popen[bytes]
) -> None:
    write_state(layout.record("host_agent"), "host_agent", sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOWAIT)
    gone = subprocess.Popen(["true"])
    write_state(layout.record("key_manager"), "key_manager", gone.pid)
    gone.wait()

    found = {one.part: one for one in troubles(layout)}

    assert found["host_agent"].what.startswith("is frozen")
    assert found["host_agent"].mend == f"`kill -CONT {sleeper.pid}`"
    assert found["key_manager"].what == "is gone"


def test_a_database_that_is_down_is_named_without_its_password(
    layout: Layout, sleeper: subprocess.Popen[bytes]
) -> None:
    (port,) = free_ports("127.0.0.1", [0])
    write_plan(Plan(data=str(layout.root), ledger=f"postgresql://u:pLanted-7@127.0.0.1:{port}/x"))

    found = next(one for one in troubles(layout) if one.part == "ledger")

    assert "cannot be used" in found.what
    assert "refused" in found.what
    assert "pLanted-7" not in found.what + found.mend


def test_a_disk_that_is_nearly_full_comes_first(
    layout: Layout, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "DISK_LIMIT_BYTES", 1 << 62)

    first = troubles(layout)[0]

    assert first.part == "disk"
    assert "the broker takes no messages" in first.what
    assert "free some space" in first.mend


async def test_the_watch_keeps_since_when_a_trouble_lasts_and_says_when_it_is_over(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    ill = Trouble(part="broker", what="is frozen", mend="thaw it")
    rounds = iter([[ill], [ill], []])
    said: list[str] = []
    seen: list[int] = []

    def next_round(_: Layout) -> list[Trouble]:
        seen.append(since(layout, [ill])[0].since_ms)
        if (found := next(rounds, None)) is None:
            raise EnoughError
        return found

    monkeypatch.setattr(health, "troubles", next_round)
    monkeypatch.setattr(health, "LOOK_S", 0.0)

    with pytest.raises(EnoughError):
        await keep_watch(layout, said.append)

    assert said == ["broker: is frozen; thaw it", "broker: is well again"]
    assert seen[0] == 0
    assert seen[1] == seen[2] > 0
    assert seen[3] == 0


@pytest.mark.parametrize("look", [troubles, health.at_a_glance])
def test_a_disk_that_cannot_be_asked_is_a_trouble_and_the_other_parts_are_looked_at(
    layout: Layout,
    sleeper: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    look: Callable[..., list[Trouble]],
) -> None:
    def gone(path: Path) -> None:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    gone_process = subprocess.Popen(["true"])
    write_state(layout.record("host_agent"), "host_agent", gone_process.pid)
    gone_process.wait()
    monkeypatch.setattr("shutil.disk_usage", gone)

    found = {one.part: one for one in look(layout)}

    assert found["disk"].what.startswith("cannot be looked at: [Errno 2]")
    assert str(layout.root) in found["disk"].mend
    assert found["host_agent"].what == "is gone"


def test_records_that_cannot_be_read_are_a_trouble(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(directory: Path) -> None:
        raise OSError(5, "Input/output error", str(directory))

    monkeypatch.setattr(health, "read_states", fails)

    (found,) = troubles(layout)

    assert (found.part, found.what) == ("system", f"cannot be looked at: [Errno 5] Input/output error: '{layout.run}'")


def test_a_question_that_fails_in_a_way_that_nobody_foresaw_is_answered_at_once() -> None:
    def broken() -> str:
        raise ZeroDivisionError("by nothing")

    began = time.monotonic()
    answers = ask_all({"ill": broken}, 30)

    assert answers == {"ill": "cannot be asked: ZeroDivisionError: by nothing"}
    assert time.monotonic() - began < 10
