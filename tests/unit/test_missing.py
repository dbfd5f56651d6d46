"""VMs whose directory is not there: kept, told with the path and the mend, never revoked, and back when it is back."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from host_agent import keeper as keeper_module
from host_agent.errors import IllegalVerb, RegistryUnreadable
from host_agent.hypervisors.process.hypervisor import ProcessHypervisor
from host_agent.registry import VmRegistry
from host_agent.vm import Verb, Wish
from schemas.vms import VmCreate, VmState
from tests.contract.conftest import GUEST, eventually
from tests.unit.test_control import FullDisk, Host
from tests.unit.test_keeper import Kept

IDLE = "import time; time.sleep(600)"


class Disk:
    """Where VMs are kept; it can be taken away and put back, as a mount can."""

    def __init__(self, directory: Path) -> None:
        self.place, self._aside = directory / "vms", directory / "unmounted"

    def take_away(self) -> None:
        self.place.rename(self._aside)

    def put_back(self) -> None:
        shutil.rmtree(self.place)
        self._aside.rename(self.place)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


class Machines:
    """Agents of one directory, one after the other, over processes."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._directory, self._disk = directory, disk
        self.agents: list[Kept] = []

    async def agent(self, guest: str = IDLE) -> Kept:
        """The next agent; the one before has ended."""
        for before in self.agents:
            await before.keeper.close()
            await before.hypervisor.close()
        driver = ProcessHypervisor(self._disk.place, [sys.executable, "-c", guest])
        made = await Kept(self._directory, driver).open()  # type: ignore[arg-type]
        made.statuses.missing.on_back = made.keeper.look_after
        self.agents.append(made)
        return made


@pytest.fixture
async def machines(tmp_path: Path, disk: Disk) -> AsyncIterator[Machines]:
    made = Machines(tmp_path, disk)
    yield made
    last = made.agents[-1]
    await last.keeper.close()
    await last.control.poweroff_all()
    await last.hypervisor.close()


async def test_a_vm_whose_disk_is_absent_for_one_start_is_missing_and_comes_back_as_it_was(
    machines: Machines, disk: Disk
) -> None:
    first = await machines.agent()
    vm = (await first.control.create(VmCreate(name="vm1"))).vm
    for verb in (Verb.START, Verb.POWEROFF):
        await first.control.act(verb, vm)
    disk.take_away()

    second = await machines.agent()
    (shown,) = await second.statuses.all()
    leaving, known = second.registry.leaving, second.registry.get(vm)
    disk.put_back()
    (after,) = await second.statuses.all()

    assert (shown.vm, shown.name, shown.state, shown.generation) == (vm, "vm1", "missing", 1)
    assert f"{disk.place / vm} is not there: mount its disk" in shown.reason
    assert f"`volcloud vm delete {vm}` gives it up" in shown.reason
    assert (leaving, known.generation) == ((), 1)
    assert (after.state, after.reason) == ("poweredoff", "")
    assert (await second.control.act(Verb.START, vm)).state == "running"


async def test_no_other_verb_is_carried_out_on_it_and_the_answer_says_what_to_do(
    machines: Machines, disk: Disk
) -> None:
    vm = (await (await machines.agent()).control.create(VmCreate(name="vm1"))).vm
    disk.take_away()
    host = await machines.agent()

    for verb in (Verb.START, Verb.STOP, Verb.RESET):
        with pytest.raises(IllegalVerb, match=f"vm1 is missing: {disk.place / vm} is not there: mount its disk"):
            await host.control.act(verb, vm)
    again = await host.control.create(VmCreate(name="vm1"))
    off = await host.control.act(Verb.POWEROFF, vm)

    assert (again.vm, again.state, off.state) == (vm, "missing", "missing")
    assert host.registry.get(vm).wish is Wish.OFF


async def test_only_a_persons_word_gives_it_up(machines: Machines, disk: Disk) -> None:
    vm = (await (await machines.agent()).control.create(VmCreate(name="vm1"))).vm
    disk.take_away()
    for _ in range(3):
        host = await machines.agent()

    before = host.registry.leaving
    await host.control.delete(vm)

    assert (before, host.registry.leaving, host.registry.all()) == ((), (vm,), [])
    disk.put_back()
    after = await machines.agent()
    assert [one.state for one in await after.statuses.all()] == ["set_aside"]


async def test_one_that_shall_run_is_started_when_it_is_back_and_one_that_still_runs_is_found(
    machines: Machines, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "FIRST_WAIT_S", 0.001)
    first = await machines.agent(GUEST)
    kept = (await first.control.create(VmCreate(name="down", autostart=True), wish=Wish.RUNNING)).vm
    alive = (await first.control.create(VmCreate(name="alive", autostart=True), wish=Wish.RUNNING)).vm
    pid = (await first.control.act(Verb.START, alive)).pid
    disk.take_away()
    second = await machines.agent(GUEST)
    second.keeper.keep_all()
    await eventually(lambda: not second.keeper.at_work)
    missing = [one.state for one in await second.statuses.all()]

    disk.put_back()
    seen = {one.vm: one for one in await second.statuses.all()}
    async with asyncio.timeout(30):
        while await second.hypervisor.state(kept) is not VmState.RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    assert missing == ["missing", "missing"]
    assert (seen[alive].state, seen[alive].pid) == ("running", pid)
    assert await second.hypervisor.state(alive) is VmState.RUNNING


async def test_what_was_never_made_wholly_or_was_being_deleted_is_no_missing_vm(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    begun, ended = await host.vm("begun"), await host.vm("ended")
    host.registry.note_made(begun, is_made=False)
    host.registry.note_made(ended, is_made=False)
    await host.hypervisor.delete(ended)
    await host.hypervisor.delete(begun)

    after = await Host(tmp_path, host.hypervisor).open()

    assert after.registry.all() == []
    assert set(after.registry.leaving) == {begun, ended}


async def test_what_was_made_before_it_could_be_noted_is_made(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()
    host.registry.note_made(vm, is_made=False)

    after = await Host(tmp_path, host.hypervisor).open()

    assert after.registry.get(vm).is_made


async def test_a_full_disk_at_that_start_changes_nothing_of_it(
    machines: Machines, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = (await (await machines.agent()).control.create(VmCreate(name="vm1"))).vm
    disk.take_away()
    full = FullDisk(monkeypatch)

    full.fill()
    host = await machines.agent()
    full.empty()

    assert [record.vm for record in host.registry.all()] == [vm]
    assert (await host.statuses.one(vm)).state == "missing"


def test_the_registry_of_the_first_releases_is_read(tmp_path: Path) -> None:
    """It was a list of VMs and nothing else."""
    path = tmp_path / "vms.json"
    old = {"vm": "vm-a", "name": "worker-1", "cpus": 2, "memory_mib": 768, "disk_mib": 4096, "generation": 7}
    path.write_text(json.dumps([old]))
    registry = VmRegistry(path)

    registry.load()
    registry.raise_generation("vm-a")

    again = VmRegistry(path)
    again.load()
    assert (again.get("vm-a").name, again.get("vm-a").generation, again.leaving) == ("worker-1", 8, ())
    assert isinstance(json.loads(path.read_bytes()), dict)


@pytest.mark.parametrize("content", ["[1]", '{"vms": 3}', "", '["vm-a"]', "\x00" * 40])
def test_what_is_no_registry_is_refused_with_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "vms.json").write_text(content)

    with pytest.raises(RegistryUnreadable, match="restore it, or move it away and adopt the VMs"):
        VmRegistry(tmp_path / "vms.json").load()
