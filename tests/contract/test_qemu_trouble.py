"""QEMU when things go wrong: full disks, ends in the midst of a verb, payloads that take what they can get."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from host_agent.errors import HostDiskFull, HypervisorError
from host_agent.hypervisors.contract import Hypervisor
from host_agent.hypervisors.kept_log import HEAD_BYTES, TAIL_BYTES
from host_agent.hypervisors.qemu import command as qemu_command
from host_agent.hypervisors.qemu.hypervisor import QemuHypervisor
from schemas.vms import VmState
from tests.contract.conftest import QemuRig, eventually, snapshots_of
from tests.contract.test_guest_image import Broker, broker, driver, probe_image
from tests.contract.test_hypervisors import SEED, running

__all__ = ["broker", "driver", "probe_image"]

#: Each boots guests, which takes 15 s under emulation, and on a machine that others use too much longer.
pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

#: Under emulation, with other tests beside it.
PATIENCE_S = 240.0
#: Saves a VM, and hangs for ever where a slow disk would keep it: its memory written, and not yet synced.
SAVER = """
import asyncio, os, sys, time
from pathlib import Path
from host_agent.hypervisors.qemu.hypervisor import QemuHypervisor
real = os.fsync
def fsync(descriptor):
    if os.readlink(f"/proc/self/fd/{descriptor}").endswith("memory.tmp"):
        print("written", flush=True)
        time.sleep(600)
    real(descriptor)
os.fsync = fsync
async def main():
    driver = QemuHypervisor(Path(sys.argv[1]), accelerator="tcg")
    await driver.open(lambda vm, state: None)
    print("opened", flush=True)
    await driver.capabilities.snapshots.savestate("vm-a")
asyncio.run(main())
"""


#: Starts a VM from its saved memory, and hangs before the guest goes on.
RESTORER = """
import asyncio, sys, time
from pathlib import Path
from host_agent.hypervisors.qemu.hypervisor import QemuHypervisor
from host_agent.hypervisors.qemu.files import QemuFiles
real = QemuFiles.use_up_memory
def use_up_memory(files, vm):
    real(files, vm)
    print("written", flush=True)
    time.sleep(600)
QemuFiles.use_up_memory = use_up_memory
async def main():
    driver = QemuHypervisor(Path(sys.argv[1]), accelerator="tcg")
    await driver.open(lambda vm, state: None)
    await driver.start("vm-a", b"newer")
asyncio.run(main())
"""


async def in_state(driver: Hypervisor, state: VmState) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await driver.state("vm-a") is not state:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def killed(qemu_rig: QemuRig, script: str) -> None:
    """Have another agent begin a verb on the VM and be killed when it has got as far as ``script`` lets it."""
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(qemu_rig.directory), stdout=subprocess.PIPE
    )
    assert agent.stdout is not None
    while (said := await agent.stdout.readline()) != b"written\n":
        assert said, "it ended before it got there"
    agent.kill()
    await agent.wait()


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED])
async def test_an_agent_killed_while_it_saves_leaves_a_vm_that_the_next_one_brings_back_and_can_save(qemu_rig, state):
    first = await running(qemu_rig)
    if state is VmState.PAUSED:
        await first.pause("vm-a")
    await first.close()
    await killed(qemu_rig, SAVER)

    second = await qemu_rig.open()
    await eventually(lambda: not (qemu_rig.directory / "vms/vm-a/saving.json").exists(), PATIENCE_S)
    await in_state(second, state)
    await snapshots_of(second).savestate("vm-a")

    assert await second.state("vm-a") is VmState.SAVED
    await second.start("vm-a", SEED)
    assert await second.state("vm-a") is VmState.RUNNING


async def test_an_agent_killed_before_a_restored_guest_goes_on_leaves_one_that_the_next_lets_go_on(qemu_rig):
    first = await running(qemu_rig)
    await snapshots_of(first).savestate("vm-a")
    await first.close()
    await killed(qemu_rig, RESTORER)

    second = await qemu_rig.open()

    await in_state(second, VmState.RUNNING)
    await eventually(lambda: not list((qemu_rig.directory / "vms/vm-a").glob("memory*")))
    await snapshots_of(second).savestate("vm-a")
    assert await second.state("vm-a") is VmState.SAVED


async def test_a_restored_vm_that_is_paused_at_once_is_left_so_by_the_next_agent_and_its_memory_is_gone(qemu_rig):
    first = await running(qemu_rig)
    await snapshots_of(first).savestate("vm-a")
    await first.start("vm-a", b"newer")
    await first.pause("vm-a")
    left = [path.name for path in (qemu_rig.directory / "vms/vm-a").glob("memory*")]
    await first.close()

    second = await qemu_rig.open()

    await eventually(lambda: not list((qemu_rig.directory / "vms/vm-a").glob("memory*")))
    assert left == ["memory.used"]
    assert await second.state("vm-a") is VmState.PAUSED


async def test_a_memory_that_was_used_is_gone_soon_and_before_another_is_written(qemu_rig):
    driver = await running(qemu_rig)
    await snapshots_of(driver).savestate("vm-a")
    await driver.start("vm-a", b"newer")
    await snapshots_of(driver).savestate("vm-a")
    names = [path.name for path in (qemu_rig.directory / "vms/vm-a").glob("memory*")]
    await driver.start("vm-a", b"newest")

    await eventually(lambda: not list((qemu_rig.directory / "vms/vm-a").glob("memory*")))
    assert names == ["memory"]


async def test_a_qemu_killed_while_it_is_saved_is_news(qemu_rig):
    driver = await running(qemu_rig)
    pid = (await driver.facts("vm-a")).pid or 0
    assert pid
    saving = asyncio.ensure_future(snapshots_of(driver).savestate("vm-a"))
    await eventually(lambda: (qemu_rig.directory / "vms/vm-a/saving.json").exists())
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(HypervisorError):
        await saving
    await eventually(lambda: qemu_rig.told)

    assert qemu_rig.told == [("vm-a", VmState.ABORTED)]
    assert await driver.state("vm-a") is VmState.ABORTED


async def test_a_save_that_is_cut_short_leaves_the_vm_running(qemu_rig):
    driver = await running(qemu_rig)
    saving = asyncio.ensure_future(snapshots_of(driver).savestate("vm-a"))
    await eventually(lambda: (qemu_rig.directory / "vms/vm-a/saving.json").exists())

    saving.cancel()
    await asyncio.wait([saving])

    await in_state(driver, VmState.RUNNING)
    await snapshots_of(driver).savestate("vm-a")
    assert await driver.state("vm-a") is VmState.SAVED


async def test_a_start_that_is_cut_short_leaves_no_process_and_the_state_before(qemu_rig):
    driver = await qemu_rig.open()
    await driver.create(qemu_rig.spec("vm-a"))
    starting = asyncio.ensure_future(driver.start("vm-a", SEED))
    await eventually(lambda: qemu_rig.processes("vm-a") or starting.done())

    starting.cancel()
    await asyncio.wait([starting])

    assert await driver.state("vm-a") is VmState.POWEREDOFF
    assert qemu_rig.processes("vm-a") == set()


async def test_a_saved_state_that_does_not_load_is_discarded_and_the_vm_boots_afresh(qemu_rig):
    driver = await running(qemu_rig)
    await snapshots_of(driver).savestate("vm-a")
    os.truncate(qemu_rig.directory / "vms/vm-a/memory", 1000)

    with pytest.raises(HypervisorError, match=r"(?s)does not load.*`volcloud vm discard vm-a` throws it away"):
        await driver.start("vm-a", SEED)
    await snapshots_of(driver).discard("vm-a")
    await snapshots_of(driver).discard("vm-a")

    assert await driver.state("vm-a") is VmState.POWEREDOFF
    await driver.start("vm-a", SEED)
    assert await driver.state("vm-a") is VmState.RUNNING


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 96 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.fixture
async def small_rig(small_disk: Path, probe_image) -> AsyncIterator[QemuRig]:
    """QEMU on a small disk."""
    made = QemuRig(small_disk, probe_image)
    yield made
    await made.clean_up()


async def probing(rig: QemuRig, broker: Broker) -> QemuHypervisor:
    """A driver with one VM that runs the probe."""
    opened = await rig.open()
    await opened.create(msgspec.structs.replace(rig.spec("vm-a"), broker=rig.broker_at(broker.port), disk_mib=3000))
    await opened.start("vm-a", b"first")
    await broker.hear("seed")
    return opened


async def test_a_vm_whose_disk_has_no_room_says_so_and_goes_on_when_there_is_some(small_rig, broker):
    driver = await probing(small_rig, broker)
    filler = small_rig.directory / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_rig.directory).free - (4 << 20))

    writing = asyncio.ensure_future(
        broker.ask("shell", "dd if=/dev/urandom of=/big bs=1M count=20 conv=fsync 2>&1; sha1sum /big | wc -c")
    )
    await in_state(driver, VmState.STUCK)
    facts = await driver.facts("vm-a")
    with pytest.raises(HostDiskFull, match="its disk has no room left"):
        await driver.resume("vm-a")
    filler.unlink()
    await driver.resume("vm-a")

    assert facts.may_go_on
    assert "its disk has no room left" in facts.reason
    assert str(small_rig.directory) in facts.reason
    assert "20+0 records out\n47" in await writing
    assert (await driver.facts("vm-a")).reason == ""


async def test_a_save_without_room_names_the_file_and_the_vm_runs_on(small_rig, broker):
    driver = await probing(small_rig, broker)

    with pytest.raises(HostDiskFull, match=r"vms/vm-a/memory\.tmp: No space left on device"):
        await snapshots_of(driver).savestate("vm-a")

    await in_state(driver, VmState.RUNNING)
    assert not list(small_rig.directory.rglob("memory*"))


async def test_sixty_sockets_of_a_payload_make_no_more_relays_than_a_vm_may_have(driver, broker, qemu_rig):
    most = qemu_command.MOST_RELAYS
    opening = "import socket, time; kept = []\nfor _ in range(60):\n try:\n  kept.append(socket.create_connection"
    opening += "(('10.0.2.100', 5672), 5))\n except OSError:\n  pass\ntime.sleep(3600)"

    broker.writers[-1].write(
        msgspec.json.encode({"shell": f'setsid python3 -c "{opening}" > /dev/null 2>&1 &'}) + b"\n"
    )
    await eventually(lambda: len(relays(qemu_rig)) == most, PATIENCE_S)
    seen = []
    for _ in range(20):
        seen.append(len(relays(qemu_rig)))
        await asyncio.sleep(0.1)

    assert max(seen) <= most
    assert len(broker.writers) <= most + 1


async def test_a_place_of_a_relay_is_free_again_when_it_has_ended(driver, broker, qemu_rig):
    probe = broker.writers[0]
    for _ in range(qemu_command.MOST_RELAYS + 2):
        probe.write(b'{"reach": ["10.0.2.100", 5672]}\n')
        assert await broker.hear("reach") == "reached"
        await eventually(lambda: len(relays(qemu_rig)) == 1, PATIENCE_S)


def relays(rig: QemuRig) -> list[int]:
    """List the relays of the VM: interpreters, not the shell that turns others away."""
    found = []
    for pid in rig.processes("vm-a"):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"-I" in words[:3]:
            found.append(pid)
    return found


async def test_a_guest_that_prints_for_ever_costs_the_host_a_bounded_log(driver, broker, qemu_rig):
    home = qemu_rig.directory / "vms/vm-a"

    await broker.ask("shell", "echo this is how it began > /dev/ttyS0")
    await broker.ask("shell", "yes 'a line of a payload that prints and prints' | head -c 3000000 > /dev/ttyS0")
    await eventually(lambda: (home / "console.log.tail").exists(), PATIENCE_S)
    await eventually(lambda: b"prints" in (home / "console.log.tail").read_bytes()[-500:], PATIENCE_S)

    assert b"this is how it began" in (home / "console.log").read_bytes()
    assert sum(path.stat().st_size for path in home.glob("console.log*")) <= HEAD_BYTES + 2 * TAIL_BYTES


async def test_what_the_guest_frees_on_its_disk_goes_back_to_the_host(driver, broker, qemu_rig):
    overlay = qemu_rig.directory / "vms/vm-a" / qemu_command.OVERLAY

    await broker.ask("shell", "dd if=/dev/urandom of=/big bs=1M count=200 conv=fsync 2>&1")
    full = overlay.stat().st_blocks * 512
    await broker.ask("shell", "rm /big; sync")
    await eventually(lambda: overlay.stat().st_blocks * 512 < full - (150 << 20), PATIENCE_S)

    assert full > 200 << 20


async def test_guests_give_way_to_what_else_runs_on_the_host(qemu_rig):
    driver = await qemu_rig.open(QemuHypervisor(qemu_rig.directory, accelerator="tcg", niceness=15))
    await driver.create(qemu_rig.spec("vm-a"))
    await driver.start("vm-a", SEED)

    pid = (await driver.facts("vm-a")).pid
    threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]

    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {min(19, ours + 15)}
