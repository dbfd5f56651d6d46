"""Places and files that people and crashes make: a directory whose path is longer than a socket's may be, an image of
another digest, a seed that is cut off. Each works, or is refused with field, value and next step; nothing is half-made.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from host_agent.errors import HypervisorError, ImageError
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from host_agent.hypervisors.kept_boots import ask
from host_agent.hypervisors.qemu.command import SEED_FILE
from host_agent.hypervisors.qemu.files import QemuFiles
from host_agent.images import ImageStore
from host_agent.making import VmMaking
from host_agent.registry import VmRegistry
from host_agent.vm import Wish
from schemas.vms import VmCreate, VmState
from tests.contract.conftest import ProcessRig, QemuRig, Rig, snapshots_of
from tests.contract.test_hypervisors import SEED, running
from tests.contract.test_looks import counted, log_of

#: A unix socket's path may have 107 bytes.
LONG = 120


def long_directory(tmp_path: Path) -> Path:
    made = tmp_path / ("d" * LONG)
    made.mkdir()
    return made


async def whole_life(rig: Rig) -> None:
    driver = await running(rig)
    await driver.pause("vm-a")
    await driver.resume("vm-a")
    found = (await counted(driver)).counters
    assert found.life
    assert found.block_read_bytes is not None
    ask(log_of(driver), "", 0, 10)
    if driver.capabilities.screenshots is not None:
        assert await driver.capabilities.screenshots.take("vm-a")
    if driver.capabilities.snapshots is not None:
        await snapshots_of(driver).savestate("vm-a")
        await driver.start("vm-a", SEED)
    await driver.close()
    after = await rig.open()
    assert await after.state("vm-a") is VmState.RUNNING
    await after.poweroff("vm-a")
    await after.delete("vm-a")
    assert rig.files() == []


async def test_the_process_driver_lives_in_a_directory_with_a_path_longer_than_a_sockets(tmp_path: Path) -> None:
    rig = ProcessRig(long_directory(tmp_path))
    await whole_life(rig)
    await rig.clean_up()


@pytest.mark.qemu
async def test_the_qemu_driver_lives_in_a_directory_with_a_path_longer_than_a_sockets(
    tmp_path: Path, guest_image: Any
) -> None:
    rig = QemuRig(long_directory(tmp_path), guest_image)
    await whole_life(rig)
    await rig.clean_up()


def test_an_agent_in_such_a_directory_answers_at_its_door(tmp_path: Path) -> None:
    directory = long_directory(tmp_path)
    credential = {"endpoints": [{"host": "127.0.0.1", "port": 1}], "user": "host-a", "password": "x"}
    (directory / "host.json").write_text(json.dumps(credential))
    (directory / "host.json").chmod(0o600)
    config = directory / "host_agent.toml"
    config.write_text(
        f'credential = "{directory}/host.json"\ndirectory = "{directory}"\nhypervisor = {{ kind = "fake" }}\n'
    )

    command = [sys.executable, "-m", "host_agent.main", "--config", str(config), "--poweroff-all"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


async def test_an_image_of_another_digest_is_refused_and_no_vm_is_half_made(tmp_path: Path) -> None:
    driver = FakeHypervisor()
    driver.capabilities = msgspec.structs.replace(driver.capabilities, needs_image=True)
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(b"QFI\xfb" + b"x" * 1000)
    store = ImageStore(tmp_path / "images", None)
    image = store.add(disk)
    changed = next(path for path in (tmp_path / "images").rglob("*") if path.is_file() and path.stat().st_size == 1004)
    changed.chmod(0o600)
    changed.write_bytes(b"QFI\xfb" + b"y" * 1000)
    registry = VmRegistry(tmp_path / "vms.json")
    registry.load()
    nobody: Any = type("Nobody", (), {"named": lambda self, name: None})()
    making = VmMaking(driver, registry, nobody, ImageStore(tmp_path / "images", None), image, tmp_path / "c", "host-a")

    with pytest.raises(ImageError, match=image[:8]):
        await making.make(VmCreate(name="a"), Wish.OFF)

    assert (await driver.list(), registry.all()) == ([], [])


def test_a_seed_that_is_cut_off_is_told_with_its_file_and_both_sizes_and_what_is_told_helps(
    tmp_path: Path,
) -> None:
    files = QemuFiles(tmp_path, "qemu")
    (tmp_path / "vm-a").mkdir()
    files.write_seed("vm-a", SEED)
    path = tmp_path / "vm-a" / SEED_FILE
    # A multiple of what base64 takes at a time: what is left decodes, to less.
    path.write_bytes(path.read_bytes()[:4])

    with pytest.raises(HypervisorError) as caught:
        files.read_seed("vm-a")
    path.unlink()

    assert str(caught.value) == (f"{path} is damaged: 4 bytes of 8192; remove it, and the next start writes it anew")
    assert files.read_seed("vm-a") is None
    files.write_seed("vm-a", SEED)
    assert files.read_seed("vm-a") == SEED
