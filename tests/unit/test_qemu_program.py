"""Programs that hang: whoever waits for one waits for a bounded time, and nothing of it is left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from broker.daemon.process_stat import read_stat
from host_agent.errors import HostDiskFull, HypervisorError
from host_agent.hypervisors.qemu import disk as qemu_disk
from host_agent.hypervisors.qemu import program as qemu_program
from host_agent.hypervisors.qemu.disk import run
from host_agent.hypervisors.qemu.program import TCG, QemuProgram
from tests.contract.conftest import eventually

#: Stands for a QEMU that answers what it is, and hangs as soon as it shall boot anything.
HANGS = """#!/bin/sh
case "$1" in
--version) echo "QEMU emulator version 7.2.22";;
*help*) ;;
esac
case "$*" in *help*) echo "q35 (alias of pc-q35-7.2)"; exit;; *--version*) exit;; esac
echo $$ > "$0.pid"
exec sleep 600
"""


def is_gone(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is None or stat.run_state in "ZX"


async def test_a_probe_of_kvm_that_hangs_is_given_up_and_guests_are_emulated(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(qemu_program, "PROBE_DEADLINE_S", 1.0)
    monkeypatch.setattr(qemu_program, "_KVM_DEVICE", Path("/dev/null"))
    binary = tmp_path / "qemu"
    binary.write_text(HANGS)
    binary.chmod(0o755)
    program = QemuProgram(str(binary), tmp_path, None)
    await program.identify()

    answer = await program.choose_accelerator(tmp_path / "kernel")

    assert answer == TCG
    pid = int((tmp_path / "qemu.pid").read_text())
    await eventually(lambda: is_gone(pid))


async def test_a_tool_that_hangs_is_given_up_with_a_sentence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(qemu_disk, "RUN_TIMEOUT_S", 0.2)

    with pytest.raises(HypervisorError, match=r"sleep 600 did not end within 0\.2 s"):
        await run("sleep", "600")


async def test_a_tool_that_has_no_room_is_told_from_one_that_fails() -> None:
    with pytest.raises(HostDiskFull, match="No space left on device"):
        await run("sh", "-c", "echo 'qemu-img: /x: Could not create: No space left on device' >&2; exit 1")
    with pytest.raises(HypervisorError) as failed:
        await run("sh", "-c", "echo 'no such format' >&2; exit 1")

    assert not isinstance(failed.value, HostDiskFull)


async def test_without_flock_qemu_is_not_used(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)

    with pytest.raises(HypervisorError, match="flock is not installed"):
        await QemuProgram("qemu-system-x86_64", tmp_path, TCG).identify()
