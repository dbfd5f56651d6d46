"""The driver ``process``, beyond what every driver promises: payloads, secrets, others' VMs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from schemas.vms import VmState
from tests.contract.test_hypervisors import SEED, bring_to, running


async def test_a_vm_of_the_same_name_in_another_directory_is_never_touched(process_rig, tmp_path_factory):
    driver = await running(process_rig)
    other = type(process_rig)(tmp_path_factory.mktemp("other"))
    theirs = await running(other)

    await driver.poweroff("vm-a")

    assert await theirs.state("vm-a") is VmState.RUNNING
    await other.clean_up()


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED])
async def test_poweroff_finds_payloads_in_sessions_of_their_own(process_rig, state, eventually):
    driver = await running(process_rig)
    await process_rig.guest_is_up("vm-a")
    await bring_to(process_rig, driver, state, eventually)

    await driver.poweroff("vm-a")

    assert process_rig.processes("vm-a") == set()


async def test_a_payload_dies_with_its_guest_agent(process_rig, eventually):
    driver = await running(process_rig)
    await process_rig.guest_is_up("vm-a")

    await process_rig.crash(driver, "vm-a")
    await eventually(lambda: process_rig.told)

    assert process_rig.processes("vm-a") == set()


async def test_a_process_inherits_no_secret_and_its_seed_is_private(process_rig, monkeypatch):
    monkeypatch.setenv("BROKER_PASSWORD", "secret")
    driver = await running(process_rig)

    pid = (await driver.facts("vm-a")).pid
    environment = await asyncio.to_thread(Path(f"/proc/{pid}/environ").read_bytes)
    seed = process_rig.directory / "vm-a" / "seed"

    assert b"secret" not in environment
    assert seed.read_bytes() == SEED
    assert seed.stat().st_mode & 0o077 == 0
