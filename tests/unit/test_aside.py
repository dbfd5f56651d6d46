"""VMs that were set aside: named so that each command means one of them, and bounded in what they keep."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from broker.errors import BrokerError, CallTimeout
from broker.keys import vouching
from broker.keys.store import EnrolledVm
from host_agent import advice
from host_agent.errors import HypervisorError
from host_agent.hypervisors.fake.host import FakeHost
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from host_agent.vm import Verb
from schemas.enrol import EnrolGranted
from schemas.ledger import RegistryRow
from schemas.vms import VmCreate, VmDelete, VmDiscard, VmState, VmStatus
from tests.unit.test_control import Host
from volcloud.commands.vms import _check_named
from volcloud.errors import CommandFailed
from volcloud.rendering.vms import labels_of, render_vms
from volcloud.screen import screen

ROOT = Path(__file__).parents[2]


async def two_of_one_name(tmp_path: Path) -> tuple[Host, str, str]:
    """A host that knows one VM of a name and has set another one aside: its registry is an older copy."""
    first = await Host(tmp_path).open()
    aside = await first.vm("vm1")
    (tmp_path / "vms.json").unlink()
    second = Host(tmp_path, FakeHypervisor(FakeHost()))
    known = await (await second.open()).vm("vm1")
    first.hypervisor.host.vms |= second.hypervisor.host.vms
    return await Host(tmp_path, first.hypervisor).open(), known, aside


async def test_of_two_vms_of_one_name_the_advice_names_the_one_that_is_meant(tmp_path: Path) -> None:
    host, known, aside = await two_of_one_name(tmp_path)

    shown = {one.vm: one for one in await host.statuses.all()}

    assert {one.name for one in shown.values()} == {"vm1"}
    assert f"`volcloud vm discard {aside}`" in shown[aside].reason
    assert f"`volcloud vm adopt {aside}`" in shown[aside].reason
    assert known not in shown[aside].reason


def test_what_a_host_tells_people_to_type_is_put_together_in_one_place() -> None:
    """Siblings: a VM that is given up, one that cannot be asked, a saved state that does not load."""
    found = [
        f"{path.name}: {node.value}"
        for path in (ROOT / "host_agent").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "volcloud vm" in node.value
    ]

    assert found == ["advice.py: `volcloud vm "]
    assert advice.command(Verb.START, "vm-a") == "`volcloud vm start vm-a`"


def row(vm: str, name: str, host: str, state: str = "running", **fields: Any) -> RegistryRow:
    status = VmStatus(
        vm=vm, name=name, state=VmState(state), generation=1, hypervisor="qemu", cpus=1, memory_mib=1, disk_mib=1
    )
    return RegistryRow(host=host, status=status, seen_ms=1, **fields)


def test_each_vm_has_a_label_of_its_own() -> None:
    rows = [
        row("vm-1", "a", "host-1"),
        row("vm-2", "b", "host-1"),
        row("vm-3", "b", "host-2"),
        row("vm-4", "c", "host-1"),
        row("vm-5", "c", "host-1", "set_aside"),
    ]

    assert labels_of(rows) == {
        "vm-1": "a",
        "vm-2": "b on host-1",
        "vm-3": "b on host-2",
        "vm-4": "c (vm-4) on host-1",
        "vm-5": "c (vm-5) on host-1",
    }


def test_a_name_that_two_vms_have_discards_none_that_was_set_aside() -> None:
    aside, known = row("vm-5", "c", "host-1", "set_aside"), row("vm-4", "c", "host-1", "saved")

    with pytest.raises(CommandFailed, match="discard would remove its disk") as caught:
        _check_named(VmDiscard, aside, "c", [known, aside])
    _check_named(VmDiscard, aside, "vm-5", [aside])
    _check_named(VmDiscard, aside, "c", [aside])
    _check_named(VmDiscard, known, "c", [known, aside])
    _check_named(VmDelete, aside, "c*", [known, aside])

    assert caught.value.next_step == "name it alone: `volcloud vm discard vm-5`"


def test_the_agent_of_a_vm_that_is_set_aside_is_not_shown_as_ready() -> None:
    console = screen()
    console.width = 200
    with console.capture() as shown:
        console.print(render_vms([row("vm-5", "c", "host-1", "set_aside"), row("vm-6", "d", "host-1", "paused")]))

    lines = shown.get().splitlines()
    assert "not used" in next(line for line in lines if "vm-5" in line)
    assert "paused     paused" in next(line for line in lines if "vm-6" in line)


async def test_one_that_cannot_be_asked_is_shown_all_the_same(tmp_path: Path) -> None:
    class Mute(FakeHypervisor):
        async def state(self, vm: str) -> VmState:
            raise HypervisorError("QEMU says nothing")

        def seed(self, vm: str) -> bytes | None:
            raise HypervisorError("its seed cannot be read")

    first = await Host(tmp_path).open()
    vm = await first.vm()
    (tmp_path / "vms.json").unlink()
    host = await Host(tmp_path, Mute(first.hypervisor.host)).open()

    (shown,) = await host.statuses.all()

    assert (shown.vm, shown.state, shown.generation) == (vm, "set_aside", 0)
    assert "QEMU says nothing" in shown.reason


async def leaving_and_back(tmp_path: Path) -> tuple[Host, str]:
    """A VM that runs, whose end was noted and whose principal is to be revoked, and that is there all the same."""
    before = await Host(tmp_path).open()
    vm = await before.vm()
    await before.control.act(Verb.START, vm)
    before.registry.remove(vm)
    return await Host(tmp_path, before.hypervisor).open(), vm


async def test_a_vm_that_is_adopted_is_not_revoked_any_more_and_has_a_login(tmp_path: Path) -> None:
    host, vm = await leaving_and_back(tmp_path)
    before = host.registry.leaving

    await host.control.adopt(vm, autostart=lambda _: False)

    again = await Host(tmp_path, host.hypervisor).open()
    assert (before, host.registry.leaving, again.registry.leaving) == ((vm,), (), ())
    assert host.grants == [(vm, 2)]
    assert len(host.hypervisor.host.vms[vm].seeds) == 2


async def test_a_login_that_cannot_be_had_is_told_with_what_to_do(tmp_path: Path, monkeypatch) -> None:
    host, vm = await leaving_and_back(tmp_path)

    async def away(vm: str, generation: int) -> EnrolGranted:
        raise CallTimeout("no answer to enrol")

    monkeypatch.setattr(host.aside._seeding, "_access", away)
    with pytest.raises(BrokerError, match=f"`volcloud vm reset {vm}` gives it one"):
        await host.control.adopt(vm, autostart=lambda _: False)

    assert host.registry.get(vm).vm == vm
    assert host.registry.leaving == ()


def test_a_vm_that_is_set_aside_keeps_its_login_for_a_time_and_not_for_ever() -> None:
    record = EnrolledVm(vm="vm-a", host="host-a", generation=1, silent_s=3 * 86400.0)

    kept = list(vouching.vouched("host-a", [record], named=(), aside=("vm-a",)))
    (found_again,) = vouching.vouched("host-a", [EnrolledVm(vm="vm-a", host="", generation=0)], (), ("vm-a",))
    (forgotten,) = vouching.vouched("host-a", [record], named=(), aside=())
    (back,) = vouching.vouched("host-a", [forgotten], named=(), aside=("vm-a",))
    (adopted,) = vouching.vouched("host-a", [record], named=("vm-a",), aside=())

    assert kept == [], "nothing changes: it grows silent"
    assert found_again.host == "host-a"
    assert (forgotten.disowned, back.disowned, adopted.silent_s) == (True, False, 0.0)
    assert not vouching.is_nobodys(record)
    old = EnrolledVm(vm="vm-a", host="host-a", generation=1, silent_s=vouching.SILENT_S + 1)
    assert vouching.is_nobodys(old)
    assert vouching.complaint(old) == "host-a has not vouched for it for 45 days"


async def test_how_long_it_keeps_its_login_is_told(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    await host.control.create(VmCreate(name="vm1"))
    (tmp_path / "vms.json").unlink()
    host = await Host(tmp_path, host.hypervisor).open()

    (shown,) = await host.statuses.all()

    assert shown.reason.endswith("its login goes after 45 days")
