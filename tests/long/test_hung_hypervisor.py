"""One QEMU of four that hangs: the other VMs take verbs, the beats go on, and whoever looks is told which one it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.ledger import RegistryRow
from schemas.vms import VmState
from tests.system.running import System, running, until
from volcloud import Client

pytestmark = [pytest.mark.long, pytest.mark.qemu, pytest.mark.timeout(1800)]

HUNG, OTHERS = "worker-1", ("worker-2", "worker-3", "worker-4")
#: A verb on one of the others takes this long at most, beside what it took before, seconds.
VERB_S = 1.0
#: The system's beat, seconds, and how many of them may be missing before somebody would ask.
BEAT_S, MISSING_BEATS = 0.5, 4
POWEROFF_S = 10.0


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running("--hypervisor", "qemu", "--vms", "4") as one:
        yield one


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with system.client() as one:
        until(lambda: all(vm_of(one, vm).agent_ready for vm in (HUNG, *OTHERS)), "all guests are up", 600)
        yield one


def vm_of(client: Client, vm: str) -> RegistryRow:
    return client.vms.list(vm)[0]


@contextmanager
def hanging(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


def slowest_verb_s(client: Client) -> float:
    took = []
    for vm in OTHERS:
        for verb in (client.vms.pause, client.vms.resume):
            began = time.monotonic()
            verb(vm)
            took.append(time.monotonic() - began)
    return max(took)


def longest_silence_s(client: Client, seconds: float) -> float:
    """Watch the host's beats for so long; give the longest time without one."""
    heard_ms, heard_at, longest = 0, time.monotonic(), 0.0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen_ms = client.hosts.list()[0].seen_ms
        if seen_ms != heard_ms:
            heard_ms, heard_at = seen_ms, time.monotonic()
        longest = max(longest, time.monotonic() - heard_at)
    return longest


def test_one_that_hangs_holds_up_nobody_else_and_is_ended_in_time(client: Client) -> None:
    usual_s, usual_silence_s = slowest_verb_s(client), longest_silence_s(client, 10)
    pid = vm_of(client, HUNG).status.pid

    with hanging(pid):
        verb_s = slowest_verb_s(client)
        until(lambda: vm_of(client, HUNG).status.state is VmState.UNKNOWN, "it is told that one cannot be asked", 60)
        silence_s = longest_silence_s(client, 10)
        verb_later_s = slowest_verb_s(client)
        began = time.monotonic()
        status = client.vms.poweroff(HUNG)
        poweroff_s = time.monotonic() - began

    print(f"verbs {usual_s:.2f} s, then {verb_s:.2f} and {verb_later_s:.2f} s; poweroff {poweroff_s:.2f} s")
    print(f"longest time without a beat {usual_silence_s:.2f} s, then {silence_s:.2f} s")
    assert max(verb_s, verb_later_s) < usual_s + VERB_S
    assert silence_s < usual_silence_s + MISSING_BEATS * BEAT_S
    assert poweroff_s < POWEROFF_S
    assert not Path(f"/proc/{pid}").exists()
    assert status is not None
    assert status.state is VmState.POWEREDOFF
    until(lambda: vm_of(client, HUNG).status.state is VmState.POWEREDOFF, "the centre has heard of it", POWEROFF_S)


def test_a_stop_that_would_wait_for_an_hour_is_cut_short_by_a_poweroff(system: System, client: Client) -> None:
    client.vms.start(HUNG)
    until(lambda: vm_of(client, HUNG).agent_ready, "its guest is up", 300)
    client.execs.run(HUNG, ["sh", "-c", "kill -STOP 1; kill -STOP $(pidof acpid) || true"])
    command = [sys.executable, "-m", "volcloud.main", "vm", "stop", "--timeout", "3600", HUNG]
    environment = {**os.environ, "VOLCLOUD_DATA": str(system.directory)}
    stop = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: (act := vm_of(client, HUNG).status.act) is not None and act.verb == "stop", "stop is at work")

    began = time.monotonic()
    client.vms.poweroff(HUNG)
    took_s = time.monotonic() - began
    said, _ = stop.communicate(timeout=30)

    assert took_s < POWEROFF_S
    until(lambda: vm_of(client, HUNG).status.state is VmState.POWEREDOFF, "the centre has heard of it", POWEROFF_S)
    assert stop.returncode == 1
    assert "stop was cut short by poweroff" in said


def test_two_who_make_a_vm_of_one_name_at_once_have_one(system: System, client: Client) -> None:
    words = [sys.executable, "-m", "volcloud.main", "vm", "create", "twin", "--memory", "256"]
    environment = {**os.environ, "VOLCLOUD_DATA": str(system.directory)}
    both = [
        subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in both]

    assert [status for _, status in ends] == [0, 0], ends
    assert len(client.vms.list("twin")) == 1
