"""A host's limits: what is beyond them is refused with both numbers, what is there is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.daemon.config import read_config
from broker.errors import ConfigError
from host_agent.config import HostConfig, Limits
from host_agent.control import VmControl
from host_agent.errors import HypervisorError, OverLimit
from host_agent.hypervisors.contract import VmSpec
from host_agent.hypervisors.fake.host import FakeHost
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from host_agent.images import ImageStore
from host_agent.making import VmMaking
from host_agent.seeding import BrokerLogins, GuestSettings, Seeding
from host_agent.verbs import More
from host_agent.vm import Verb, Wish
from schemas.vms import VmCreate, VmState
from tests.unit.test_control import BROKER, Host
from volcloud.centre.toml_text import render_toml


async def host_with(directory: Path, limits: Limits, hypervisor: FakeHypervisor | None = None) -> Host:
    host = Host(directory, hypervisor)
    seeding = Seeding(
        host.hypervisor, host.registry, GuestSettings(0, {}), BrokerLogins(host.hypervisor, BROKER, host.grant)
    )
    images = ImageStore(directory / "images", frozenset())
    making = VmMaking(
        host.hypervisor, host.registry, host.aside, images, "", directory / "credential.json", BROKER.user
    )
    host.control = VmControl(host.hypervisor, host.registry, host.aside, making, seeding, host.statuses, limits)
    return await host.open()


def wanted(name: str, *, cpus: int = 1, memory_mib: int = 1024, disk_mib: int = 2048) -> VmCreate:
    return VmCreate(name=name, cpus=cpus, memory_mib=memory_mib, disk_mib=disk_mib)


async def test_what_is_beyond_a_limit_is_refused_with_every_field_and_both_numbers(tmp_path: Path) -> None:
    host = await host_with(tmp_path, Limits(cpus=2, memory_mib=2048, disk_mib=3000, vms=1))
    await host.control.create(wanted("a"))

    with pytest.raises(OverLimit) as caught:
        await host.control.create(wanted("b", cpus=3, memory_mib=4096))

    assert str(caught.value) == (
        "cpus = 3: this host has 2 left of 2; memory_mib = 4096: this host has 2048 left of 2048; "
        "disk_mib = 2048: this host has 952 left of 3000; vms = 1: this host has 0 left of 1"
    )
    assert [record.name for record in host.registry.all()] == ["a"]
    assert len(await host.hypervisor.list()) == 1


async def test_the_same_vm_again_needs_no_room(tmp_path: Path) -> None:
    host = await host_with(tmp_path, Limits(vms=1))

    first = await host.control.create(wanted("a"))

    assert (await host.control.create(wanted("a"))).vm == first.vm


async def test_more_may_be_made_than_may_run_and_what_ends_leaves_room(tmp_path: Path) -> None:
    host = await host_with(tmp_path, Limits(memory_mib=2048))
    a, b, c = [(await host.control.create(wanted(name))).vm for name in "abc"]
    await host.control.act(Verb.START, a)
    await host.control.act(Verb.START, b)
    await host.control.act(Verb.PAUSE, b)

    with pytest.raises(OverLimit, match="memory_mib = 1024: this host has 0 left of 2048"):
        await host.control.act(Verb.START, c)
    refused = host.registry.get(c).wish
    await host.control.act(Verb.SAVESTATE, a)
    await host.control.act(Verb.START, c)

    # Nobody starts it later by itself: it was refused.
    assert refused is Wish.OFF
    assert await host.hypervisor.state(c) is VmState.RUNNING
    with pytest.raises(OverLimit):
        await host.control.act(Verb.START, a)


async def test_a_vm_that_runs_may_be_reset_and_started_again_with_no_room_left(tmp_path: Path) -> None:
    host = await host_with(tmp_path, Limits(cpus=1))
    vm = (await host.control.create(wanted("a"))).vm
    await host.control.act(Verb.START, vm)

    await host.control.act(Verb.RESET, vm)
    await host.control.act(Verb.PAUSE, vm)
    await host.control.act(Verb.RESUME, vm)
    await host.control.act(Verb.START, vm)

    assert await host.hypervisor.state(vm) is VmState.RUNNING


async def test_saved_states_and_snapshots_take_room_on_the_disk(tmp_path: Path) -> None:
    host = await host_with(tmp_path, Limits(disk_mib=5000))
    vm = (await host.control.create(wanted("a"))).vm
    await host.control.act(Verb.START, vm)
    await host.control.act(Verb.TAKE_SNAPSHOT, vm, More(snapshot="s1"))

    with pytest.raises(OverLimit, match="disk_mib = 2048: this host has 1928 left of 5000"):
        await host.control.create(wanted("b"))
    await host.control.act(Verb.SAVESTATE, vm)
    await host.control.act(Verb.START, vm)
    await host.control.act(Verb.TAKE_SNAPSHOT, vm, More(snapshot="s2"))
    for verb, more in ((Verb.SAVESTATE, More()), (Verb.TAKE_SNAPSHOT, More(snapshot="s3"))):
        with pytest.raises(OverLimit, match=r"memory of .* is to be kept .*: disk_mib = 1024: this host has 904 left"):
            await host.control.act(verb, vm, more)
    state = await host.hypervisor.state(vm)
    await host.control.act(Verb.DELETE_SNAPSHOT, vm, More(snapshot="s1"))
    await host.control.act(Verb.SAVESTATE, vm)

    assert state is VmState.RUNNING
    assert await host.hypervisor.state(vm) is VmState.SAVED


class Slow(FakeHypervisor):
    """Starts and makes when it is let."""

    def __init__(self, host: FakeHost | None = None) -> None:
        super().__init__(host)
        self.may_go_on = asyncio.Event()

    async def create(self, spec: VmSpec) -> None:
        await self.may_go_on.wait()
        await super().create(spec)

    async def start(self, vm: str, seed: bytes) -> None:
        await self.may_go_on.wait()
        await super().start(vm, seed)


async def test_of_many_that_are_made_and_started_at_once_only_so_many_are_as_there_is_room(tmp_path: Path) -> None:
    driver = Slow()
    host = await host_with(tmp_path, Limits(vms=3, cpus=2), driver)

    made = [asyncio.ensure_future(host.control.create(wanted(f"a{n}"))) for n in range(8)]
    await asyncio.sleep(0)
    driver.may_go_on.set()
    found = await asyncio.gather(*made, return_exceptions=True)
    driver.may_go_on.clear()
    vms = [record.vm for record in host.registry.all()]
    starts = [asyncio.ensure_future(host.control.act(Verb.START, vm)) for vm in vms]
    await asyncio.sleep(0)
    driver.may_go_on.set()
    started = await asyncio.gather(*starts, return_exceptions=True)

    assert [isinstance(one, OverLimit) for one in found].count(True) == 5
    assert [isinstance(one, OverLimit) for one in started].count(True) == 1, started
    assert [await driver.state(vm) for vm in vms].count(VmState.RUNNING) == 2


class FailsToStart(FakeHypervisor):
    """A start fails."""

    async def start(self, vm: str, seed: bytes) -> None:
        raise HypervisorError("no")


async def test_a_start_that_failed_takes_no_room(tmp_path: Path) -> None:
    host = await host_with(tmp_path, Limits(cpus=1), FailsToStart())
    vm = (await host.control.create(wanted("a"))).vm

    for _ in range(3):
        with pytest.raises(HypervisorError, match="no"):
            await host.control.act(Verb.START, vm)


async def test_what_a_hypervisor_does_not_tell_counts_as_it_told_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await host_with(tmp_path, Limits(disk_mib=8000))
    vm = (await host.control.create(wanted("a"))).vm
    await host.control.act(Verb.START, vm, More())
    for name in ("s1", "s2"):
        await host.control.act(Verb.TAKE_SNAPSHOT, vm, More(snapshot=name))
    snapshots = host.hypervisor.capabilities.snapshots
    assert snapshots is not None

    async def hang(vm: str) -> int:
        raise HypervisorError("its disk hangs")

    with pytest.raises(OverLimit, match="disk_mib = 7000: this host has 3904 left of 8000"):
        await host.control.create(wanted("b", disk_mib=7000))
    monkeypatch.setattr(snapshots, "kept_bytes", hang)
    with pytest.raises(OverLimit, match="disk_mib = 7000: this host has 3904 left of 8000"):
        await host.control.create(wanted("b", disk_mib=7000))


async def test_a_host_that_is_over_its_limits_keeps_what_runs(tmp_path: Path) -> None:
    driver = FakeHypervisor()
    before = await host_with(tmp_path, Limits(), driver)
    vms = [(await before.control.create(wanted(name))).vm for name in "ab"]
    for vm in vms:
        await before.control.act(Verb.START, vm)
    await before.control.act(Verb.TAKE_SNAPSHOT, vms[0], More(snapshot="before"))

    after = await host_with(tmp_path, Limits(cpus=1, memory_mib=512, disk_mib=0, vms=0), FakeHypervisor(driver.host))

    assert [await after.hypervisor.state(vm) for vm in vms] == [VmState.RUNNING] * 2
    await after.control.act(Verb.RESET, vms[0])
    with pytest.raises(OverLimit, match="disk_mib = 1024: this host has 0 left of 0"):
        await after.control.act(Verb.TAKE_SNAPSHOT, vms[0], More(snapshot="after"))
    await after.control.act(Verb.RESTORE_SNAPSHOT, vms[0], More(snapshot="before"))
    await after.control.act(Verb.POWEROFF, vms[0])
    with pytest.raises(OverLimit, match="cpus = 1: this host has 0 left of 1; memory_mib = 1024"):
        await after.control.act(Verb.START, vms[0])


async def test_vms_that_were_set_aside_count_too(tmp_path: Path) -> None:
    driver = FakeHypervisor()
    before = await host_with(tmp_path, Limits(), driver)
    vm = (await before.control.create(wanted("a"))).vm
    await before.control.act(Verb.START, vm)
    (tmp_path / "vms.json").unlink()

    after = await host_with(tmp_path, Limits(cpus=1, vms=2), FakeHypervisor(driver.host))
    other = (await after.control.create(wanted("b"))).vm

    with pytest.raises(OverLimit, match="vms = 1: this host has 0 left of 2"):
        await after.control.create(wanted("c"))
    with pytest.raises(OverLimit, match="cpus = 1: this host has 0 left of 1"):
        await after.control.act(Verb.START, other)


def test_limits_are_read_from_the_settings_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "host_agent.toml"
    config = HostConfig(credential="c", directory="d", limits=Limits(memory_mib=8192))
    path.write_text(render_toml(config))
    assert read_config(path, HostConfig) == config

    path.write_text('credential = "c"\ndirectory = "d"\nlimits.vms = -1\n')
    with pytest.raises(ConfigError, match="vms"):
        read_config(path, HostConfig)
