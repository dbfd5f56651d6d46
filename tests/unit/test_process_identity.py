"""Who a process is: no stranger that has its pid is taken for it, after a reboot or later."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from broker.daemon.process_identity import ProcessIdentity
from host_agent.hypervisors.detached import find_tree
from host_agent.hypervisors.process import ProcessHypervisor
from host_agent.vm import VmState
from tests.contract.conftest import ProcessRig


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def before_the_reboot(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    """A record with the pid, and even the start time, of a process of another boot."""
    return msgspec.structs.replace(ProcessIdentity.of(process.pid), boot="f2a1b0c9-0d3e-4f5a-8b7c-6d5e4f3a2b1c")


def test_a_process_of_another_boot_is_a_stranger(stranger) -> None:
    record = before_the_reboot(stranger)

    assert not record.is_alive()
    assert record.stat() is None
    assert find_tree(Path("/nowhere/vm-a"), record) == set()


def test_to_end_a_process_of_another_boot_harms_no_stranger(stranger) -> None:
    before_the_reboot(stranger).end(0.1)

    assert ProcessIdentity.of(stranger.pid).is_alive()
    assert stranger.poll() is None


def test_a_process_that_started_at_another_time_is_a_stranger(stranger) -> None:
    record = msgspec.structs.replace(ProcessIdentity.of(stranger.pid), started=1)

    record.end(0.1)

    assert record.stat() is None
    assert stranger.poll() is None


async def test_after_a_reboot_a_vm_is_aborted_and_who_has_its_pid_is_left_alone(stranger, tmp_path: Path) -> None:
    rig = ProcessRig(tmp_path)
    driver = await rig.open(ProcessHypervisor(tmp_path))
    await driver.create(rig.spec("vm-a"))
    (tmp_path / "vm-a" / "process.json").write_bytes(before_the_reboot(stranger).encode())

    after = await rig.open(ProcessHypervisor(tmp_path))
    state = await after.state("vm-a")
    await after.poweroff("vm-a")
    await after.delete("vm-a")

    assert state is VmState.ABORTED
    assert stranger.poll() is None
