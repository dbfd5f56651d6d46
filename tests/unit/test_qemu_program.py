"""Programs that hang: whoever waits for one waits for a bounded time, and nothing of it is left."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from broker.daemon.process_stat import read_stat
from broker.vm_mark import MARK
from host_agent.errors import HostDiskFull, HypervisorError
from host_agent.hypervisors.contract import ProgramFacts
from host_agent.hypervisors.directory import write_record
from host_agent.hypervisors.qemu import account_relays
from host_agent.hypervisors.qemu import disk as qemu_disk
from host_agent.hypervisors.qemu import program as qemu_program
from host_agent.hypervisors.qemu.accounts import VmAccounts
from host_agent.hypervisors.qemu.disk import run
from host_agent.hypervisors.qemu.program import KVM, TCG, Answer, QemuProgram
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
    assert program.facts().accelerator == TCG
    assert "a guest does not start under it" in program.facts().why_no_kvm
    assert program.facts().version == "QEMU emulator version 7.2.22"
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


async def test_a_tool_that_reads_what_a_qemu_has_written_inherits_no_secret_of_the_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLCLOUD_PASSWORD", "hush")

    printed = (await run("env", directory=tmp_path)).decode().splitlines()

    assert f"{MARK}={tmp_path}" in printed
    assert not any("hush" in line for line in printed)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a VM as somebody else")
async def test_a_host_on_which_no_relay_can_run_still_has_an_agent_and_refuses_starts_until_one_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "qemu"
    binary.write_text(HANGS)
    binary.chmod(0o755)
    monkeypatch.setattr(account_relays, "_PYTHONS", (str(tmp_path / "none"),))
    program = QemuProgram(str(binary), tmp_path, TCG, VmAccounts())

    await program.identify()

    with pytest.raises(HypervisorError, match=r"its relays could not.*none: .*Install a Python"):
        await program.python()
    monkeypatch.setattr(account_relays, "_PYTHONS", ("/usr/bin/python3", "/usr/local/bin/python3", sys.executable))
    assert await program.python()


async def test_without_flock_qemu_is_not_used(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)

    with pytest.raises(HypervisorError, match="flock is not installed"):
        await QemuProgram("qemu-system-x86_64", tmp_path, TCG).identify()


def test_why_kvm_is_not_used_is_said_in_words(tmp_path: Path, monkeypatch) -> None:
    program = QemuProgram("qemu", tmp_path, None)

    monkeypatch.setattr(qemu_program, "_KVM_DEVICE", tmp_path / "kvm")
    no_device = program.facts()
    (tmp_path / "kvm").touch()
    not_tried = program.facts()
    monkeypatch.setattr(qemu_program.os, "access", lambda *_: False)
    no_permission = program.facts()
    given = QemuProgram("qemu", tmp_path, TCG).facts()
    used = QemuProgram("qemu", tmp_path, KVM).facts()

    assert (no_device.accelerator, no_device.why_no_kvm[:11]) == (TCG, "there is no")
    assert (not_tried.accelerator, "is tried when the first one starts" in not_tried.why_no_kvm) == (None, True)
    assert (no_permission.accelerator, "to the group kvm" in no_permission.why_no_kvm) == (TCG, True)
    assert (given.accelerator, given.why_no_kvm) == (TCG, "its settings say accelerator = tcg")
    assert (used.accelerator, used.why_no_kvm) == (KVM, "")


async def test_an_answer_of_an_earlier_agent_is_told_before_any_vm_starts(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(qemu_program, "_KVM_DEVICE", Path("/dev/null"))
    binary = tmp_path / "qemu"
    binary.write_text(HANGS)
    binary.chmod(0o755)
    version = "QEMU emulator version 7.2.22"
    write_record(tmp_path / "accelerator.json", Answer(KVM, os.uname().release, version))
    program = QemuProgram(str(binary), tmp_path, None)

    await program.identify()

    assert program.facts() == ProgramFacts(version=version, accelerator=KVM, runs_as=program.accounts.told())
