"""Verbs on VMs: every pair of verb and state on the fake driver, generations, what an earlier agent left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from broker.address import Address
from host_agent.control import GuestSettings, VmControl
from host_agent.errors import HypervisorError, IllegalVerb
from host_agent.hypervisors.fake import FakeHypervisor
from host_agent.images import ImageStore
from host_agent.registry import NoSuchVm, VmRegistry
from host_agent.vm import TRANSITIONS, Verb, VmState, is_done, is_legal
from schemas.enrol import EnrolGranted
from schemas.vms import VmCreate, VmStatus

BROKER = Address(host="127.0.0.1", port=5672, user="host-a", password="x")


class Host:
    """A host agent's control over a fake driver, and what it asked the key manager for."""

    def __init__(self, directory: Path, hypervisor: FakeHypervisor | None = None) -> None:
        self.hypervisor = hypervisor or FakeHypervisor()
        self.registry = VmRegistry(directory / "vms.json")
        self.grants: list[tuple[str, int]] = []
        self.revoked: list[str] = []
        self.control = VmControl(
            self.hypervisor,
            self.registry,
            ImageStore(directory / "images", frozenset()),
            "",
            BROKER,
            GuestSettings(0, {}),
            self.grant,
            self.revoke,
        )

    async def open(self) -> Host:
        self.registry.load()
        await self.hypervisor.open(lambda vm, state: None)
        await self.control.settle()
        return self

    async def grant(self, vm: str, generation: int) -> EnrolGranted:
        self.grants.append((vm, generation))
        return EnrolGranted(call="c", vm=vm, user="once-1", password="x")

    async def revoke(self, vm: str) -> None:
        self.revoked.append(vm)

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
ACTS = tuple(verb for verb in Verb if verb not in (Verb.CREATE, Verb.DELETE))


@pytest.mark.parametrize("state", REACHABLE)
@pytest.mark.parametrize("verb", ACTS)
async def test_every_verb_from_every_state_succeeds_or_is_refused_as_the_table_says(
    tmp_path: Path, verb: Verb, state: VmState
) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()
    await bring_to(host, vm, state)

    async def act() -> VmStatus:
        return await host.control.act(verb, vm)

    if is_done(verb, state):
        assert (await act()).state == state
    elif is_legal(verb, state):
        assert (await act()).state == TRANSITIONS[verb].goal
    else:
        await expect_illegal(act, verb, state)
        assert (await host.control.status(vm)).state == state


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
    assert (await host.control.status(vm)).generation == 3


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

    assert host.revoked == [vm]
    assert await host.hypervisor.list() == []


async def test_a_vm_that_is_not_ours_is_named(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    await host.vm()

    with pytest.raises(NoSuchVm, match="vm = 'vm-other': this host has no such VM; it has vm1"):
        await host.control.act(Verb.START, "vm-other")


async def test_a_failed_create_leaves_nothing(tmp_path: Path) -> None:
    class NoRoom(FakeHypervisor):
        async def create(self, spec: object) -> None:
            raise HypervisorError("no space left on device")

    host = await Host(tmp_path, NoRoom()).open()

    with pytest.raises(HypervisorError, match="no space"):
        await host.vm()

    assert host.registry.all() == []


async def test_the_next_agent_knows_the_vms_and_their_generations(tmp_path: Path) -> None:
    first = await Host(tmp_path).open()
    vm = await first.vm()
    await first.control.act(Verb.START, vm)

    second = await Host(tmp_path, first.hypervisor).open()

    status = await second.control.status(vm)
    assert (status.name, status.generation, status.state) == ("vm1", 1, "running")


async def test_a_vm_that_nobody_knows_is_removed_as_a_leftover(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()
    (tmp_path / "vms.json").unlink()

    after = await Host(tmp_path, host.hypervisor).open()

    assert await after.hypervisor.list() == []
    assert await after.hypervisor.state(vm) == VmState.ABSENT
