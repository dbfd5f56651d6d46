"""Snapshots of VMs by name, above every driver: what is there, what may be asked, which sentence a person hears."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from host_agent.commands import VmCommands
from host_agent.errors import IllegalVerb, SnapshotTaken, UnknownSnapshot, UnknownVm, Unsupported
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from host_agent.verbs import More, more_of
from host_agent.vm import Verb, Wish
from schemas.vms import (
    MOST_SNAPSHOTS,
    VmDeleteSnapshot,
    VmRestoreSnapshot,
    VmSnapshotList,
    VmStart,
    VmState,
    VmStop,
    VmTakeSnapshot,
)
from tests.unit.test_control import Host
from volcloud.client.snapshots import check_name
from volcloud.errors import BadInput

A, B = More(snapshot="a"), More(snapshot="b")


async def started(directory: Path) -> tuple[Host, str]:
    host = await Host(directory).open()
    vm = await host.vm()
    await host.control.act(Verb.START, vm)
    return host, vm


async def names(host: Host, vm: str) -> list[str]:
    return [one.name for one in await host.control.snapshots(vm)]


def test_what_a_command_holds_beside_the_vm_is_told_to_the_driver() -> None:
    assert more_of(VmStop(vm="v", timeout_s=7.0)) == More(timeout_s=7.0)
    assert more_of(VmTakeSnapshot(vm="v", snapshot="a")) == A
    assert more_of(VmStart(vm="v")) == More()


async def test_a_vm_goes_on_after_its_snapshot_was_taken_and_keeps_its_generation(tmp_path: Path) -> None:
    host, vm = await started(tmp_path)

    status = await host.control.act(Verb.TAKE_SNAPSHOT, vm, A)

    assert (status.state, status.generation) == (VmState.RUNNING, 1)
    assert [(one.name, one.state) for one in await host.control.snapshots(vm)] == [("a", VmState.RUNNING)]


@pytest.mark.parametrize("before", [Verb.POWEROFF, Verb.SAVESTATE, Verb.PAUSE, Verb.RESET])
async def test_a_restored_vm_is_a_new_generation_from_whatever_state(tmp_path: Path, before: Verb) -> None:
    host, vm = await started(tmp_path)
    await host.control.act(Verb.TAKE_SNAPSHOT, vm, A)
    await host.control.act(before, vm)
    generation = host.registry.get(vm).generation

    status = await host.control.act(Verb.RESTORE_SNAPSHOT, vm, A)
    again = await host.control.act(Verb.RESTORE_SNAPSHOT, vm, A)

    assert (status.state, status.generation, again.generation) == (VmState.RUNNING, generation + 1, generation + 2)
    assert host.grants[-2:] == [(vm, generation + 1), (vm, generation + 2)]
    assert host.registry.get(vm).wish is Wish.RUNNING


async def test_a_guest_whose_clocks_stood_still_is_told_so_before_its_vm_is_said_to_run(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()
    woken: list[tuple[Verb, bool]] = []
    verbs = [Verb.START, Verb.TAKE_SNAPSHOT, Verb.PAUSE, Verb.RESUME, Verb.RESUME, Verb.RESET, Verb.RESTORE_SNAPSHOT]
    verbs += [Verb.SAVESTATE, Verb.START, Verb.POWEROFF, Verb.START]

    async def wake(vm: str, is_new_generation: bool) -> None:
        woken.append((verb, is_new_generation))

    host.control.on_wake = wake
    for verb in verbs:
        await host.control.act(verb, vm, A)

    same, new = [Verb.TAKE_SNAPSHOT, Verb.RESUME], [Verb.RESTORE_SNAPSHOT, Verb.START]
    assert woken == [(verb, False) for verb in same] + [(verb, True) for verb in new]


async def test_a_vm_is_restored_to_the_pause_in_which_it_was_and_shall_stay_so(tmp_path: Path) -> None:
    host, vm = await started(tmp_path)
    await host.control.act(Verb.PAUSE, vm)
    await host.control.act(Verb.TAKE_SNAPSHOT, vm, A)
    await host.control.act(Verb.RESUME, vm)

    status = await host.control.act(Verb.RESTORE_SNAPSHOT, vm, A)

    assert status.state is VmState.PAUSED
    assert host.registry.get(vm).wish is Wish.PAUSED


async def test_a_snapshot_that_is_not_there_changes_nothing_and_the_error_lists_those_that_are(tmp_path: Path) -> None:
    host, vm = await started(tmp_path)

    with pytest.raises(UnknownSnapshot, match=rf"snapshot = 'b': the VM has no snapshots; .* snapshot take {vm} b`"):
        await host.control.act(Verb.RESTORE_SNAPSHOT, vm, B)
    await host.control.act(Verb.TAKE_SNAPSHOT, vm, A)
    with pytest.raises(UnknownSnapshot, match="the VM has none of that name; name one of a"):
        await host.control.act(Verb.RESTORE_SNAPSHOT, vm, B)

    assert (host.registry.get(vm).generation, len(host.grants)) == (1, 1)


async def test_a_name_is_taken_once_and_free_again_when_it_is_deleted(tmp_path: Path) -> None:
    host, vm = await started(tmp_path)
    await host.control.act(Verb.TAKE_SNAPSHOT, vm, A)

    with pytest.raises(SnapshotTaken, match=rf"`volcloud vm snapshot delete {vm} a` removes it, or choose another"):
        await host.control.act(Verb.TAKE_SNAPSHOT, vm, A)
    for _ in range(2):
        assert (await host.control.act(Verb.DELETE_SNAPSHOT, vm, A)).state is VmState.RUNNING
    await host.control.act(Verb.TAKE_SNAPSHOT, vm, A)

    assert await names(host, vm) == ["a"]


async def test_a_vm_has_so_many_snapshots_at_most(tmp_path: Path) -> None:
    host, vm = await started(tmp_path)
    for number in range(MOST_SNAPSHOTS):
        await host.control.act(Verb.TAKE_SNAPSHOT, vm, More(snapshot=f"s{number}"))

    with pytest.raises(SnapshotTaken, match=rf"the VM has 16, and 16 at most; .* delete {vm} s0` removes the oldest"):
        await host.control.act(Verb.TAKE_SNAPSHOT, vm, A)

    assert len(await names(host, vm)) == MOST_SNAPSHOTS


async def test_a_vm_that_is_off_has_no_memory_to_keep(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    vm = await host.vm()

    with pytest.raises(IllegalVerb, match="is poweredoff: take_snapshot is allowed from paused, running"):
        await host.control.act(Verb.TAKE_SNAPSHOT, vm, A)


async def test_a_driver_without_says_that_it_cannot(tmp_path: Path) -> None:
    driver = FakeHypervisor()
    driver.capabilities = msgspec.structs.replace(driver.capabilities, snapshots=None, notes="no memory on disk")
    host = await Host(tmp_path, driver).open()
    vm = await host.vm()

    for verb in (Verb.TAKE_SNAPSHOT, Verb.RESTORE_SNAPSHOT, Verb.DELETE_SNAPSHOT):
        with pytest.raises(
            Unsupported, match=f"{verb.replace('_', ' ')}: the fake driver cannot do that; no memory on disk"
        ):
            await host.control.act(verb, vm, A)
    with pytest.raises(Unsupported, match="snapshots: the fake driver cannot do that"):
        await host.control.snapshots(vm)


async def test_snapshots_of_a_vm_that_nobody_knows_are_an_error(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()

    with pytest.raises(UnknownVm):
        await host.control.snapshots("vm-x")


async def test_a_step_that_was_cut_off_by_a_crash_is_not_done_again(tmp_path: Path) -> None:
    host = await Host(tmp_path).open()
    handlers = VmCommands(host.control, None, host.statuses, lambda name: False).handlers()  # type: ignore[arg-type]

    repeated = {kind: handlers[kind].repeatable for kind in (VmTakeSnapshot, VmRestoreSnapshot, VmDeleteSnapshot)}

    assert repeated == {VmTakeSnapshot: False, VmRestoreSnapshot: False, VmDeleteSnapshot: True}
    assert VmSnapshotList in handlers


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a-", "a/../b", "a\n", "x" * 43, "é"])
def test_a_name_that_may_not_be_is_refused_with_what_may(name: str) -> None:
    with pytest.raises(BadInput, match="must be a to z, 0 to 9 and '-' inside, at most 42 characters"):
        check_name(name)
    check_name("a")
    check_name("before-upgrade-2")
