"""VMs kept as they are wished to be: growing waits, an end with a reason, nobody's decision undone."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import msgspec
import pytest

from broker import durable
from broker.errors import CallTimeout
from host_agent import keeper as keeper_module
from host_agent.errors import HostDiskFull, HypervisorError, IllegalVerb
from host_agent.hypervisors.contract import VmFacts
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from host_agent.hypervisors.fake.ports import FakeSnapshots
from host_agent.keeper import MOST_STARTS, STEADY_S, Keeper, Tries
from host_agent.registry import VmRecord, VmRegistry
from host_agent.verbs import More
from host_agent.vm import Verb, Wish
from schemas.vms import VmCreate, VmState
from tests.contract.conftest import eventually
from tests.unit.test_control import Host


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that grow as they do, a thousand times as fast."""
    monkeypatch.setattr(keeper_module, "FIRST_WAIT_S", keeper_module.FIRST_WAIT_S / 1000)
    monkeypatch.setattr(keeper_module, "MOST_WAIT_S", keeper_module.MOST_WAIT_S / 1000)


class Kept(Host):
    """A host whose VMs are kept, and the verbs that the keeper asked for."""

    def __init__(self, directory: Path, hypervisor: FakeHypervisor | None = None) -> None:
        super().__init__(directory, hypervisor)
        self.verbs: list[Verb] = []
        self.keeper = Keeper(self.hypervisor, self.registry, self.act, self.control.is_at_work)
        self.control.on_change = self.keeper.look_after
        self.statuses.reason = self.keeper.reason

    async def open(self) -> Kept:
        self.registry.load()
        await self.hypervisor.open(lambda vm, state: self.keeper.look_after(vm))
        await self.control.settle()
        return self

    async def act(self, verb: Verb, vm: str) -> object:
        self.verbs.append(verb)
        return await self.control.act(verb, vm)

    async def wanted(self) -> str:
        """A VM of the settings', which runs."""
        vm = (await self.control.create(VmCreate(name="vm1", autostart=True), wish=Wish.RUNNING)).vm
        self.keeper.keep_all()
        await self.until(vm, VmState.RUNNING)
        return vm

    async def until(self, vm: str, state: VmState) -> None:
        async with asyncio.timeout(20):
            while await FakeHypervisor.state(self.hypervisor, vm) is not state:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def given_up(self, vm: str) -> str:
        """Wait for the end with a reason, and give the reason."""
        async with asyncio.timeout(20):
            while "tries again" not in (reason := (await self.statuses.one(vm)).reason):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return reason


def full_disk(path: Path, *_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


class Breaks(FakeHypervisor):
    """A VM that starts and aborts at once, for as long as it is broken."""

    broken = True

    async def start(self, vm: str, seed: bytes) -> None:
        await super().start(vm, seed)
        if self.broken:
            asyncio.get_running_loop().call_soon(self.crash, vm)


class Refuses(FakeHypervisor):
    """A hypervisor that starts nothing, for a reason of its own."""

    error: Exception | None = HypervisorError("cannot allocate memory")

    async def start(self, vm: str, seed: bytes) -> None:
        if self.error is not None:
            raise self.error
        await super().start(vm, seed)


async def test_a_vm_that_aborts_is_started_again(tmp_path: Path) -> None:
    host = await Kept(tmp_path).open()
    vm = await host.wanted()

    host.hypervisor.crash(vm)
    await host.until(vm, VmState.RUNNING)

    assert host.verbs == [Verb.START, Verb.START]


@pytest.mark.parametrize("verb", [Verb.PAUSE, Verb.SAVESTATE])
async def test_what_was_done_and_never_noted_on_a_full_disk_is_undone_by_the_next_agent(
    tmp_path: Path, monkeypatch, verb
) -> None:
    host = await Kept(tmp_path).open()
    vm = await host.wanted()
    with monkeypatch.context() as patch:
        patch.setattr(durable, "replace", full_disk)
        await host.control.act(verb, vm)
    await host.keeper.close()

    after = await Kept(tmp_path, FakeHypervisor(host.hypervisor.host)).open()
    after.keeper.keep_all()
    await after.until(vm, VmState.RUNNING)

    assert after.registry.get(vm).wish is Wish.RUNNING


@pytest.mark.parametrize("verb", [Verb.PAUSE, Verb.SAVESTATE])
async def test_an_act_at_work_is_left_alone_until_it_has_noted_its_wish(tmp_path: Path, monkeypatch, verb) -> None:
    host = await Kept(tmp_path).open()
    vm = await host.wanted()
    is_noted, note = asyncio.Event(), host.control._statuses.one

    async def late(one: str) -> object:
        await is_noted.wait()
        return await note(one)

    monkeypatch.setattr(host.control._statuses, "one", late)
    monkeypatch.setattr(host.registry, "wish", lambda *_: None)
    act = asyncio.ensure_future(host.control.act(verb, vm))
    await host.until(vm, {Verb.PAUSE: VmState.PAUSED, Verb.SAVESTATE: VmState.SAVED}[verb])
    host.keeper.look_after(vm)
    await eventually(lambda: not host.keeper.at_work)

    assert host.verbs == [Verb.START]
    is_noted.set()
    await act


@pytest.mark.parametrize("driver", [Breaks, Refuses])
async def test_a_broken_vm_is_given_up_after_some_starts_with_a_reason_that_people_see(tmp_path: Path, driver) -> None:
    host = await Kept(tmp_path, driver()).open()
    vm = (await host.control.create(VmCreate(name="vm1", autostart=True), wish=Wish.RUNNING)).vm
    host.keeper.keep_all()

    reason = await host.given_up(vm)

    assert host.verbs == [Verb.START] * MOST_STARTS
    assert f"{MOST_STARTS} starts in a row came to nothing, the last: " in reason
    assert f"`volcloud vm start {vm}` tries again" in reason


async def test_a_start_that_somebody_asks_for_begins_anew(tmp_path: Path) -> None:
    hypervisor = Breaks()
    host = await Kept(tmp_path, hypervisor).open()
    vm = (await host.control.create(VmCreate(name="vm1", autostart=True), wish=Wish.RUNNING)).vm
    host.keeper.keep_all()
    await host.given_up(vm)
    hypervisor.broken = False

    host.keeper.forgive(vm)
    await host.control.act(Verb.START, vm)
    hypervisor.crash(vm)
    await host.until(vm, VmState.RUNNING)

    assert (await host.statuses.one(vm)).reason == ""


@pytest.mark.parametrize(
    "error",
    [HostDiskFull("disk full"), CallTimeout("no answer to enrol"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))],
)
async def test_what_the_vm_cannot_help_is_tried_for_as_long_as_it_takes(tmp_path: Path, error, monkeypatch) -> None:
    monkeypatch.setattr(keeper_module, "MOST_WAIT_S", 0.001)
    hypervisor = Refuses()
    hypervisor.error = error
    host = await Kept(tmp_path, hypervisor).open()
    vm = (await host.control.create(VmCreate(name="vm1", autostart=True), wish=Wish.RUNNING)).vm
    host.keeper.keep_all()
    await eventually(lambda: len(host.verbs) > 2 * MOST_STARTS)

    hypervisor.error = None
    await host.until(vm, VmState.RUNNING)


async def test_a_vm_that_dies_while_its_start_is_being_reported_is_started_again(tmp_path: Path) -> None:
    class DiesInItsReport(FakeHypervisor):
        deaths = 1

        async def facts(self, vm: str) -> VmFacts:
            if self.deaths and self.host.vms[vm].state is VmState.RUNNING:
                self.deaths -= 1
                self.crash(vm)
                raise HypervisorError("it was lost during query-status")
            return await super().facts(vm)

    host = await Kept(tmp_path, DiesInItsReport()).open()

    vm = await host.wanted()
    await eventually(lambda: len(host.verbs) == 2)

    await host.until(vm, VmState.RUNNING)


async def test_a_vm_that_cannot_be_asked_for_a_while_is_not_lost_sight_of(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeper_module, "MOST_OTHER_WAIT_S", 0.01)

    class Stutters(FakeHypervisor):
        failures = 0

        async def state(self, vm: str) -> VmState:
            if self.failures:
                self.failures -= 1
                raise HypervisorError("process.json is damaged")
            return await super().state(vm)

    hypervisor = Stutters()
    host = await Kept(tmp_path, hypervisor).open()
    vm = await host.wanted()

    hypervisor.failures = 2
    hypervisor.crash(vm)

    await host.until(vm, VmState.RUNNING)


@pytest.mark.parametrize("verb", [Verb.POWEROFF, Verb.STOP, Verb.SAVESTATE, Verb.PAUSE])
async def test_what_an_operator_decided_is_not_undone_by_the_next_agent(tmp_path: Path, verb: Verb) -> None:
    first = await Kept(tmp_path).open()
    vm = await first.wanted()
    state = (await first.control.act(verb, vm)).state
    await first.keeper.close()

    second = await Kept(tmp_path, first.hypervisor).open()
    second.keeper.keep_all()
    await eventually(lambda: not second.keeper.at_work)

    assert second.verbs == []
    assert (await second.statuses.one(vm)).state == state


async def test_a_vm_that_the_host_took_down_with_it_is_started_by_the_next_agent(tmp_path: Path) -> None:
    first = await Kept(tmp_path).open()
    vm = await first.wanted()
    await first.keeper.close()
    await first.control.poweroff_all()
    assert await first.hypervisor.state(vm) is VmState.POWEREDOFF

    second = await Kept(tmp_path, first.hypervisor).open()
    second.keeper.keep_all()

    await second.until(vm, VmState.RUNNING)
    assert second.verbs == [Verb.START]


async def test_a_vm_whose_hypervisor_died_while_it_was_being_saved_is_started_again(tmp_path: Path) -> None:
    class DiesSaving(FakeSnapshots):
        async def savestate(self, vm: str) -> None:
            hypervisor.crash(vm)
            raise HypervisorError("QEMU was lost during migrate")

    hypervisor = FakeHypervisor()
    hypervisor.capabilities = msgspec.structs.replace(hypervisor.capabilities, snapshots=DiesSaving(hypervisor.host))
    host = await Kept(tmp_path, hypervisor).open()
    vm = await host.wanted()

    with pytest.raises(HypervisorError):
        await host.control.act(Verb.SAVESTATE, vm)

    await host.until(vm, VmState.RUNNING)


async def test_a_poweroff_ends_the_waiting_for_the_next_start(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeper_module, "FIRST_WAIT_S", 300.0)
    host = await Kept(tmp_path).open()
    vm = (await host.control.create(VmCreate(name="vm1", autostart=True), wish=Wish.RUNNING)).vm
    host.keeper.keep_all()
    await eventually(lambda: vm in host.keeper._woken)

    host.keeper.forgive(vm)
    await host.control.act(Verb.POWEROFF, vm)
    await eventually(lambda: not host.keeper.at_work)

    assert host.verbs == []


async def test_any_vm_that_was_stuck_for_want_of_disk_goes_on_when_there_is_some(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeper_module, "MOST_OTHER_WAIT_S", 0.01)

    class NoDisk(FakeHypervisor):
        is_full = True

        async def facts(self, vm: str) -> VmFacts:
            return VmFacts(may_go_on=self.host.vms[vm].state is VmState.STUCK, reason="its disk has no room left")

        async def resume(self, vm: str) -> None:
            if self.is_full:
                raise HostDiskFull("its disk has no room left")
            await super().resume(vm)

    hypervisor = NoDisk()
    host = await Kept(tmp_path, hypervisor).open()
    vm = await host.vm()
    await host.control.act(Verb.START, vm)

    hypervisor.host.vms[vm].state = VmState.STUCK
    host.keeper.look_after(vm)
    await eventually(lambda: len(host.verbs) > 2)
    reason = (await host.statuses.one(vm)).reason
    hypervisor.is_full = False

    await host.until(vm, VmState.RUNNING)
    assert set(host.verbs) == {Verb.RESUME}
    assert reason == "its disk has no room left"


def test_a_long_run_makes_the_next_end_the_first_again() -> None:
    now = 0.0
    tries = Tries(lambda: now)
    for _ in range(MOST_STARTS - 1):
        tries.started()
        tries.ended("it aborted")
    tries.started()
    now += STEADY_S

    tries.ended("it aborted")

    assert (tries.count, tries.is_over) == (1, False)


def test_the_waits_grow() -> None:
    tries = Tries()

    waits = [tries.next_wait_s() for _ in range(MOST_STARTS)]

    assert waits[0] <= keeper_module.FIRST_WAIT_S
    assert sum(waits[-3:]) > 10 * sum(waits[:3])


async def test_a_wish_is_kept_in_mind_and_written_with_the_next_change_where_the_disk_is_full(
    tmp_path: Path, monkeypatch
) -> None:
    registry = VmRegistry(tmp_path / "vms.json")
    record = VmRecord(vm="vm-a", name="a", cpus=1, memory_mib=64, disk_mib=1024, wish=Wish.RUNNING)
    registry.put(record)

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_path", Path("/proc/nowhere/vms.json"))
        registry.wish("vm-a", Wish.OFF)
        in_mind = registry.get("vm-a").wish
    registry.raise_generation("vm-a")
    after = VmRegistry(tmp_path / "vms.json")
    after.load()

    assert (in_mind, after.get("vm-a").wish) == (Wish.OFF, Wish.OFF)


async def test_a_disk_that_fails_for_a_while_does_not_end_the_keeping(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(keeper_module, "MOST_OTHER_WAIT_S", 0.01)

    class Fails(FakeHypervisor):
        failures = 0

        async def state(self, vm: str) -> VmState:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO), "process.json")
            return await super().state(vm)

    hypervisor = Fails()
    host = await Kept(tmp_path, hypervisor).open()
    vm = await host.wanted()
    await eventually(lambda: not host.keeper.at_work)

    hypervisor.failures = 3
    hypervisor.crash(vm)
    await host.until(vm, VmState.RUNNING)

    assert host.verbs == [Verb.START, Verb.START]


async def test_what_nobody_foresaw_is_logged_and_the_vm_is_looked_after_at_its_next_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeHypervisor):
        is_broken = False

        async def state(self, vm: str) -> VmState:
            if self.is_broken:
                raise ZeroDivisionError("by nothing")
            return await super().state(vm)

    hypervisor = Broken()
    host = await Kept(tmp_path, hypervisor).open()
    vm = await host.wanted()
    await eventually(lambda: not host.keeper.at_work)
    hypervisor.is_broken = True
    hypervisor.crash(vm)
    await eventually(lambda: not host.keeper.at_work)
    hypervisor.is_broken = False

    host.keeper.look_after(vm)
    await host.until(vm, VmState.RUNNING)

    assert "vm not looked after until it changes again" in caplog.text


async def test_a_verb_that_is_refused_takes_nothing_from_a_vm_that_is_still_to_be_started(tmp_path: Path) -> None:
    driver = Refuses()
    driver.error = HostDiskFull("disk full")
    host = await Kept(tmp_path, driver).open()
    vm = (await host.control.create(VmCreate(name="vm1", autostart=True), wish=Wish.RUNNING)).vm
    host.keeper.keep_all()
    await eventually(lambda: host.verbs)

    host.keeper.forgive(vm)
    with pytest.raises(IllegalVerb):
        await host.control.act(Verb.PAUSE, vm)
    driver.error = None

    await host.until(vm, VmState.RUNNING)


async def test_a_restore_that_fails_and_ends_its_vm_leaves_the_choice_to_a_person(tmp_path: Path, monkeypatch) -> None:
    host = await Kept(tmp_path).open()
    vm = await host.wanted()
    await host.control.act(Verb.TAKE_SNAPSHOT, vm, More(snapshot="before"))

    async def fail(snapshots: object, one: str, name: str, seed: bytes) -> None:
        host.hypervisor.crash(one)
        raise HypervisorError("its memory is damaged")

    monkeypatch.setattr(FakeSnapshots, "restore", fail)
    with pytest.raises(HypervisorError, match="damaged"):
        await host.control.act(Verb.RESTORE_SNAPSHOT, vm, More(snapshot="before"))
    await eventually(lambda: not host.keeper.at_work)

    assert await host.hypervisor.state(vm) is VmState.ABORTED
    assert host.verbs == [Verb.START]
