"""One VM whose files are damaged: it is shown with the reason and can be ended and removed, and the others go on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from broker import durable
from host_agent.errors import HypervisorError, IllegalVerb
from host_agent.hypervisors.directory import VmDirectories
from host_agent.hypervisors.process.hypervisor import ProcessHypervisor
from host_agent.vm import Verb
from schemas.vms import VmCreate
from tests.contract.conftest import GUEST
from tests.unit.test_control import Host

Damage = Callable[[Path], None]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_another_shape(path: Path) -> None:
    path.write_bytes(b'{"driver": 3}')


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [cut_short, emptied, of_another_shape, a_directory]


class Place:
    """A host's directory and the agents in it, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hosts: list[Host] = []

    async def host(self) -> Host:
        for before in self.hosts:
            await before.hypervisor.close()
        driver = ProcessHypervisor(self.directory / "vms", [sys.executable, "-c", GUEST])
        made = Host(self.directory, driver)
        self.hosts.append(made)
        return await made.open()

    def file(self, vm: str, name: str) -> Path:
        return self.directory / "vms" / vm / name


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.hosts[-1].control.poweroff_all()
    await made.hosts[-1].hypervisor.close()


async def two_that_run(place: Place) -> tuple[str, str]:
    host = await place.host()
    vms = [(await host.control.create(VmCreate(name=name))).vm for name in ("vm1", "vm2")]
    for vm in vms:
        await host.control.act(Verb.START, vm)
    return vms[0], vms[1]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_one_damaged_marker_keeps_no_agent_down_and_its_vm_is_shown_with_the_reason(
    place: Place, damage: Damage
) -> None:
    bad, good = await two_that_run(place)
    damage(place.file(bad, "vm.json"))

    host = await place.host()
    shown = {one.vm: one for one in await host.statuses.all()}
    with pytest.raises(HypervisorError, match=r"vm\.json (is damaged|cannot be read)"):
        await host.control.act(Verb.RESET, bad)
    still = (await host.statuses.one(bad)).state
    off = await host.control.act(Verb.POWEROFF, bad)
    await host.control.delete(bad)

    assert (shown[good].state, shown[good].reason) == ("running", "")
    assert (shown[bad].state, still) == ("running", "running")
    assert f"{place.file(bad, 'vm.json')} " in shown[bad].reason
    assert off.state == "poweredoff"
    assert not place.file(bad, "").exists()
    assert [one.vm for one in await host.statuses.all()] == [good]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_one_that_nobody_knows_is_set_aside_with_the_reason_and_can_be_discarded(
    place: Place, damage: Damage
) -> None:
    bad, good = await two_that_run(place)
    damage(place.file(bad, "vm.json"))
    (place.directory / "vms.json").unlink()

    host = await place.host()
    shown = {one.vm: one for one in await host.statuses.all()}
    with pytest.raises(HypervisorError, match=r"vm\.json"):
        await host.control.adopt(bad, autostart=lambda _: False)
    await host.control.discard(bad)
    adopted = await host.control.adopt(good, autostart=lambda _: False)

    assert {one.state for one in shown.values()} == {"set_aside"}
    assert str(place.file(bad, "vm.json")) in shown[bad].reason
    assert f"`volcloud vm discard {bad}` removes it" in shown[bad].reason
    assert not place.file(bad, "").exists()
    assert adopted.state == "running"


async def test_one_whose_marker_was_mended_is_adopted(place: Place) -> None:
    bad, _ = await two_that_run(place)
    copy = place.file(bad, "vm.json").read_bytes()
    emptied(place.file(bad, "vm.json"))
    (place.directory / "vms.json").unlink()
    host = await place.host()

    durable.replace(place.file(bad, "vm.json"), copy)
    adopted = await host.control.adopt(bad, autostart=lambda _: False)

    assert (adopted.name, adopted.state) == ("vm1", "running")


@pytest.mark.parametrize("damage", DAMAGES[:3], ids=lambda damage: damage.__name__)
async def test_a_damaged_record_of_its_process_keeps_no_agent_down_and_poweroff_mends_it(
    place: Place, damage: Damage
) -> None:
    bad, good = await two_that_run(place)
    damage(place.file(bad, "process.json"))

    host = await place.host()
    shown = {one.vm: one for one in await host.statuses.all()}
    off = await host.control.act(Verb.POWEROFF, bad)

    assert shown[good].state == "running"
    assert shown[bad].state == "unknown"
    assert "process.json is damaged" in shown[bad].reason
    assert f"`volcloud vm poweroff {bad}` ends it" in shown[bad].reason
    assert off.state == "poweredoff"
    assert (await host.control.act(Verb.START, bad)).state == "running"


async def test_a_copy_of_a_vms_directory_is_no_second_vm_of_that_id(place: Place) -> None:
    vm, other = await two_that_run(place)
    shutil.copytree(place.file(vm, ""), place.file(f"{vm}-copy", ""))
    shutil.copytree(place.file(vm, ""), place.file(f"{vm}.bak", ""))

    host = await place.host()
    shown = {one.vm: one for one in await host.statuses.all()}

    assert set(shown) == {vm, other, f"{vm}-copy"}
    assert shown[f"{vm}-copy"].state == "set_aside"
    assert f"is {vm}'s: its directory was copied" in shown[f"{vm}-copy"].reason


async def test_all_are_powered_off_though_one_cannot_be(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = await two_that_run(place)
    host = await place.host()
    end = host.hypervisor.poweroff

    async def poweroff(vm: str) -> None:
        if vm == bad:
            raise OSError(5, "Input/output error", str(place.file(vm, "process.json")))
        await end(vm)

    with monkeypatch.context() as patch:
        patch.setattr(host.hypervisor, "poweroff", poweroff)
        with pytest.raises(HypervisorError, match=r"poweroff of vm1: .*Input/output error"):
            await host.control.poweroff_all()

    assert (await host.statuses.one(good)).state == "poweredoff"


def test_what_cannot_be_removed_keeps_no_agent_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rmtree(path: Path, **_: object) -> None:
        raise OSError(16, os.strerror(16), str(path))

    (tmp_path / ".half-vm-a").mkdir()
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    directories = VmDirectories(tmp_path, "process")

    directories.sweep()

    assert directories.list() == []


async def test_the_name_of_another_vm_is_told_with_both_ids(place: Place) -> None:
    first, second = await two_that_run(place)
    (place.directory / "vms.json").unlink()
    host = await place.host()
    await host.control.adopt(first, autostart=lambda _: False)
    marker = place.file(second, "vm.json")
    durable.replace(marker, marker.read_bytes().replace(b'"name":"vm2"', b'"name":"vm1"'))

    with pytest.raises(IllegalVerb, match=f"`volcloud vm delete {first}` first, or `volcloud vm discard {second}`"):
        await host.control.adopt(second, autostart=lambda _: False)
