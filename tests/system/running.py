"""A whole system as ``volcloud up`` makes it, and what a test does to it: kill, freeze, let go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.daemon.process_identity import ProcessIdentity
from broker.node import find_server
from volcloud import Client
from volcloud.centre.layout import Layout
from volcloud.centre.process_state import read_states

#: A fast system: what takes minutes in production takes seconds.
FAST = (
    *("--lease-s", "4", "--beat-s", "0.5", "--guest-setting", "beat_s=0.5"),
    *("--guest-setting", "request_again_s=5", "--guest-setting", "store_patience_s=600"),
)


#: Its own record lies beside the daemons'.
SUPERVISOR = "supervisor"


def until(condition: Callable[[], object], what: str, patience_s: float = 60.0) -> None:
    """Look every 50 ms. Fails naming ``what`` when it does not become true in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience_s:g} s: {what}")
        time.sleep(0.05)


class System:
    """A running system and its data directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.layout = Layout(directory)
        self.supervisor: subprocess.Popen[bytes] | None = None

    def up(self, *options: str, patience_s: float = 120.0) -> None:
        """Start it in the foreground and wait until it is ready."""
        command = [sys.executable, "-m", "volcloud.main", "up", "--data", str(self.directory), *FAST, *options]
        with (self.directory / "up.log").open("ab") as log:
            self.supervisor = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until(lambda: "  ready" in self.said() or self._ended(), f"up is ready: {self.said()}", patience_s)
        if self._ended():
            raise AssertionError(f"up ended: {self.said()}")

    def said(self) -> str:
        """What ``up`` has printed."""
        return (self.directory / "up.log").read_text()

    def down(self) -> None:
        """End it as Ctrl-C does."""
        if self.supervisor is not None and self.supervisor.poll() is None:
            self.supervisor.send_signal(signal.SIGINT)
            self.supervisor.wait(60)

    def pid(self, name: str) -> int:
        """Give the process id of a daemon or the broker, as it was recorded; 0 when it does not run."""
        if name == "broker":
            record = ProcessIdentity.read(self.layout.node / "node.pid")
            return record.pid if record is not None and record.is_alive() else 0
        states = {state.name: state for state in read_states(self.layout.run)}
        return states[name].record.pid if name in states and states[name].is_alive else 0

    def processes(self) -> dict[str, int]:
        """Give all that runs of it but its supervisor, by name: daemons, the broker, ``guest-<n>`` for VMs' agents."""
        alive = [state for state in read_states(self.layout.run) if state.is_alive and state.name != SUPERVISOR]
        daemons = {state.name: state.record.pid for state in alive}
        guests = [pid for pid, words in _commands_of(self.directory) if "guest_agent" in words]
        found = daemons | {"broker": self.pid("broker")} | {f"guest-{n}": pid for n, pid in enumerate(guests, start=1)}
        return {name: pid for name, pid in found.items() if pid}

    def kill(self, name: str) -> None:
        """SIGKILL a daemon and wait until another has taken its place."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.pid(name) not in (0, pid), f"{name} is started again")

    def freeze(self, name: str) -> None:
        """Stop a daemon where it is."""
        os.kill(self.pid(name), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let it go on, if it still is there."""
        if pid := self.pid(name):
            os.kill(pid, signal.SIGCONT)

    def _ended(self) -> bool:
        return self.supervisor is not None and self.supervisor.poll() is not None

    def client(self) -> Client:
        """Connect a client."""
        return Client.connect(self.directory)


@contextmanager
def open_to_all() -> Iterator[Path]:
    """Have a directory that payloads see and may write in: by root they have an account and a /tmp of their own."""
    place = "/run" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(dir=place, prefix="vc-open-") as directory:
        Path(directory).chmod(0o1777)
        yield Path(directory)


@contextmanager
def running(*options: str, patience_s: float = 120.0) -> Iterator[System]:
    """Have a system for as long as the block lasts; nothing of it is left afterwards."""
    find_server()
    directory = Path(tempfile.mkdtemp(prefix="vc-"))
    system = System(directory)
    try:
        system.up(*options, patience_s=patience_s)
        yield system
    finally:
        system.down()
        left = processes_of(directory)
        shutil.rmtree(directory, ignore_errors=True)
        assert left == [], f"left behind: {left}"


def commands() -> str:
    """Give the command lines of all processes of this machine."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
            continue
    return "\n".join(found)


def processes_of(directory: Path) -> list[str]:
    """List the command lines of the processes that have to do with a data directory."""
    return [words for _, words in _commands_of(directory)]


def _commands_of(directory: Path) -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if (
                    str(directory).encode() in words
                    and b"Z" not in (entry / "stat").read_bytes().rpartition(b")")[2][:3]
                ):
                    yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
