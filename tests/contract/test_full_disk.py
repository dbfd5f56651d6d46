"""A host whose disk is full, for real: what cannot be made leaves nothing, what runs can be ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from host_agent.errors import HostDiskFull
from host_agent.hypervisors.process.hypervisor import ProcessHypervisor
from host_agent.vm import Verb
from tests.contract.conftest import GUEST
from tests.unit.test_control import Host


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.fixture
async def host(small_disk: Path) -> AsyncIterator[Host]:
    """A host agent's control over processes, all on the small disk."""
    driver = ProcessHypervisor(small_disk / "hypervisor", [sys.executable, "-c", GUEST])
    made = await Host(small_disk, driver).open()
    yield made
    await made.control.poweroff_all()
    await driver.close()


def fill(disk: Path) -> Path:
    filler = disk / f"filler-{len(list(disk.iterdir()))}"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free)
    return filler


async def test_a_vm_that_does_not_fit_leaves_nothing_and_can_be_made_once_there_is_room(host, small_disk):
    filler = fill(small_disk)

    with pytest.raises(
        HostDiskFull, match=rf"cannot make vm1: {small_disk}/vms\.json: No space left on device; free some"
    ):
        await host.vm()
    left = (host.registry.all(), await host.hypervisor.list())
    filler.unlink()

    assert left == ([], [])
    assert (await host.statuses.one(await host.vm())).state == "poweredoff"


async def test_a_running_vm_is_powered_off_and_deleted_on_a_full_disk(host, small_disk):
    vm = await host.vm()
    await host.control.act(Verb.START, vm)
    fill(small_disk)

    off = await host.control.act(Verb.POWEROFF, vm)
    fill(small_disk)
    with pytest.raises(HostDiskFull, match=str(small_disk)):
        await host.control.act(Verb.START, vm)

    assert off.state == "poweredoff"
    assert (await host.statuses.one(vm)).state == "poweredoff"
