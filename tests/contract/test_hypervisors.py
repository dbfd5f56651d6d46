"""One contract, every driver: what ``host_agent.hypervisors.contract`` promises, promise by promise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from host_agent.errors import HypervisorError, StopTimedOut
from host_agent.hypervisors.contract import Hypervisor
from host_agent.verbs import can
from host_agent.vm import Verb
from schemas.vms import VmState
from tests.contract.conftest import seeds_of, snapshots_of, used_by

Eventually = Callable[..., Awaitable[None]]
SEED = b"\x81\xa1a\x01"


async def running(rig: Any, vm: str = "vm-a", driver: Hypervisor | None = None) -> Hypervisor:
    """A driver with one VM that runs."""
    driver = await rig.open(driver)
    await driver.create(rig.spec(vm))
    await driver.start(vm, SEED)
    return driver


async def bring_to(rig: Any, driver: Hypervisor, state: VmState, eventually: Eventually) -> None:
    """Bring the running VM ``vm-a`` to a state."""
    if state is VmState.PAUSED:
        await driver.pause("vm-a")
    elif state is VmState.POWEREDOFF:
        await driver.poweroff("vm-a")
    elif state is VmState.SAVED:
        await snapshots_of(driver).savestate("vm-a")
    elif state is VmState.ABORTED:
        await rig.crash(driver, "vm-a")
        await eventually(lambda: rig.told)
    assert await driver.state("vm-a") is state


def needs(driver: Hypervisor, verb: Verb) -> None:
    if not can(driver.capabilities, verb):
        pytest.skip(f"{driver.name} cannot {verb}, and says so")


async def test_a_fresh_host_has_no_vms(rig):
    driver = await rig.open()

    assert await driver.list() == []
    assert await driver.state("vm-a") is VmState.ABSENT


async def test_every_driver_can_do_the_whole_life_but_for_what_it_declares(rig):
    optional = {Verb.SAVESTATE, Verb.DISCARD, Verb.PAUSE, Verb.RESUME}
    optional |= {Verb.TAKE_SNAPSHOT, Verb.RESTORE_SNAPSHOT, Verb.DELETE_SNAPSHOT}

    assert set(Verb) - optional <= {verb for verb in Verb if can(rig.make().capabilities, verb)}


async def test_created_vms_are_powered_off_and_listed_in_order_of_creation(rig):
    driver = await rig.open()

    for vm in ("vm-b", "vm-a", "vm-c"):
        await driver.create(rig.spec(vm))

    assert await driver.list() == ["vm-b", "vm-a", "vm-c"]
    assert await driver.state("vm-a") is VmState.POWEREDOFF
    assert (await driver.facts("vm-a")).pid is None


async def test_creating_a_vm_twice_is_refused_and_harms_nothing(rig):
    driver = await running(rig)

    with pytest.raises(HypervisorError):
        await driver.create(rig.spec("vm-a"))

    assert await driver.state("vm-a") is VmState.RUNNING


async def test_a_started_vm_runs_and_has_facts(rig):
    driver = await running(rig)

    facts = await driver.facts("vm-a")

    assert await driver.state("vm-a") is VmState.RUNNING
    assert facts.pid
    assert facts.accelerator in ("kvm", "tcg", "none", "memory")
    used = await used_by(driver, "vm-a")
    assert used.cpu_seconds is not None
    assert used.resident_bytes is not None


async def test_pause_freezes_and_resume_goes_on(rig):
    driver = await running(rig)

    await driver.pause("vm-a")
    paused = await driver.state("vm-a")
    await driver.resume("vm-a")

    assert (paused, await driver.state("vm-a")) == (VmState.PAUSED, VmState.RUNNING)
    assert rig.told == []


async def test_a_paused_vm_uses_no_cpu(rig, eventually):
    driver = await running(rig)
    await driver.pause("vm-a")

    before = (await used_by(driver, "vm-a")).cpu_seconds
    for _ in range(50):
        await driver.state("vm-a")
    after = (await used_by(driver, "vm-a")).cpu_seconds

    # QEMU itself spends a little on being asked.
    assert after - before < 0.1


async def test_reset_runs_again_and_is_no_news(rig):
    driver = await running(rig)

    await driver.reset("vm-a", SEED)

    assert await driver.state("vm-a") is VmState.RUNNING
    assert rig.told == []


async def test_a_paused_vm_can_be_reset(rig):
    driver = await running(rig)
    await driver.pause("vm-a")

    await driver.reset("vm-a", SEED)

    assert await driver.state("vm-a") is VmState.RUNNING


async def test_stop_lets_the_guest_shut_down_and_is_no_news(rig):
    driver = await running(rig)

    await driver.stop("vm-a", rig.stop_timeout_s)

    assert await driver.state("vm-a") is VmState.POWEREDOFF
    assert rig.processes("vm-a") == set()
    assert rig.told == []


async def test_a_guest_that_does_not_stop_in_time_goes_on_running(rig):
    driver = await running(rig, driver=rig.make_deaf())
    await rig.guest_is_up("vm-a")

    with pytest.raises(StopTimedOut):
        await driver.stop("vm-a", 0.3)

    assert await driver.state("vm-a") is VmState.RUNNING
    await driver.poweroff("vm-a")
    assert await driver.state("vm-a") is VmState.POWEREDOFF


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED, VmState.POWEREDOFF, VmState.ABORTED])
async def test_poweroff_works_from_every_state_and_leaves_no_process(rig, state, eventually):
    driver = await running(rig)
    await bring_to(rig, driver, state, eventually)
    told = list(rig.told)

    await driver.poweroff("vm-a")
    await driver.poweroff("vm-a")

    assert await driver.state("vm-a") is VmState.POWEREDOFF
    assert rig.processes("vm-a") == set()
    assert rig.told == told


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED])
async def test_a_saved_vm_has_no_process_and_starts_where_it_was(rig, state, eventually):
    driver = await running(rig)
    needs(driver, Verb.SAVESTATE)
    await bring_to(rig, driver, state, eventually)

    await snapshots_of(driver).savestate("vm-a")

    assert await driver.state("vm-a") is VmState.SAVED
    assert rig.processes("vm-a") == set()
    await driver.start("vm-a", SEED)
    assert await driver.state("vm-a") is VmState.RUNNING
    assert rig.told == []


async def test_poweroff_keeps_a_saved_state(rig):
    driver = await running(rig)
    needs(driver, Verb.SAVESTATE)
    await snapshots_of(driver).savestate("vm-a")

    await driver.poweroff("vm-a")

    assert await driver.state("vm-a") is VmState.SAVED


async def test_a_vm_can_be_saved_again_after_it_was_restored(rig):
    driver = await running(rig)
    needs(driver, Verb.SAVESTATE)

    for _ in range(2):
        await snapshots_of(driver).savestate("vm-a")
        await driver.start("vm-a", SEED)

    assert await driver.state("vm-a") is VmState.RUNNING


async def test_the_verbs_of_snapshots_are_those_of_the_port_and_whoever_has_none_says_why(rig):
    capabilities = rig.make().capabilities

    can_save = can(capabilities, Verb.SAVESTATE) and can(capabilities, Verb.DISCARD)

    assert can_save is (capabilities.snapshots is not None)
    assert can_save or "no saved state" in capabilities.notes


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED])
async def test_a_vm_is_as_it_was_after_its_snapshot_is_taken_and_after_it_is_restored(rig, state, eventually):
    driver = await running(rig)
    needs(driver, Verb.TAKE_SNAPSHOT)
    await bring_to(rig, driver, state, eventually)

    await snapshots_of(driver).take("vm-a", "s1")
    taken = await driver.state("vm-a")
    await driver.poweroff("vm-a")
    await snapshots_of(driver).restore("vm-a", "s1", SEED)

    assert (taken, await driver.state("vm-a")) == (state, state)
    assert [(one.name, one.state) for one in await snapshots_of(driver).list("vm-a")] == [("s1", state)]
    assert rig.told == []


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED, VmState.POWEREDOFF, VmState.SAVED, VmState.ABORTED])
async def test_a_snapshot_is_restored_from_whatever_state_and_as_often_as_one_likes(rig, state, eventually):
    driver = await running(rig)
    needs(driver, Verb.RESTORE_SNAPSHOT)
    await snapshots_of(driver).take("vm-a", "s1")
    await bring_to(rig, driver, state, eventually)
    told = list(rig.told)

    for _ in range(2):
        await snapshots_of(driver).restore("vm-a", "s1", SEED)

    assert await driver.state("vm-a") is VmState.RUNNING
    assert rig.told == told
    await driver.poweroff("vm-a")
    assert await driver.state("vm-a") is VmState.POWEREDOFF
    assert rig.processes("vm-a") == set()


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.POWEREDOFF])
async def test_a_snapshot_is_deleted_in_whatever_state_and_again(rig, state, eventually):
    driver = await running(rig)
    needs(driver, Verb.DELETE_SNAPSHOT)
    before = rig.files()
    for name in ("s1", "s2"):
        await snapshots_of(driver).take("vm-a", name)
    await bring_to(rig, driver, state, eventually)

    for name in ("s1", "s1", "s2"):
        await snapshots_of(driver).delete("vm-a", name)

    assert await snapshots_of(driver).list("vm-a") == []
    assert await driver.state("vm-a") is state
    assert {Path(path).suffix for path in set(rig.files()) - set(before)} <= {"", ".json"}


async def test_a_snapshot_that_is_not_there_is_not_restored_and_harms_nothing(rig):
    driver = await running(rig)
    needs(driver, Verb.RESTORE_SNAPSHOT)

    with pytest.raises(HypervisorError, match="s1"):
        await snapshots_of(driver).restore("vm-a", "s1", SEED)

    assert await driver.state("vm-a") is VmState.RUNNING


async def test_the_next_agent_finds_the_snapshots_and_the_vm_goes_with_them(rig):
    first = await running(rig)
    needs(first, Verb.TAKE_SNAPSHOT)
    await snapshots_of(first).take("vm-a", "s1")
    await first.close()
    second = await rig.open()

    found = [one.name for one in await snapshots_of(second).list("vm-a")]
    await snapshots_of(second).restore("vm-a", "s1", SEED)
    await second.poweroff("vm-a")
    await second.delete("vm-a")

    assert found == ["s1"]
    assert rig.files() == []


async def test_a_vm_that_dies_is_aborted_and_the_listener_hears_it_once(rig, eventually):
    driver = await running(rig)

    await rig.crash(driver, "vm-a")
    await eventually(lambda: rig.told)

    assert rig.told == [("vm-a", VmState.ABORTED)]
    assert await driver.state("vm-a") is VmState.ABORTED
    assert rig.processes("vm-a") == set()


async def test_an_aborted_vm_starts_again(rig, eventually):
    driver = await running(rig)
    await bring_to(rig, driver, VmState.ABORTED, eventually)

    await driver.start("vm-a", SEED)

    assert await driver.state("vm-a") is VmState.RUNNING


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED, VmState.POWEREDOFF, VmState.SAVED])
async def test_the_next_agent_finds_the_vm_as_the_last_one_left_it(rig, state, eventually):
    first = await running(rig)
    if state is VmState.SAVED:
        needs(first, Verb.SAVESTATE)
    await bring_to(rig, first, state, eventually)
    pid = (await first.facts("vm-a")).pid
    await first.close()

    second = await rig.open()

    assert await second.list() == ["vm-a"]
    assert await second.state("vm-a") is state
    assert (await second.facts("vm-a")).pid == pid


async def test_an_adopted_vm_obeys_every_verb(rig):
    first = await running(rig)
    await first.close()
    second = await rig.open()

    await second.pause("vm-a")
    await second.resume("vm-a")
    await seeds_of(second).offer("vm-a", b"newer")
    await second.stop("vm-a", rig.stop_timeout_s)

    assert await second.state("vm-a") is VmState.POWEREDOFF
    assert rig.told == []


async def test_a_vm_that_died_while_no_agent_watched_is_aborted(rig, eventually):
    first = await running(rig)
    await first.close()
    await rig.crash(first, "vm-a")
    second = await rig.open()

    assert await second.state("vm-a") is VmState.ABORTED
    assert rig.processes("vm-a") == set()
    assert rig.told == []


async def test_an_adopted_vm_that_dies_is_aborted_and_the_listener_hears_it(rig, eventually):
    first = await running(rig)
    await first.close()
    second = await rig.open()

    await rig.crash(second, "vm-a")
    await eventually(lambda: rig.told)

    assert rig.told == [("vm-a", VmState.ABORTED)]


async def test_opening_and_closing_twice_changes_nothing(rig):
    driver = await running(rig)
    await rig.open(driver)
    opened_twice = await driver.state("vm-a")

    await driver.close()
    await driver.close()

    assert opened_twice is VmState.RUNNING
    assert await (await rig.open()).state("vm-a") is VmState.RUNNING


async def test_delete_leaves_nothing_and_succeeds_again(rig):
    driver = await running(rig)
    await driver.poweroff("vm-a")

    await driver.delete("vm-a")
    await driver.delete("vm-a")

    assert await driver.state("vm-a") is VmState.ABSENT
    assert await driver.list() == []
    assert rig.files() == []


async def test_a_running_vm_is_not_deleted(rig):
    driver = await running(rig)

    with pytest.raises(HypervisorError, match="power it off"):
        await driver.delete("vm-a")

    assert await driver.state("vm-a") is VmState.RUNNING


async def test_a_vm_that_is_gone_can_be_ended_and_deleted_but_not_started(rig):
    driver = await rig.open()

    await driver.poweroff("vm-a")
    await driver.delete("vm-a")
    with pytest.raises(HypervisorError):
        await driver.start("vm-a", SEED)

    assert await driver.list() == []
    assert (await driver.facts("vm-a")).pid is None


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED, VmState.POWEREDOFF])
async def test_a_seed_is_taken_in_any_state_and_changes_none(rig, state, eventually):
    driver = await running(rig)
    await bring_to(rig, driver, state, eventually)

    await seeds_of(driver).offer("vm-a", b"newer")

    assert await driver.state("vm-a") is state


async def test_two_vms_do_not_disturb_each_other(rig):
    driver = await running(rig)
    await driver.create(rig.spec("vm-b"))
    await driver.start("vm-b", SEED)

    await driver.poweroff("vm-a")

    assert await driver.state("vm-b") is VmState.RUNNING
    assert rig.told == []


async def test_what_was_left_half_made_is_removed_by_the_next_agent(rig):
    if not rig.keeps_directories:
        pytest.skip("memory has no halves")
    driver = await running(rig)
    root = next(rig.directory.rglob("vm.json")).parent.parent
    (root / ".half-vm-x" / "deep").mkdir(parents=True)

    await driver.close()
    await rig.open()

    assert not (root / ".half-vm-x").exists()


async def test_a_vm_of_someone_else_is_never_touched(rig):
    if not rig.keeps_directories:
        pytest.skip("memory is nobody else's")
    driver = await rig.open()
    await driver.create(rig.spec("vm-a"))
    foreign = next(rig.directory.rglob("vm.json")).parent.parent / "vm-foreign"
    foreign.mkdir()
    (foreign / "disk").write_text("precious")

    await driver.delete("vm-foreign")

    assert await driver.list() == ["vm-a"]
    assert (foreign / "disk").read_text() == "precious"
