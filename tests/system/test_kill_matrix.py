"""Every process killed in every phase of a job: one done row, the right output, commands run once, the story told."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import Disconnected, RemoteError
from schemas.errors import ErrorCode
from schemas.execs import ExecEnded
from schemas.ledger import JobRecord, JobState
from tests.system.running import System, open_to_all, running, until
from volcloud import Client
from volcloud.errors import ClientNotOpen

STORE = "storage_adapter-1"
VICTIMS = ("host_agent", "guest_agent", "job_adapter-1", STORE, "key_manager", "broker")
PHASES = ("stage-in", "running", "stage-out")
#: More than rides in a completion, so that stage-out takes a transfer.
OUTPUT_BYTES = 3_000_000


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "process", "--vms", "1") as one:
        yield one


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with system.client() as one:
        yield one


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory for gates."""
    with open_to_all() as directory:
        yield directory


class Gated:
    """A job that reads a large input, waits for a file, and writes a large output."""

    def __init__(self, client: Client, directory: Path, shared: Path, name: str) -> None:
        self.client, self.directory, self.name = client, directory, name
        self.gate, self.begun = shared / "gate", shared / "begun"
        self.sha256 = ""

    def upload(self) -> None:
        """Bring the input to the store."""
        (self.directory / "input").write_bytes(os.urandom(OUTPUT_BYTES))
        self.sha256 = self.client.files.upload(self.directory / "input")

    def submit(self) -> None:
        script = f"touch {self.begun}; while [ ! -e {self.gate} ]; do sleep 0.02; done; tac -s X input > output"
        self.client.jobs.submit(
            {
                "id": self.name,
                "executable": "/bin/sh",
                "arguments": ["-c", script],
                "inputs": [{"name": "input", "sha256": self.sha256, "size": OUTPUT_BYTES}],
                "outputs": [{"name": "output"}],
                "attempts": 1,
            }
        )

    @property
    def record(self) -> JobRecord:
        return self.client.jobs.show(f"{self.name}.1")

    def is_in(self, *phases: str) -> bool:
        return self.record.job.state in phases

    def expected(self) -> bytes:
        pieces = (self.directory / "input").read_bytes().split(b"X")
        last, whole = pieces[-1], [piece + b"X" for piece in pieces[:-1]]
        return last + b"".join(reversed(whole))


class SideEffect:
    """A command in the VM that appends a line to a file and then waits: how often was it run?"""

    def __init__(self, client: Client, directory: Path) -> None:
        self.file, self.gate = directory / "effects", directory / "effect-gate"
        self._client = client
        # A broker that was killed before this one is back sooner than the centre has heard of the host again.
        until(
            lambda: all(row.status.state == "running" for row in client.vms.list("worker-1")), "the VM is known to run"
        )
        self.end: ExecEnded | RemoteError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        until(self.file.exists, "the command has begun")

    def _run(self) -> None:
        script = f"echo x >> {self.file}; while [ ! -e {self.gate} ]; do sleep 0.02; done"
        try:
            self.end = self._client.execs.run("worker-1", ["sh", "-c", script], timeout_s=120)
        except RemoteError as error:
            self.end = error
        except (Disconnected, ClientNotOpen):
            return  # the client was closed: the test was interrupted

    def finish(self) -> None:
        self.gate.touch()
        self._thread.join(90)
        assert not self._thread.is_alive(), "the command was never answered"
        assert self.file.read_text() == "x\n"


def kill(system: System, client: Client, victim: str) -> None:
    if victim != "guest_agent":
        system.kill(victim)
        return
    old = client.vms.list("worker-1")[0]
    os.kill(old.status.pid, signal.SIGKILL)
    until(lambda: client.vms.list("worker-1")[0].status.generation > old.status.generation, "the VM is started again")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_loses_nothing_and_is_told(
    system: System, client: Client, tmp_path: Path, shared: Path, victim: str, phase: str
) -> None:
    job = Gated(client, tmp_path, shared, f"kill-{victim}-{phase}".replace("_", "-"))
    effect = SideEffect(client, tmp_path)

    if phase == "stage-in":
        hold_in_stage_in(system, client, job, victim)
    else:
        hold_later(system, client, job, victim, phase)
    rows = client.jobs.wait(job.name, timeout_s=90)
    effect.finish()

    assert [row.state for row in rows] == [JobState.DONE]
    client.jobs.fetch(f"{job.name}.1", tmp_path / "home")
    output = (tmp_path / "home" / "output").read_bytes()
    assert hashlib.sha256(output).hexdigest() == hashlib.sha256(job.expected()).hexdigest()
    assert isinstance(effect.end, ExecEnded) or (effect.end and effect.end.code == ErrorCode.INTERRUPTED)
    assert_story(job, victim, phase)


def hold_in_stage_in(system: System, client: Client, job: Gated, victim: str) -> None:
    """The input is slow: the storage adapter stands still while the guest waits for it."""
    job.gate.touch()
    job.upload()
    system.freeze(STORE)
    job.submit()
    until(lambda: job.is_in("stage-in"), "the job is in stage-in")
    kill(system, client, victim)
    system.thaw(STORE)


def hold_later(system: System, client: Client, job: Gated, victim: str, phase: str) -> None:
    """The payload waits for a file; for stage-out, the store then stands still."""
    job.upload()
    job.submit()
    until(job.begun.exists, "the payload has begun")
    until(lambda: job.is_in("running"), "the job is running")
    if phase == "stage-out":
        system.freeze(STORE)
        job.gate.touch()
        until(lambda: job.is_in("stage-out"), "the job is in stage-out")
    kill(system, client, victim)
    job.gate.touch()
    if phase == "stage-out":
        system.thaw(STORE)


def assert_story(job: Gated, victim: str, phase: str) -> None:
    """What happened can be read from the job: exactly one done attempt, a cause for every other one."""
    attempts = job.record.attempts
    assert [a.state for a in attempts].count("done") == 1
    assert all(a.cause for a in attempts if a.state != "done")
    why = job.client.jobs.why(f"{job.name}.1")
    assert why.noticed_by
    if phase == "stage-out":
        assert len(attempts) == 1, "what had ended was run again"
    elif victim == "guest_agent":
        assert any("restarted" in cause or "generation" in cause or "boot" in cause for cause in why.earlier), why
