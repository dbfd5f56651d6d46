"""Snapshots in QEMU when things go wrong: whatever cuts one short leaves no half of it, and the VM as it may be."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker import reserve
from host_agent.errors import HostDiskFull, HypervisorError
from host_agent.hypervisors.qemu.command import OVERLAY
from schemas.vms import VmState
from tests.contract.conftest import QemuRig, eventually, snapshots_of
from tests.contract.test_hypervisors import SEED, running
from tests.contract.test_qemu_trouble import PATIENCE_S, in_state, killed

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(900)]

#: Takes a snapshot, or restores one, and hangs at a step of it.
AGENT = """
import asyncio, sys, time
from pathlib import Path
from host_agent.hypervisors.qemu import snapshot_jobs
from host_agent.hypervisors.qemu.hypervisor import QemuHypervisor
from host_agent.hypervisors.qemu.kept_snapshots import SnapshotRecords
from host_agent.hypervisors.qemu.monitor import Monitor

def hang(*words):
    print("written", flush=True)
    time.sleep(600)

async def hang_at(monitor, command, *rest, **more):
    if command == AT:
        hang()
    return await real(monitor, command, *rest, **more)

real = Monitor.execute
if AT == "complete":
    SnapshotRecords.complete = hang
else:
    Monitor.execute = hang_at

async def main():
    driver = QemuHypervisor(Path(sys.argv[1]), accelerator="tcg")
    await driver.open(lambda vm, state: None)
    await (driver.capabilities.snapshots.VERB)

asyncio.run(main())
"""


def agent(verb: str, at: str) -> str:
    """Give the program of an agent that is stopped before it tells QEMU so, or notes that it is complete."""
    return AGENT.replace("VERB", verb).replace("AT", repr(at))


def left(rig: QemuRig) -> list[str]:
    """Name what there is of snapshots in the VM's directory and, where QEMU does not hold it, its overlay."""
    home = rig.home("vm-a")
    files = [path.name for path in home.iterdir() if "snapshot" in path.name or path.name.startswith("memory-")]
    return sorted(files)


def tags(rig: QemuRig) -> list[str]:
    """List the snapshots in the overlay, which is sound."""
    overlay = str(rig.home("vm-a") / OVERLAY)
    listed = subprocess.run(["qemu-img", "snapshot", "-U", "-l", overlay], capture_output=True, text=True, check=True)
    checked = subprocess.run(["qemu-img", "check", "-U", overlay], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    return [line.split()[1] for line in listed.stdout.splitlines()[2:]]


async def is_gone(rig: QemuRig) -> None:
    await eventually(lambda: left(rig) == [], PATIENCE_S)


@pytest.mark.parametrize("at", ["snapshot-save", "query-jobs", "complete"])
async def test_an_agent_killed_while_it_takes_one_leaves_none_and_the_vm_runs_on(qemu_rig: QemuRig, at: str) -> None:
    first = await running(qemu_rig)
    await first.close()
    await killed(qemu_rig, agent("take('vm-a', 's1')", at))

    second = await qemu_rig.open()
    await is_gone(qemu_rig)
    await in_state(second, VmState.RUNNING)

    assert await snapshots_of(second).list("vm-a") == []
    await snapshots_of(second).take("vm-a", "s1")
    await second.poweroff("vm-a")
    assert len(tags(qemu_rig)) == 1


@pytest.mark.parametrize("at", ["snapshot-load", "blockdev-del"])
async def test_an_agent_killed_while_it_restores_one_leaves_it_to_be_restored_again(qemu_rig: QemuRig, at: str) -> None:
    first = await running(qemu_rig)
    await snapshots_of(first).take("vm-a", "s1")
    await first.close()
    await killed(qemu_rig, agent("restore('vm-a', 's1', b'newer')", at))

    second = await qemu_rig.open()
    aborted = await second.state("vm-a"), qemu_rig.processes("vm-a")
    await snapshots_of(second).restore("vm-a", "s1", SEED)

    assert aborted == (VmState.ABORTED, set())
    assert await second.state("vm-a") is VmState.RUNNING


async def test_a_qemu_killed_while_one_is_taken_is_news_and_leaves_nothing_of_it(qemu_rig: QemuRig) -> None:
    driver = await running(qemu_rig)
    pid = (await driver.facts("vm-a")).pid or 0
    assert pid
    os.kill(pid, signal.SIGSTOP)
    taking = asyncio.ensure_future(snapshots_of(driver).take("vm-a", "s1"))
    await eventually(lambda: left(qemu_rig) or taking.done())
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(HypervisorError):
        await taking
    await eventually(lambda: qemu_rig.told)

    assert qemu_rig.told == [("vm-a", VmState.ABORTED)]
    assert (left(qemu_rig), tags(qemu_rig)) == ([], [])
    await driver.start("vm-a", SEED)
    assert await driver.state("vm-a") is VmState.RUNNING


async def test_one_that_a_poweroff_cuts_short_leaves_nothing(qemu_rig: QemuRig) -> None:
    driver = await running(qemu_rig)
    taking = asyncio.ensure_future(snapshots_of(driver).take("vm-a", "s1"))
    await eventually(lambda: any(name.endswith(".qcow2") for name in left(qemu_rig)) or taking.done())
    seen = await driver.state("vm-a")

    taking.cancel()
    await asyncio.wait([taking])
    await driver.poweroff("vm-a")

    assert seen is VmState.SAVING
    assert (await driver.state("vm-a"), qemu_rig.processes("vm-a")) == (VmState.POWEREDOFF, set())
    assert (left(qemu_rig), tags(qemu_rig)) == ([], [])


async def test_one_whose_memory_is_damaged_is_kept_and_the_vm_can_be_started(qemu_rig: QemuRig) -> None:
    driver = await running(qemu_rig)
    await snapshots_of(driver).take("vm-a", "s1")
    memory = next(qemu_rig.home("vm-a").glob("memory-*.qcow2"))
    os.truncate(memory, memory.stat().st_size // 2)

    with pytest.raises(HypervisorError, match="snapshot-load"):
        await snapshots_of(driver).restore("vm-a", "s1", SEED)
    aborted = await driver.state("vm-a"), qemu_rig.processes("vm-a")
    await driver.start("vm-a", SEED)

    assert aborted == (VmState.ABORTED, set())
    assert [one.name for one in await snapshots_of(driver).list("vm-a")] == ["s1"]
    assert await driver.state("vm-a") is VmState.RUNNING


async def test_a_damaged_record_is_named_and_can_be_deleted(qemu_rig: QemuRig) -> None:
    driver = await running(qemu_rig)
    await snapshots_of(driver).take("vm-a", "s1")
    record = qemu_rig.home("vm-a") / "s1.snapshot"
    record.write_text("{")

    with pytest.raises(HypervisorError, match=r"s1\.snapshot is damaged"):
        await snapshots_of(driver).list("vm-a")
    await snapshots_of(driver).delete("vm-a", "s1")

    assert await snapshots_of(driver).list("vm-a") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 96 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.fixture
async def small_rig(small_disk: Path, guest_image: object) -> AsyncIterator[QemuRig]:
    """QEMU on a small disk."""
    made = QemuRig(small_disk, guest_image)  # type: ignore[arg-type]
    yield made
    await made.clean_up()


@pytest.mark.parametrize("is_foreseen", [True, False])
async def test_one_without_room_leaves_nothing_and_all_vms_run_on(
    small_rig: QemuRig, is_foreseen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = await running(small_rig)
    await driver.create(small_rig.spec("vm-b"))
    await driver.start("vm-b", SEED)
    # The guest must have touched more memory than there is room.
    await eventually(lambda: resident_bytes(small_rig) > 200 << 20, PATIENCE_S)
    if not is_foreseen:
        monkeypatch.setattr(reserve, "demand", lambda *_: None)
        filler = small_rig.directory / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, reserve.look(small_rig.directory).free - (20 << 20))

    with pytest.raises(HostDiskFull, match="No space left on device"):
        await snapshots_of(driver).take("vm-a", "s1")

    await in_state(driver, VmState.RUNNING)
    assert await driver.state("vm-b") is VmState.RUNNING
    assert (left(small_rig), tags(small_rig)) == ([], [])


def resident_bytes(rig: QemuRig) -> int:
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in rig.processes("vm-a")]
    return max(pages, default=0) * os.sysconf("SC_PAGE_SIZE")
