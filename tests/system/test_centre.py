"""``volcloud up`` against what a machine does to it: kills, full disks, taken ports, starters that are gone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.node import LOOPBACK, find_server, is_answering, read_node_address
from tests.system.running import FAST, processes_of, until
from volcloud.centre.layout import Layout
from volcloud.centre.plan import read_names
from volcloud.centre.scraping import scrape_targets

EXAMPLES = Path(__file__).parents[2] / "examples"
OPTIONS = ("--hypervisor", "process", "--vms", "1", *FAST)
#: ``volcloud`` whose supervisor is killed as soon as it has done a named step.
KILLED = """
import os, signal, sys
from volcloud.centre import supervisor
from volcloud.main import main

step = sys.argv.pop(1)
real = getattr(supervisor, step)

def killed(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(supervisor, step, killed)
main()
"""

Done = subprocess.CompletedProcess[str]


class Place:
    """A data directory and ``volcloud`` on it."""

    def __init__(self, data: Path) -> None:
        self.data, self.layout = data, Layout(data)
        self.supervisor: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "VOLCLOUD_DATA": str(self.data)}

    def volcloud(self, *arguments: str, timeout_s: float = 120) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "volcloud.main", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def ok(self, *arguments: str) -> str:
        done = self.volcloud(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self, *options: str) -> subprocess.Popen[str]:
        """Start it in the foreground; its output is read by the test."""
        command = [sys.executable, "-m", "volcloud.main", "up", *OPTIONS, *options]
        self.supervisor = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True)
        return self.supervisor

    def ready(self, *options: str) -> None:
        """Start it in the foreground and read what it says until it is ready."""
        process = self.up(*options)
        assert process.stdout is not None
        while "ready; Ctrl-C" not in (line := process.stdout.readline()):
            assert line, f"it ended: {self.log()}"

    def runs_a_job(self, name: str) -> None:
        try:
            self.ok("job", "submit", str(EXAMPLES / "hello.toml"), "--id", name, "--wait")
        except subprocess.TimeoutExpired as error:
            raise AssertionError(self.volcloud("job", "why", f"{name}.1").stdout) from error

    def runs_a_job_of(self, name: str, **description: object) -> None:
        file = self.data.parent / f"{name}.json"
        file.write_text(json.dumps({"id": name, **description}))
        self.ok("job", "submit", str(file), "--wait")

    def pid(self, process: str) -> int:
        record = json.loads(self.layout.record(process).read_bytes())["record"]
        return int(record["pid"])

    def log(self) -> str:
        return self.layout.log("supervisor").read_text()

    def left(self) -> list[str]:
        return processes_of(self.data)


@contextmanager
def placed(data: Path) -> Iterator[Place]:
    """Have a place; nothing that runs in it is left."""
    find_server()
    place = Place(data)
    try:
        yield place
    finally:
        if place.supervisor is not None and place.supervisor.poll() is None:
            place.supervisor.terminate()
            place.supervisor.wait(60)
        if (data / "run").is_dir():
            place.ok("down")
        left = place.left()
        shutil.rmtree(data, ignore_errors=True)
        assert left == []


@pytest.fixture
def place() -> Iterator[Place]:
    with placed(Path(tempfile.mkdtemp(prefix="vc-", dir="/tmp"))) as one:
        yield one


def test_killed_between_its_files_and_its_credentials_it_goes_down_and_comes_up_again(place: Place) -> None:
    """The one step of which it was known; tests/long has every other."""
    command = [sys.executable, "-c", KILLED, "write_configurations", "up", *OPTIONS]
    killed = subprocess.run(command, env=place.environment, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL

    place.ok("down")

    assert place.left() == []
    place.ready()
    place.runs_a_job("after-the-kill")


@pytest.fixture(scope="module")
def held() -> Iterator[Place]:
    """A system that is up, for tests that leave it as it was."""
    with placed(Path(tempfile.mkdtemp(prefix="vc-", dir="/tmp"))) as one:
        one.ready()
        yield one


@pytest.mark.parametrize("process", ["broker", "job_adapter-1"])
def test_a_frozen_part_is_named_in_seconds_with_since_when_and_what_to_do(held: Place, process: str) -> None:
    pid = held.pid(process)
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: f"{process}: is frozen" in held.log(), "the supervisor has seen it", 60)
        done = held.volcloud("status", timeout_s=30)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert done.returncode == 3
    assert re.search(rf"Error: {process}: is frozen.*, since 2\d\d\d-", done.stderr)
    assert f"kill -CONT {pid}" in done.stderr
    assert "not known: the centre could not be asked" in done.stdout
    assert "no jobs" not in done.stdout
    until(lambda: held.volcloud("status").returncode == 0, "it is well again", 60)


def test_a_restart_of_the_broker_is_shown(held: Place) -> None:
    before = held.pid("broker")
    os.kill(before, signal.SIGKILL)
    until(lambda: held.pid("broker") != before, "it is started again", 60)
    until(lambda: held.volcloud("status").returncode == 0, "all is well", 60)

    seen = json.loads(held.ok("status", "--json"))

    shown = next(one for one in seen["processes"] if one["name"] == "broker")
    assert (shown["restarts"], shown["last_end"], shown["state"]) == (1, "exit status -9", "running")


def test_the_logs_say_when_a_job_a_vm_and_a_daemon_begin_and_end(place: Place) -> None:
    place.ready()
    place.runs_a_job("told")
    place.runs_a_job_of("lasting", executable="/bin/sleep", arguments=["0.3"])
    place.ok("vm", "poweroff", "worker-1")
    place.ok("down")

    guest = next(place.layout.host.rglob("guest.log")).read_text()
    host = place.layout.log("host_agent").read_text()
    ended = r"Z INFO guest_agent job ended job='.*/{}.1' attempt=1 outcome='done' exit_status=0 run_s=0\.\d+"
    assert re.search(r"Z INFO guest_agent job begins job='.*/lasting.1' attempt=1", guest)
    assert re.search(ended.format("lasting"), guest)
    assert re.search(ended.format("told"), guest), "a job that is short is told once, at its end"
    assert "vm made" in host
    assert re.search(r"vm verb verb='poweroff'.*name_of_vm='worker-1'", host)
    for daemon in ("key_manager", "job_adapter-1", "storage_adapter-1", "host_agent"):
        said = place.layout.log(daemon).read_text().splitlines()
        assert " starting " in said[0]
        assert " stopped" in said[-1], said[-1]


def test_a_system_that_is_down_is_not_said_to_have_no_jobs(place: Place) -> None:
    place.layout.make()

    done = place.volcloud("status")

    assert done.returncode == 3
    assert "nothing runs in" in done.stderr
    assert "`volcloud up` starts it" in done.stderr
    assert "no jobs" not in done.stdout


def test_a_reader_that_goes_leaves_a_system_that_holds_and_ends_in_order(place: Place) -> None:
    process = place.up()
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()

    until(lambda: place.layout.log("supervisor").exists() and "ready; Ctrl-C" in place.log(), "it is ready", 90)
    place.runs_a_job("unheard")
    process.terminate()

    assert process.wait(60) == 0
    assert place.left() == []


@pytest.fixture(scope="module")
def restarted() -> Iterator[tuple[Place, int]]:
    """A system whose VM was powered off before it went down, and whose broker's port, which is given, somebody else
    has since before it came up again."""
    with placed(Path(tempfile.mkdtemp(prefix="vc-", dir="/tmp"))) as one:
        one.ready()
        one.ok("vm", "poweroff", "worker-1")
        one.ok("down")
        before = read_node_address(one.layout.node).amqp_port
        with socket.create_server((LOOPBACK, before)):
            one.ready()
            yield one, before


def test_a_vm_that_somebody_has_powered_off_stays_off_and_no_start_waits_for_it(restarted: tuple[Place, int]) -> None:
    place, _ = restarted

    assert "worker-1: not to run, as somebody wished" in place.log()
    place.ok("vm", "start", "worker-1")
    place.runs_a_job("wished")


def test_a_port_that_is_taken_at_the_next_start_is_left_and_everybody_finds_the_new_one(
    restarted: tuple[Place, int],
) -> None:
    place, before = restarted

    assert read_node_address(place.layout.node).amqp_port != before
    place.ok("vm", "start", "worker-1")
    assert place.ok("vm", "run", "worker-1", "--", "echo", "heard") == "heard\n"


def test_an_adapter_whose_port_is_taken_while_it_is_away_comes_back_on_another(held: Place) -> None:
    name = "storage_adapter-1"
    before = read_names(held.layout).metrics[name]
    assert held.supervisor is not None
    held.supervisor.send_signal(signal.SIGSTOP)
    try:
        os.kill(held.pid(name), signal.SIGKILL)
        until(lambda: not is_answering(LOOPBACK, before), "the adapter is gone")
        stranger = socket.create_server((LOOPBACK, before))
    finally:
        held.supervisor.send_signal(signal.SIGCONT)
    with stranger:
        until(lambda: read_names(held.layout).metrics[name] != before, "a port is chosen anew")
        until(lambda: held.volcloud("status").returncode == 0, "all is well", 60)

    assert f"port {before} is somebody else's; {name} answers scrapes on " in held.log()
    assert scrape_targets(held.data).storage_adapters == [f"{LOOPBACK}:{read_names(held.layout).metrics[name]}"]


def test_every_file_of_a_used_system_is_its_owners_alone_and_no_log_shows_a_secret(held: Place) -> None:
    held.runs_a_job("used")
    held.ok("site", "add", "cern")

    open_to_others = [path for path in reachable(held.data) if may_be_read(path)]
    secrets = secrets_of(held.layout)
    showing = [
        (path, name) for path in logs_of(held.layout) for name, one in secrets.items() if one in path.read_bytes()
    ]

    assert open_to_others == []
    assert len(secrets) >= 6
    assert showing == []


def reachable(directory: Path) -> Iterator[Path]:
    """Give what is in a directory, but for what is in one of its own that is closed to others."""
    for path in directory.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink() and path.stat().st_mode & 0o001:
            yield from reachable(path)


def may_be_read(path: Path) -> bool:
    """Whether others may read or write it; through a directory they may pass on the way to a payload's."""
    mode = path.lstat().st_mode
    return not stat.S_ISLNK(mode) and bool(mode & (0o066 if stat.S_ISDIR(mode) else 0o077))


def secrets_of(layout: Layout) -> dict[str, bytes]:
    """Give every password that the system knows, by whose it is."""
    found = {path.stem: json.loads(path.read_bytes())["password"] for path in layout.credentials.glob("*.json")}
    found["administrator"] = read_node_address(layout.node).admin_password
    return {name: word.encode() for name, word in found.items()}


def logs_of(layout: Layout) -> list[Path]:
    return [path for path in layout.root.rglob("*.log*") if path.is_file()]


def test_a_planted_password_is_in_no_line_that_a_system_says_or_writes(place: Place) -> None:
    planted = "pLanted-7"

    done = place.volcloud("up", *OPTIONS, "--ledger", f"postgresql://volcloud:{planted}@{LOOPBACK}:1/x", "--detach")

    assert done.returncode == 3
    assert planted not in done.stdout + done.stderr
    meant = {place.layout.settings, *place.layout.etc.iterdir()}
    everything = [path for path in place.data.rglob("*") if path.is_file() and path not in meant]
    assert [path for path in everything if planted.encode() in path.read_bytes()] == []


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of its own that can be filled; the right to mount one is needed."""
    where = Path(tempfile.mkdtemp(prefix="vc-disk-", dir="/tmp"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=420m", "vc", where], check=False).returncode != 0:
        where.rmdir()
        pytest.skip("mounting is not allowed here")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)
        where.rmdir()


def test_a_full_disk_ends_no_system_and_all_of_it_comes_back_with_the_space(small_disk: Path) -> None:
    with placed(small_disk / "data") as place:
        place.ready()
        filler = small_disk / "filler"
        fill(filler)
        dying = ("key_manager", "broker")
        for process in dying:
            os.kill(place.pid(process), signal.SIGKILL)
        assert place.supervisor is not None
        heard = place.supervisor.stdout
        assert heard is not None
        said = "".join(heard.readline() for _ in range(4))
        assert "No space left on device" in said, said
        assert place.supervisor.poll() is None
        assert "Error: disk: 0 MB are free" in place.volcloud("status").stderr

        filler.unlink()

        until(lambda: place.volcloud("status").returncode == 0, "everything is back", 90)
        place.runs_a_job("space")


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            pass
        try:
            while True:
                file.write(b"x")
        except OSError:
            return
