"""Verbs on VMs: every pair of verb and state on the fake driver, generations, what an earlier agent left."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import durable
from broker.address import Address
from host_agent import control, looks, operations
from host_agent.aside import SetAside
from host_agent.control import VmControl
from host_agent.errors import HostDiskFull, HypervisorError, IllegalVerb, Interrupted, UnknownVm, Unsupported
from host_agent.hypervisors.fake.host import FakeHost
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from host_agent.images import ImageStore
from host_agent.making import VmMaking
from host_agent.registry import VmRegistry
from host_agent.seeding import BrokerLogins, GuestSettings, Seeding
from host_agent.statuses import VmStatuses
from host_agent.verbs import More, goal_of, is_done, is_legal
from host_agent.vm import Verb, Wish
from schemas.endpoints import Endpoint
from schemas.enrol import EnrolGranted
from schemas.vms import VmCreate, VmSnapshot, VmState, VmStatus
from tests.broker.polling import until

BROKER = Address(endpoints=(Endpoint("127.0.0.1", 5672),), user="host-a", password="x")


class Host:
    """A host agent's control over a fake driver, and what it asked the key manager for."""

    def __init__(self, directory: Path, hypervisor: Any = None) -> None:
        self.hypervisor = hypervisor or FakeHypervisor()
        self.registry = VmRegistry(directory / "vms.json")
        self.grants: list[tuple[str, int]] = []
        seeding = Seeding(
            self.hypervisor, self.registry, GuestSettings(0, {}), BrokerLogins(self.hypervisor, BROKER, self.grant)
        )
        self.aside = SetAside(self.hypervisor, self.registry, seeding)
        images = ImageStore(directory / "images", frozenset())
        making = VmMaking(
            self.hypervisor, self.registry, self.aside, images, "", directory / "credential.json", BROKER.user
        )
        self.statuses = VmStatuses(self.hypervisor, self.registry, self.aside)
        self.control = VmControl(self.hypervisor, self.registry, self.aside, making, seeding, self.statuses)

    async def open(self) -> Host:
        self.registry.load()
        await self.hypervisor.open(lambda vm, state: None)
        await self.control.settle()
        return self

    async def grant(self, vm: str, generation: int) -> EnrolGranted:
        self.grants.append((vm, generation))
        return EnrolGranted(call="c", vm=vm, user="once-1", password="x")

    async def vm(self, name: str = "vm1") -> str:
        return (await self.control.create(VmCreate(name=name))).vm


async def bring_to(host: Host, vm: str, state: VmState) -> None:
    """Take a fresh VM to a state that a person can reach."""
    way: dict[VmState, list[Verb]] = {
        VmState.POWEREDOFF: [],
        VmState.RUNNING: [Verb.START],
        VmState.PAUSED: [Verb.START, Verb.PAUSE],
        VmState.SAVED: [Verb.START, Verb.SAVESTATE],
    }
    for verb in way[state]:
        await host.control.act(verb, vm)


REACHABLE = (VmState.POWEREDOFF, VmState.RUNNING, VmState.PAUSED, VmState.SAVED)
ACTS = tuple(verb for verb in Verb if verb not in (Verb.CREATE, Verb.DELETE, Verb.ADOPT))
#: A snapshot that nobody has taken.
FRESH = More(snapshot="s1")


@pytest.mark.parametrize("state", REACHABLE)
@pytest.mark.parametrize("verb", ACTS)
async def test_every_verb_from_every_state_succeeds_or_is_refused_as_the_table_says(
    tmp_path: Path, verb: Verb, state: VmState
) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()
    await bring_to(host, vm, state)
    if verb is Verb.RESTORE_SNAPSHOT:
        host.hypervisor.host.vms[vm].snapshots["s1"] = VmSnapshot(name="s1", taken_ms=1, state=VmState.RUNNING)

    async def act() -> VmStatus:
        return await host.control.act(verb, vm, FRESH)

    if is_done(verb, state):
        assert (await act()).state == state
    elif is_legal(verb, state):
        assert (await act()).state == goal_of(verb, state)
    else:
        await expect_illegal(act, verb, state)
        assert (await host.statuses.one(vm)).state == state


async def expect_illegal(act: Callable[[], Awaitable[object]], verb: Verb, state: VmState) -> None:
    with pytest.raises(IllegalVerb) as caught:
        await act()
    assert f"is {state}" in str(caught.value)
    assert str(verb) in str(caught.value)


async def test_each_boot_raises_the_generation_and_buys_a_login_of_its_own(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()

    for verb in (Verb.START, Verb.RESET, Verb.POWEROFF, Verb.START):
        await host.control.act(verb, vm)

    assert host.grants == [(vm, 1), (vm, 2), (vm, 3)]
    assert (await host.statuses.one(vm)).generation == 3


async def test_the_same_name_again_is_the_same_vm(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()

    assert await host.vm() == await host.vm()


async def test_the_same_name_with_another_size_is_refused(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    await host.vm()

    with pytest.raises(IllegalVerb, match="delete it first"):
        await host.control.create(VmCreate(name="vm1", cpus=2))


async def test_a_running_vm_is_not_deleted(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()
    await host.control.act(Verb.START, vm)

    with pytest.raises(IllegalVerb, match="running"):
        await host.control.delete(vm)


async def test_a_deleted_vm_takes_its_principal_with_it_and_deleting_it_again_succeeds(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()

    await host.control.delete(vm)
    await host.control.delete(vm)

    assert host.registry.leaving == (vm,)
    assert await host.hypervisor.list() == []


async def test_a_vm_that_is_not_ours_is_named(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    await host.vm()

    with pytest.raises(UnknownVm, match="vm = 'vm-other': this host has no such VM; it has vm1"):
        await host.control.act(Verb.START, "vm-other")


async def test_a_failed_create_leaves_nothing(tmp_path: Path) -> None:
    class HostDiskFull(FakeHypervisor):
        async def create(self, spec: object) -> None:
            raise HypervisorError("no space left on device")

    host = await Host(tmp_path, HostDiskFull()).open()

    with pytest.raises(HypervisorError, match="no space"):
        await host.vm()

    assert host.registry.all() == []


async def test_the_next_agent_knows_the_vms_and_their_generations(tmp_path: Path) -> None:
    first = await Host(tmp_path).open()
    vm = await first.vm()
    await first.control.act(Verb.START, vm)

    second = await Host(tmp_path, first.hypervisor).open()

    status = await second.statuses.one(vm)
    assert (status.name, status.generation, status.state) == ("vm1", 1, "running")


async def lost(tmp_path: Path, *, start: bool = False) -> tuple[Host, str]:
    """A host whose registry is gone, and its only VM."""
    before = await Host(tmp_path).open()
    vm = await before.vm()
    if start:
        await before.control.act(Verb.START, vm)
    (tmp_path / "vms.json").unlink()
    return await Host(tmp_path, before.hypervisor).open(), vm


async def test_a_vm_that_the_registry_does_not_know_is_set_aside_and_shown_with_what_to_do(tmp_path: Path) -> None:
    host, vm = await lost(tmp_path, start=True)

    (shown,) = await host.statuses.all()

    assert (shown.vm, shown.name, shown.state, shown.generation) == (vm, "vm1", "set_aside", 1)
    assert "running" in shown.reason
    assert f"`volcloud vm adopt {vm}`" in shown.reason
    assert f"`volcloud vm discard {vm}`" in shown.reason
    assert await host.hypervisor.state(vm) is VmState.RUNNING


async def test_a_vm_that_was_set_aside_is_adopted_as_it_is_and_its_next_boot_is_a_newer_one(tmp_path: Path) -> None:
    host, vm = await lost(tmp_path, start=True)

    status = await host.control.adopt(vm, autostart=lambda name: name == "vm1")
    await host.control.adopt(vm, autostart=lambda name: False)
    await host.control.act(Verb.RESET, vm)

    assert (status.state, status.generation, status.autostart) == ("running", 1, True)
    assert host.grants == [(vm, 2)]
    assert (await Host(tmp_path, host.hypervisor).open()).registry.get(vm).wish is Wish.RUNNING


async def test_a_vm_that_was_set_aside_is_discarded_with_all_that_it_has_and_its_principal(tmp_path: Path) -> None:
    host, vm = await lost(tmp_path, start=True)

    assert await host.control.discard(vm) is None
    assert await host.control.discard(vm) is None

    assert await host.hypervisor.list() == []
    assert await host.statuses.all() == []
    assert (await Host(tmp_path, host.hypervisor).open()).registry.leaving == (vm,)


async def test_a_vm_that_was_set_aside_can_be_powered_off_and_nothing_else(tmp_path: Path) -> None:
    host, vm = await lost(tmp_path, start=True)

    with pytest.raises(IllegalVerb, match="is set_aside: start is allowed from"):
        await host.control.act(Verb.START, vm)
    with pytest.raises(IllegalVerb, match="is set_aside: delete is allowed from"):
        await host.control.delete(vm)
    await host.control.act(Verb.POWEROFF, vm)

    assert await host.hypervisor.state(vm) is VmState.POWEREDOFF
    assert (await host.statuses.one(vm)).state == "set_aside"


async def test_the_name_of_a_vm_that_was_set_aside_is_given_to_no_other(tmp_path: Path) -> None:
    host, vm = await lost(tmp_path)

    with pytest.raises(IllegalVerb, match=f"set aside, {vm}; adopt or discard it first"):
        await host.vm()


async def test_a_registry_older_than_its_vms_goes_on_from_the_generation_that_the_guest_was_told(
    tmp_path: Path,
) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()
    copy = (tmp_path / "vms.json").read_bytes()
    for verb in (Verb.START, Verb.RESET, Verb.RESET, Verb.POWEROFF):
        await host.control.act(verb, vm)
    (tmp_path / "vms.json").write_bytes(copy)

    after = await Host(tmp_path, host.hypervisor).open()
    await after.control.act(Verb.START, vm)

    assert after.grants == [(vm, 4)]


class FullDisk:
    """A registry whose disk is full while it is entered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def fill(self) -> None:
        def replace(path: Path, *_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        self._patch.setattr(durable, "replace", replace)

    def empty(self) -> None:
        self._patch.undo()


async def test_a_full_disk_leaves_no_ghost_of_a_vm_that_could_not_be_made(tmp_path: Path, monkeypatch) -> None:
    host, disk = await Host(tmp_path).open(), FullDisk(monkeypatch)

    disk.fill()
    with pytest.raises(HostDiskFull, match=r"cannot make vm1: .*vms\.json: No space left on device"):
        await host.vm()
    disk.empty()

    assert host.registry.all() == []
    assert await host.hypervisor.list() == []
    assert (await host.statuses.one(await host.vm())).state == "poweredoff"


async def test_a_record_without_a_vm_can_be_deleted(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()
    await host.hypervisor.delete(vm)

    await host.control.delete(vm)

    assert host.registry.all() == []


async def test_poweroff_works_on_a_full_disk_and_start_names_the_file(tmp_path: Path, monkeypatch) -> None:
    host, disk = await Host(tmp_path).open(), FullDisk(monkeypatch)
    vm = await host.vm()
    await host.control.act(Verb.START, vm)
    disk.fill()

    assert (await host.control.act(Verb.POWEROFF, vm)).state == "poweredoff"
    with pytest.raises(HostDiskFull, match=r"vms\.json"):
        await host.control.act(Verb.START, vm)

    assert host.registry.get(vm).generation == 1


async def test_a_saved_state_that_nobody_wants_is_discarded_and_the_vm_is_off(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()
    await bring_to(host, vm, VmState.SAVED)

    first, again = await host.control.discard(vm), await host.control.discard(vm)

    assert (first and first.state, again and again.state) == ("poweredoff", "poweredoff")
    assert (await host.control.act(Verb.START, vm)).state == "running"


class Hangs(FakeHypervisor):
    """A hypervisor whose ``stop`` and ``state`` of chosen VMs never come to an end."""

    def __init__(self, host: FakeHost | None = None) -> None:
        super().__init__(host)
        self.hung: set[str] = set()

    async def state(self, vm: str) -> VmState:
        await self._maybe_for_ever(vm)
        return await super().state(vm)

    async def stop(self, vm: str, timeout_s: float) -> None:
        await asyncio.Event().wait()

    async def poweroff(self, vm: str) -> None:
        self.hung.discard(vm)
        await super().poweroff(vm)

    async def _maybe_for_ever(self, vm: str) -> None:
        if vm in self.hung:
            await asyncio.Event().wait()


async def test_what_is_being_done_to_a_vm_is_told_and_what_is_over_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "LONG_S", 0.01)
    host = await Host(tmp_path, Hangs()).open()
    vm = await host.vm()
    told: list[str] = []
    started = await host.control.act(Verb.START, vm)
    host.control.on_change = told.append
    stop = asyncio.ensure_future(host.control.act(Verb.STOP, vm, by="console-ada"))
    await until(lambda: told)

    (stopping,) = await host.statuses.all()
    ended = await host.control.act(Verb.POWEROFF, vm)
    await asyncio.gather(stop, return_exceptions=True)

    assert stopping.act is not None
    assert (stopping.act.verb, stopping.act.by, stopping.act.for_s < 10) == ("stop", "console-ada", True)
    assert [status.act for status in (started, ended, *await host.statuses.all())] == [None] * 3


async def test_two_who_make_a_vm_of_one_name_at_once_make_one(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()

    made = await asyncio.gather(*(host.control.create(VmCreate(name="vm1")) for _ in range(5)))

    assert len({status.vm for status in made}) == len(await host.hypervisor.list()) == 1


async def test_poweroff_cuts_short_a_stop_and_whoever_asked_for_it_hears_why(tmp_path: Path) -> None:
    host = await Host(tmp_path, Hangs()).open()
    vm = await host.vm()
    await host.control.act(Verb.START, vm)
    stop = asyncio.ensure_future(host.control.act(Verb.STOP, vm))
    behind = asyncio.ensure_future(host.control.act(Verb.PAUSE, vm))
    await asyncio.sleep(0)

    status = await asyncio.wait_for(host.control.act(Verb.POWEROFF, vm), 10)

    assert status.state == "poweredoff"
    for cut in (stop, behind):
        with pytest.raises(Interrupted, match="cut short by poweroff"):
            await cut


async def test_a_vm_that_hangs_delays_no_inventory_and_no_verb_on_another(tmp_path: Path) -> None:
    hypervisor = Hangs()
    host = await Host(tmp_path, hypervisor).open()
    hanging, other = await host.vm("vm1"), await host.vm("vm2")
    await host.control.act(Verb.START, hanging)
    await host.statuses.all()
    hypervisor.hung.add(hanging)

    async with asyncio.timeout(20):
        await host.control.act(Verb.START, other)
        first = await host.statuses.all()
        new = await host.vm("vm3")
        second = await host.statuses.all()
    await host.statuses.close()

    assert [status.state for status in first] == ["running", "running"]
    assert new in [status.vm for status in second]


async def test_a_vm_that_cannot_be_asked_for_long_is_told_as_unknown_with_the_reason(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(looks, "FIRST_PATIENCE_S", 0.0)
    monkeypatch.setattr(looks, "PATIENCE_S", 0.0)
    monkeypatch.setattr(looks, "STALE_S", 0.0)
    hypervisor = Hangs()
    host = await Host(tmp_path, hypervisor).open()
    hypervisor.hung.add(await host.vm())

    (told,) = await host.statuses.all()
    await host.statuses.close()

    assert told.state == "unknown"
    assert "does not answer" in told.reason


async def test_a_hypervisor_that_hangs_can_be_powered_off_without_asking_it_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(control, "POWEROFF_PATIENCE_S", 0.01)
    hypervisor = Hangs()
    host = await Host(tmp_path, hypervisor).open()
    vm = await host.vm()
    await host.control.act(Verb.START, vm)
    hypervisor.hung.add(vm)

    status = await asyncio.wait_for(host.control.act(Verb.POWEROFF, vm), 10)

    assert status.state == "poweredoff"


async def test_the_log_tells_each_begin_and_end_of_a_vm_at_its_level(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO, logger="host_agent")
    host = await Host(tmp_path).open()
    vm = await host.vm()

    for verb in (Verb.START, Verb.POWEROFF):
        await host.control.act(verb, vm)
    await host.control.delete(vm)

    told = [(r.levelname, r.message, getattr(r, "verb", ""), getattr(r, "state", "")) for r in caplog.records]
    assert told == [
        ("INFO", "vm made", "", ""),
        ("INFO", "vm verb", "start", "running"),
        ("INFO", "vm verb", "poweroff", "poweredoff"),
        ("INFO", "vm deleted", "", ""),
    ]
    assert {r.vm for r in caplog.records} == {vm}


async def test_a_verb_for_which_the_driver_has_no_port_is_unsupported_by_its_name_and_changes_nothing(
    tmp_path: Path,
) -> None:
    hypervisor = FakeHypervisor()
    hypervisor.capabilities = msgspec.structs.replace(hypervisor.capabilities, snapshots=None)
    host = await Host(tmp_path, hypervisor).open()
    vm = await host.vm()
    await host.control.act(Verb.START, vm)

    with pytest.raises(Unsupported, match="savestate: the fake driver cannot do that; in memory, for tests"):
        await host.control.act(Verb.SAVESTATE, vm)

    assert (await host.statuses.one(vm)).state is VmState.RUNNING
