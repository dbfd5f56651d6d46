"""The driver ``qemu``, beyond what every driver promises: disks, saved memories, a QEMU that hangs, accelerators."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import socket
from pathlib import Path

import msgspec
import pytest

from host_agent.errors import HypervisorError, PortTaken
from host_agent.hypervisors import detached
from host_agent.hypervisors.contract import GuestPorts
from host_agent.hypervisors.detached import send_signal
from host_agent.hypervisors.qemu import start
from host_agent.hypervisors.qemu.command import OVERLAY
from host_agent.hypervisors.qemu.hypervisor import QemuHypervisor
from host_agent.hypervisors.qemu.ports import settle
from host_agent.hypervisors.qemu.program import KVM, TCG, QemuProgram
from schemas.vms import VmState
from tests.contract.conftest import snapshots_of
from tests.contract.test_hypervisors import SEED, running

pytestmark = pytest.mark.qemu


async def test_a_disk_smaller_than_the_image_is_refused_and_nothing_is_left(qemu_rig):
    driver = await qemu_rig.open()
    small = msgspec.structs.replace(qemu_rig.spec("vm-a"), disk_mib=100)

    with pytest.raises(HypervisorError, match="less than"):
        await driver.create(small)

    assert qemu_rig.files() == []


async def test_a_qemu_that_cannot_start_leaves_the_vm_as_it_was(qemu_rig):
    driver = await qemu_rig.open(QemuHypervisor(qemu_rig.directory, accelerator="steam"))
    await driver.create(qemu_rig.spec("vm-a"))

    with pytest.raises(HypervisorError, match="steam"):
        await driver.start("vm-a", SEED)

    assert await driver.state("vm-a") is VmState.POWEREDOFF
    assert qemu_rig.processes("vm-a") == set()
    assert qemu_rig.told == []


async def test_a_saved_memory_that_is_damaged_stays_saved(qemu_rig):
    driver = await running(qemu_rig)
    await snapshots_of(driver).savestate("vm-a")
    memory = qemu_rig.directory / "vms" / "vm-a" / "memory"
    os.truncate(memory, memory.stat().st_size // 2)

    with pytest.raises(HypervisorError):
        await driver.start("vm-a", SEED)

    assert await driver.state("vm-a") is VmState.SAVED
    assert qemu_rig.processes("vm-a") == set()
    assert qemu_rig.told == []


async def test_a_qemu_that_hangs_is_unknown_and_can_be_powered_off(qemu_rig):
    driver = await running(qemu_rig)
    send_signal([(await driver.facts("vm-a")).pid], signal.SIGSTOP)

    hanging = await driver.state("vm-a")
    await driver.poweroff("vm-a")

    assert hanging is VmState.UNKNOWN
    assert await driver.state("vm-a") is VmState.POWEREDOFF
    assert qemu_rig.processes("vm-a") == set()


async def test_no_secret_is_on_the_command_line_and_files_are_private(qemu_rig):
    driver = await running(qemu_rig)
    home = qemu_rig.directory / "vms" / "vm-a"

    pid = (await driver.facts("vm-a")).pid
    command = await asyncio.to_thread(Path(f"/proc/{pid}/cmdline").read_bytes)

    assert base64.b64encode(SEED) not in command
    assert home.stat().st_mode & 0o067 == 0
    assert home.stat().st_gid == (home / OVERLAY).stat().st_gid  # nobody else is in the VM's group


async def test_kvm_is_believed_only_after_a_boot_and_the_answer_is_kept(tmp_path, guest_image):
    first = QemuProgram("qemu-system-x86_64", tmp_path, None)
    await first.identify()
    answer = await first.choose_accelerator(guest_image.kernel)

    second = QemuProgram("qemu-system-x86_64", tmp_path, None)
    await second.identify()
    remembered = await second.choose_accelerator(None)

    assert answer in (KVM, TCG)
    assert remembered == answer


def shows_a_screen(port: int | None) -> bool:
    with socket.create_connection(("127.0.0.1", port or 0), timeout=20) as viewer:
        return viewer.recv(4) == b"RFB "


async def test_a_port_that_somebody_has_taken_becomes_another_whatever_the_vm_goes_on_from(qemu_rig):
    driver = await qemu_rig.open()
    wanted = GuestPorts(forwards=((0, 8080), (0, 8081)), screen=0)
    await driver.create(msgspec.structs.replace(qemu_rig.spec("vm-a"), ports=wanted))
    await driver.start("vm-a", SEED)
    first = (await driver.facts("vm-a")).ports
    assert [of_guest for _, of_guest in first.forwards] == [8080, 8081]
    assert await asyncio.to_thread(shows_a_screen, first.screen)
    await snapshots_of(driver).take("vm-a", "kept")
    await snapshots_of(driver).savestate("vm-a")

    with contextlib.ExitStack() as held:
        for port in (first.forwards[0][0], first.screen):
            held.enter_context(socket.create_server(("127.0.0.1", port)))
        await driver.start("vm-a", SEED)
        second = (await driver.facts("vm-a")).ports
        assert first.forwards[0] != second.forwards[0]
        assert first.forwards[1] == second.forwards[1], "what is free stays"
        assert first.screen != second.screen
        assert await asyncio.to_thread(shows_a_screen, second.screen)
        await driver.close()
        driver = await qemu_rig.open()
        assert (await driver.facts("vm-a")).ports == second, "the next agent knows them"

        await snapshots_of(driver).restore("vm-a", "kept", SEED)
        third = (await driver.facts("vm-a")).ports
        assert third == second
        socket.create_connection(("127.0.0.1", third.forwards[0][0]), timeout=20).close()
    await driver.poweroff("vm-a")


async def test_a_qemu_that_was_gone_at_once_for_a_port_is_started_again(qemu_rig, monkeypatch):
    driver = await qemu_rig.open()
    await driver.create(qemu_rig.spec("vm-a"))
    gone = ["qemu: -vnc 127.0.0.1:100: Failed to find an available port: Address already in use"]

    def spawn(home, command, directory, log, **more):
        if not gone:
            return detached.spawn(home, command, directory, log, **more)
        log.write_text(gone.pop())
        raise ChildProcessError("gone at once")

    monkeypatch.setattr(start, "spawn", spawn)
    await driver.start("vm-a", SEED)

    assert await driver.state("vm-a") is VmState.RUNNING


async def test_a_port_that_is_taken_just_before_qemu_has_it_costs_a_second_start_and_no_state(qemu_rig, monkeypatch):
    driver = await qemu_rig.open()
    await driver.create(msgspec.structs.replace(qemu_rig.spec("vm-a"), ports=GuestPorts(forwards=((0, 80),), screen=0)))
    await driver.start("vm-a", SEED)
    await snapshots_of(driver).savestate("vm-a")
    with socket.create_server(("127.0.0.1", 0)) as held:
        taken = held.getsockname()[1]
        late = [GuestPorts(forwards=((taken, 80),), screen=6000), GuestPorts(forwards=((0, 80),), screen=taken)]
        with monkeypatch.context() as changed:
            changed.setattr(start, "settle", lambda wanted, before: late.pop() if late else settle(wanted, before))
            await driver.start("vm-a", SEED)
        assert await driver.state("vm-a") is VmState.RUNNING
        assert late == []
        await snapshots_of(driver).savestate("vm-a")

        monkeypatch.setattr(start, "settle", lambda *_: GuestPorts(forwards=((taken, 80),), screen=6000))
        with pytest.raises(PortTaken):
            await driver.start("vm-a", SEED)
    assert await driver.state("vm-a") is VmState.SAVED
    assert qemu_rig.processes("vm-a") == set()
