"""What each driver that keeps files does where they are away or damaged: the same for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from host_agent.errors import HypervisorError
from host_agent.hypervisors.detached import find_tree
from schemas.vms import VmState
from tests.contract.conftest import FakeRig, Rig

SEED = b"a seed"


@pytest.fixture
def home(rig: Rig) -> Path:
    """The directory of ``vm-a``, which no driver has made yet."""
    if isinstance(rig, FakeRig):
        pytest.skip("memory has no files")
    return rig.home("vm-a")


async def running(rig: Rig) -> None:
    """Have two VMs that run, and an agent that has ended."""
    driver = await rig.open()
    for vm in ("vm-a", "vm-b"):
        await driver.create(rig.spec(vm))
    await driver.start("vm-a", SEED)
    await driver.close()


async def test_a_vm_that_was_away_when_the_driver_was_opened_is_attached_to_when_it_is_back(rig: Rig, home: Path):
    await running(rig)
    away = rig.directory / ".away"
    home.rename(away)
    driver = await rig.open()
    absent, listed, where = await driver.state("vm-a"), await driver.list(), driver.where("vm-a")

    away.rename(home)
    await driver.attach("vm-a")
    await driver.attach("vm-a")

    assert (absent, listed, where) == (VmState.ABSENT, ["vm-b"], str(home))
    assert await driver.state("vm-a") is VmState.RUNNING
    await driver.pause("vm-a")
    assert await driver.state("vm-a") is VmState.PAUSED


async def test_what_runs_of_a_vm_whose_directory_is_missing_is_ended_by_poweroff(rig: Rig, home: Path):
    await running(rig)
    away = rig.directory / ".away"
    home.rename(away)
    driver = await rig.open()

    await driver.poweroff("vm-a")
    away.rename(home)
    await driver.attach("vm-a")

    assert await driver.state("vm-a") not in (VmState.RUNNING, VmState.PAUSED)
    assert find_tree(home, None) == set()


async def test_one_damaged_marker_keeps_no_driver_from_its_vms_and_is_told(rig: Rig, home: Path):
    await running(rig)
    (home / "vm.json").write_bytes(b"{")

    driver = await rig.open()
    facts = await driver.facts("vm-a")
    with pytest.raises(HypervisorError, match=r"vm\.json is damaged"):
        await driver.reset("vm-a", SEED)
    state = await driver.state("vm-a")
    await driver.poweroff("vm-a")
    off = await driver.state("vm-a")
    await driver.delete("vm-a")

    assert "vm.json is damaged" in facts.reason
    assert (state, off) == (VmState.RUNNING, VmState.POWEREDOFF)
    assert await driver.list() == ["vm-b"]
    assert not home.exists()


async def test_one_damaged_record_of_a_process_is_mended_by_poweroff(rig: Rig, home: Path):
    await running(rig)
    (home / "process.json").write_bytes(b"")

    driver = await rig.open()
    with pytest.raises(HypervisorError, match=r"process\.json is damaged"):
        await driver.state("vm-a")
    other = await driver.state("vm-b")
    await driver.poweroff("vm-a")

    assert other is VmState.POWEREDOFF
    assert await driver.state("vm-a") is VmState.POWEREDOFF
    assert rig.processes("vm-a") == set()
