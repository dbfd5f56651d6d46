"""A driver's medium for inputs: one file at a time, changed while the VM lives, and no part of what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import Hypervisor, InputMedium
from schemas.inputs import MAX_TAIL_BYTES
from schemas.vms import VmState
from tests.contract.conftest import snapshots_of
from tests.contract.test_hypervisors import SEED, running

VM = "vm-a"


def medium_of(driver: Hypervisor) -> InputMedium:
    if driver.capabilities.inputs is None:
        pytest.skip(f"{driver.name} has no medium, and its guests fetch for themselves")
    return driver.capabilities.inputs


def some_file(rig: Any, name: str) -> Path:
    path: Path = rig.directory / name
    path.write_bytes(name.encode() * 1000)
    path.chmod(0o444)
    return path


async def test_a_file_is_shown_in_place_of_the_one_before_and_taken_away(rig: Any) -> None:
    driver = await running(rig)
    medium = medium_of(driver)

    names = [await medium.insert(VM, some_file(rig, name)) for name in ("one", "two", "one")]
    was_shown = await rig.shown(driver, VM)
    await medium.eject(VM)
    await medium.eject(VM)

    assert all(names)
    assert (was_shown, await rig.shown(driver, VM)) == (True, False)
    assert medium.unit_bytes <= MAX_TAIL_BYTES
    assert await driver.state(VM) is VmState.RUNNING


async def test_a_file_that_is_shown_may_be_removed_by_its_host(rig: Any) -> None:
    driver = await running(rig)
    medium = medium_of(driver)
    file = some_file(rig, "one")

    await medium.insert(VM, file)
    file.unlink()
    was_shown = await rig.shown(driver, VM)
    await medium.eject(VM)

    assert (was_shown, await rig.shown(driver, VM)) == (True, False)
    with pytest.raises(HypervisorError):
        await medium.insert(VM, file)
    assert await driver.state(VM) is VmState.RUNNING
    await medium.insert(VM, some_file(rig, "two"))


async def test_the_next_agent_takes_away_what_the_last_one_has_shown(rig: Any) -> None:
    driver = await running(rig)
    await medium_of(driver).insert(VM, some_file(rig, "one"))
    await driver.close()

    following = await rig.open()
    was_shown = await rig.shown(following, VM)
    await medium_of(following).eject(VM)
    assert (was_shown, await rig.shown(following, VM)) == (True, False)
    await medium_of(following).insert(VM, some_file(rig, "two"))


async def test_a_vm_that_is_saved_while_it_is_shown_a_file_goes_on_without_it(rig: Any) -> None:
    driver = await running(rig)
    medium = medium_of(driver)
    if driver.capabilities.snapshots is None:
        pytest.skip(f"{driver.name} saves no memory")
    file = some_file(rig, "one")
    await medium.insert(VM, file)

    await snapshots_of(driver).savestate(VM)
    file.unlink()
    await driver.start(VM, SEED)

    assert await driver.state(VM) is VmState.RUNNING
    assert not await rig.shown(driver, VM)
    await medium.insert(VM, some_file(rig, "two"))


async def test_a_vm_that_does_not_run_is_shown_nothing(rig: Any) -> None:
    driver = await running(rig)
    medium = medium_of(driver)
    if not driver.capabilities.isolates:
        pytest.skip("it has a directory as long as it is there")
    await driver.poweroff(VM)

    with pytest.raises(HypervisorError):
        await medium.insert(VM, some_file(rig, "one"))
