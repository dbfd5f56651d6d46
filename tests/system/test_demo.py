"""``make demo`` as a program: what it shows, and what is left of it when it is interrupted or killed: nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.daemon.process_identity import ProcessIdentity
from broker.node import LOOPBACK, find_server
from tests.system.running import processes_of, until
from volcloud.demo.material import KNOWN_MEAN
from volcloud.demo.place import DemoPlace

ROOT = Path(__file__).parents[2]
#: How soon it is gone after SIGINT, seconds: RabbitMQ alone may take five.
QUICKLY_S = 20.0
#: What marks each of its processes, beside its directory in their command lines.
MARK = "VOLCLOUD_TEST_DEMO"
#: What it says when a step begins; some are of the system that comes up.
STEPS = (
    *("== wheel:", "starting RabbitMQ", "the adapters answer", "== submit:"),
    *("== wait:", "== down:", "== native:", "== merge:"),
)

pytestmark = pytest.mark.timeout(400)


class Demo:
    """The demo in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.place = DemoPlace(directory)
        self.said: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def start_under_a_shell(self) -> None:
        """Start it as `make` does: by a shell, which waits for it."""
        self._start(["sh", "-c", '"$@"; true', "sh", *self._command("process")])

    def start(self, hypervisor: str = "process", **environment: str) -> None:
        self._start(self._command(hypervisor), **environment)

    def _command(self, hypervisor: str) -> list[str]:
        return [sys.executable, "-m", "volcloud.demo", "--hypervisor", hypervisor, "--directory", str(self.directory)]

    def _start(self, command: list[str], **environment: str) -> None:
        self.said = []
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, MARK: str(self.directory), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def read_until(self, words: str) -> None:
        """Read what it says up to the line with these words."""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line)
            if words in line:
                return
        raise AssertionError(f"it never said {words!r}: {self.text}")

    def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, if there is one to send, read the rest and give its exit status, negative for a signal."""
        assert self._process is not None
        if number is not None:
            self._process.send_signal(number)
        if number is signal.SIGKILL:
            return self._process.wait(10)  # what it leaves has its pipe
        assert self._process.stdout is not None
        self.said.append(self._process.stdout.read())
        return self._process.wait(10)

    @property
    def text(self) -> str:
        return "".join(self.said)

    def left(self) -> list[str]:
        """Name every process, mount and listening port of its directory."""
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.directory) in line]
        return [*processes_of(self.directory), *mounts, *(f"port {port}" for port in self._ports() if is_open(port))]

    def _ports(self) -> list[int]:
        layout, found = self.place.layout, []
        for path in (layout.node / "node.json", layout.etc / "names.json"):
            if path.exists():
                found += ports_in(json.loads(path.read_bytes()))
        return found

    def kill_all(self) -> None:
        """Leave nothing behind, whatever the test found."""
        while pids := pids_of(self.directory):
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def ports_in(kept: dict[str, object]) -> list[int]:
    nested = [port for value in kept.values() if isinstance(value, dict) for port in ports_in(value)]
    return nested + [value for value in kept.values() if isinstance(value, int) and 1024 < value < 65536]


def is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((LOOPBACK, port)) == 0


def pids_of(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={directory}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


@pytest.fixture
def demo() -> Iterator[Demo]:
    find_server()
    directory = Path(tempfile.mkdtemp(prefix="vc-demo-"))
    one = Demo(directory)
    try:
        yield one
    finally:
        one.kill_all()
        shutil.rmtree(directory)


def assert_convincing(demo: Demo, status: int) -> None:
    assert status == 0, demo.text
    assert "ok      4,000 events merged: 4,000" in demo.text
    assert f"ok      seed 1 as in a native run: {KNOWN_MEAN:.3f} and {KNOWN_MEAN:.3f}" in demo.text
    assert "ok      every job is done: 4 of 4" in demo.text
    assert "NOT OK" not in demo.text
    assert "LEP   20.76 ± 0.16 (measured)" in demo.text
    assert all(word in demo.text.splitlines()[-2] for word in ("packages", "image", "run", "whole"))
    assert demo.place.picture.read_bytes().startswith(b"\x89PNG")
    assert demo.left() == []


@pytest.mark.parametrize("step", STEPS)
def test_interrupted_at_any_step_it_is_gone_quickly_and_leaves_nothing(demo: Demo, step: str) -> None:
    environment = {"VOLCLOUD_CACHE": str(demo.directory / "cache")} if step == "== wheel:" else {}
    demo.start(**environment)
    demo.read_until(step)

    began = time.monotonic()
    status = demo.end(signal.SIGINT)

    assert status == 128 + signal.SIGINT, demo.text
    assert "interrupted by SIGINT; everything is stopped" in demo.text
    assert "Traceback" not in demo.text
    assert time.monotonic() - began < QUICKLY_S
    assert demo.left() == []


def test_a_demo_whose_starter_was_killed_ends_by_itself_and_leaves_nothing(demo: Demo) -> None:
    demo.start_under_a_shell()
    demo.read_until("the adapters answer")

    demo.end(signal.SIGKILL)

    until(lambda: demo.left() == [], "nothing is left", 90)
    assert "Traceback" not in demo.text


def test_a_demo_whose_directory_was_removed_ends_by_itself_and_leaves_no_process(demo: Demo) -> None:
    demo.start()
    demo.read_until("the adapters answer")

    shutil.rmtree(demo.directory, ignore_errors=True)

    assert demo.end() != 0, demo.text
    assert "Traceback" not in demo.text
    until(lambda: pids_of(demo.directory) == [], "nothing is left", 30)
    demo.directory.mkdir(exist_ok=True)


@pytest.mark.parametrize("step", ["starting job_adapter-1", "== wait:"])
def test_the_run_after_a_kill_ends_what_that_left_and_shows_the_numbers(demo: Demo, step: str) -> None:
    demo.start()
    demo.read_until(step)
    # Looked for before the kill: what it leaves may end by itself before anybody looks.
    broker = ProcessIdentity.read(demo.place.layout.node / "node.pid")
    assert broker is not None
    started = set(pids_of(demo.directory))
    assert broker.is_alive()
    assert demo.end(signal.SIGKILL) == -signal.SIGKILL

    demo.start()
    demo.read_until("== wheel:")
    stopped, is_gone = re.findall(r"stopping the broker \(pid (\d+)\)", demo.text), not broker.is_alive()
    status = demo.end()

    # It was stopped, or was gone before it was found: it ends by itself when its starter is gone.
    assert is_gone
    assert stopped in ([str(broker.pid)], []), demo.text
    assert started.isdisjoint(pids_of(demo.directory))
    assert_convincing(demo, status)


@pytest.mark.qemu
@pytest.mark.parametrize("step", ["image", "wait"])
def test_interrupted_while_it_builds_or_runs_its_virtual_machines_it_leaves_nothing(demo: Demo, step: str) -> None:
    builds = step == "image"
    demo.start("qemu", **({"VOLCLOUD_CACHE": str(demo.directory / "cache")} if builds else {}))
    demo.read_until("fetching Debian's packages" if builds else "== wait:")
    program = "dpkg" if builds else "qemu-system"
    until(lambda: any(program in line for line in processes_of(demo.directory)), f"{program} runs")

    began = time.monotonic()
    status = demo.end(signal.SIGINT)

    assert status == 128 + signal.SIGINT, demo.text
    assert time.monotonic() - began < QUICKLY_S
    assert demo.left() == []
