"""A real guest in QEMU that is away for a while, in the midst of a job and of a transfer: it comes back to both.

Paused, saved under an agent that is killed meanwhile, or thrown back to a snapshot: the job is done once, the file that
was under way is whole, and the guest's clock is right as soon as its agent is ready.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.ledger import JobState, RegistryRow
from schemas.vms import VmState
from tests.system.running import System, running, until
from volcloud import Client

pytestmark = [pytest.mark.long, pytest.mark.qemu, pytest.mark.timeout(1800)]

VM = "worker-1"
#: Enough for a guest under emulation to be in the midst of it for seconds.
FILE_BYTES = 96_000_000
AWAY_S = 5.0
#: How far a guest's clock may be off, seconds.
NEAR_S = 1.0


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "qemu", "--vms", "1") as one:
        yield one


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with system.client() as one:
        until(lambda: vm_of(one).agent_ready, "the guest is up", 240)
        yield one


def vm_of(client: Client) -> RegistryRow:
    return client.vms.list(VM)[0]


def output_of(client: Client, *command: str) -> str:
    said: list[bytes] = []
    client.execs.run(VM, command, on_output=lambda stream, data: said.append(data))
    return b"".join(said).decode()


def ready(client: Client) -> None:
    until(
        lambda: vm_of(client).agent_ready and vm_of(client).status.state is VmState.RUNNING, "its agent is ready", 120
    )


def check_clock(client: Client) -> None:
    before = time.time()
    told = float(output_of(client, "date", "+%s.%N"))
    after = time.time()

    assert before - NEAR_S < told < after + NEAR_S, f"{told - before:.2f} s, {told - after:.2f} s"


def away() -> None:
    """Let time go by that the guest does not see."""
    since = time.monotonic()
    until(lambda: time.monotonic() - since > AWAY_S, "time goes by")


def pause(system: System, client: Client, push: subprocess.Popen[str]) -> None:
    client.vms.pause(VM)
    away()
    client.vms.resume(VM)


def save(system: System, client: Client, push: subprocess.Popen[str]) -> None:
    client.vms.savestate(VM)
    system.kill("host_agent")
    away()
    client.vms.start(VM)


def throw_back(system: System, client: Client, push: subprocess.Popen[str]) -> None:
    """What came whole after the snapshot would be lost with all else, rightly: so the sender gets on, and not to its
    end, before the guest forgets it."""
    client.vms.take_snapshot(VM, "midst")
    push.send_signal(signal.SIGSTOP)
    away()
    client.vms.restore_snapshot(VM, "midst")
    client.vms.delete_snapshot(VM, "midst")
    assert push.poll() is None
    push.send_signal(signal.SIGCONT)


def begin_push(system: System, client: Client, local: Path) -> subprocess.Popen[str]:
    """Begin to send a file into the guest, and wait until a part of it is there."""
    words = [sys.executable, "-m", "volcloud.main", "vm", "push", VM, str(local), local.name]
    environment = {**os.environ, "VOLCLOUD_DATA": str(system.directory)}
    push = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    some = "find /var/lib/volunteer-cloud/partial -type f -size +500k 2>/dev/null"
    until(lambda: output_of(client, "sh", "-c", some), "a part of the file is there", 60)
    return push


@pytest.mark.parametrize("leave", [pause, save, throw_back])
def test_a_job_and_a_transfer_outlive_it_and_the_clock_is_right(
    system: System, client: Client, tmp_path: Path, leave: Callable[[System, Client, subprocess.Popen[str]], None]
) -> None:
    name = leave.__name__.replace("_", "-")
    local = tmp_path / f"{name}.bin"
    local.write_bytes(os.urandom(FILE_BYTES))
    gate = f"/run/gate-{name}"
    script = f"while [ ! -e {gate} ]; do sleep 0.1; done; echo done > out"
    job = {"id": name, "executable": "/bin/sh", "arguments": ["-c", script], "outputs": [{"name": "out"}]}
    client.jobs.submit(job)
    until(lambda: client.jobs.show(f"{name}.1").job.state == "running", "the job runs", 60)
    push = begin_push(system, client, local)
    generation = vm_of(client).status.generation

    leave(system, client, push)
    ready(client)
    check_clock(client)
    client.execs.run(VM, ["touch", gate])
    rows = client.jobs.wait(name, timeout_s=120)
    said, _ = push.communicate(timeout=120)

    assert [(row.state, row.attempt) for row in rows] == [(JobState.DONE, 1)]
    assert [one.state for one in client.jobs.show(f"{name}.1").attempts] == ["done"]
    assert push.returncode == 0, said
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    assert output_of(client, "sha256sum", f"/var/lib/volunteer-cloud/files/{local.name}").split()[0] == digest
    assert vm_of(client).status.generation == generation + (leave is not pause)


def test_disk_and_memory_are_what_they_were_and_a_job_that_ended_since_is_not_done_again(client: Client) -> None:
    """The job that the snapshot's memory knows as running has ended meanwhile: its second end does not count."""
    gate, marks = "/run/gate-twice", ("/root/mark", "/run/mark")
    script = f"while [ ! -e {gate} ]; do sleep 0.1; done; echo done > out"
    job = {"id": "twice", "executable": "/bin/sh", "arguments": ["-c", script], "outputs": [{"name": "out"}]}
    client.jobs.submit(job)
    until(lambda: client.jobs.show("twice.1").job.state == "running", "the job runs", 60)
    client.execs.run(VM, ["sh", "-c", f"echo then | tee {' '.join(marks)}; sync"])
    client.vms.take_snapshot(VM, "then")
    client.execs.run(VM, ["sh", "-c", f"echo now | tee {' '.join(marks)}; touch {gate}"])
    client.jobs.wait("twice", timeout_s=120)

    for _ in range(2):
        client.vms.poweroff(VM)
        client.vms.restore_snapshot(VM, "then")
        ready(client)
        check_clock(client)
        assert output_of(client, "cat", *marks) == "then\nthen\n"
    client.execs.run(VM, ["touch", gate])
    client.jobs.submit(job | {"id": "after", "arguments": ["-c", "echo done > out"]})
    client.jobs.wait("after", timeout_s=120)

    assert [one.state for one in client.jobs.show("twice.1").attempts] == ["done"]
    assert client.jobs.show("after.1").job.state == JobState.DONE
    client.vms.delete_snapshot(VM, "then")
