"""The drivers under contract, each on a rig that knows how to make, break and inspect its VMs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from broker.daemon.process_stat import read_stat
from deploy.image.build import Request, build
from host_agent.hypervisors.contract import Hypervisor, ImageFiles, Roads, SeedMedium, Snapshots, VmSpec, VmStatistics
from host_agent.hypervisors.detached import find_tree
from host_agent.hypervisors.fake.host import FakeHost
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor, NeverStops
from host_agent.hypervisors.process.files import INPUTS
from host_agent.hypervisors.process.hypervisor import ProcessHypervisor
from host_agent.hypervisors.qemu.command import INPUT_DRIVE
from host_agent.hypervisors.qemu.hypervisor import QemuHypervisor
from host_agent.images import ImageStore
from schemas.vms import VmState

CACHE = Path(__file__).parents[2] / ".cache" / "guest-image"

#: A guest agent that does nothing, ends when asked, and has a payload in a session of its own.
GUEST = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""
DEAF_GUEST = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + GUEST


def snapshots_of(driver: Hypervisor) -> Snapshots:
    """The driver's port, which it must have."""
    assert driver.capabilities.snapshots is not None
    return driver.capabilities.snapshots


def seeds_of(driver: Hypervisor) -> SeedMedium:
    """The driver's port, which it must have."""
    assert driver.capabilities.seed_medium is not None
    return driver.capabilities.seed_medium


def roads_of(driver: Hypervisor) -> Roads:
    """The driver's port, which it must have."""
    assert driver.capabilities.roads is not None
    return driver.capabilities.roads


async def used_by(driver: Hypervisor, vm: str) -> VmStatistics:
    """What a VM uses, by the driver's port, which it must have."""
    assert driver.capabilities.statistics is not None
    return await driver.capabilities.statistics.of(vm)


class Rig:
    """One driver's world. Every driver that it makes stands for an agent started anew on the same host."""

    #: The driver keeps each VM in a directory of its own, with a marker in it.
    keeps_directories = True
    #: How long a guest may take to shut down.
    stop_timeout_s = 5.0

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.told: list[tuple[str, VmState]] = []
        self.drivers: list[Hypervisor] = []

    def make(self) -> Hypervisor:
        raise NotImplementedError

    def make_deaf(self) -> Hypervisor:
        """A driver whose guests do not obey ``stop``."""
        raise NotImplementedError

    def spec(self, vm: str) -> VmSpec:
        return VmSpec(
            id=vm,
            name=vm,
            cpus=1,
            memory_mib=256,
            disk_mib=2048,
            image=None,
            broker=self.broker_at(5672),
        )

    def broker_at(self, port: int) -> str:
        """Give a file that says that the broker is there."""
        path = self.directory / f"broker-{port}.json"
        path.write_text(json.dumps({"endpoints": [{"host": "127.0.0.1", "port": port}]}))
        return str(path)

    async def open(self, driver: Hypervisor | None = None) -> Hypervisor:
        driver = driver or self.make()
        self.drivers.append(driver)
        await driver.open(lambda vm, state: self.told.append((vm, state)))
        return driver

    async def crash(self, driver: Hypervisor, vm: str) -> None:
        """Kill the process that is the VM, as a crash or an impatient user does."""
        pid = (await driver.facts(vm)).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: (stat := read_stat(pid)) is None or stat.run_state == "Z")

    async def guest_is_up(self, vm: str) -> None:
        """Wait until the guest's program has begun, where a test depends on it."""

    async def shown(self, driver: Hypervisor, vm: str) -> bool:
        """Say whether a VM is shown a file, by a driver that has a medium for inputs."""
        raise NotImplementedError

    def processes(self, vm: str) -> set[int]:
        return find_tree(self.home(vm), None)

    def home(self, vm: str) -> Path:
        """Where the driver keeps a VM."""
        return self.directory / vm

    def files(self) -> list[str]:
        return sorted(str(path) for path in self.directory.rglob("*") if "vm-" in str(path))

    async def clean_up(self) -> None:
        """Leave no VM behind, whatever the test did."""
        for driver in self.drivers:
            await driver.close()
        last = await self.open()
        for vm in await last.list():
            await last.poweroff(vm)
        await last.close()


class FakeRig(Rig):
    keeps_directories = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.host = FakeHost()

    def make(self) -> FakeHypervisor:
        return FakeHypervisor(self.host)

    def make_deaf(self) -> FakeHypervisor:
        return NeverStops(self.host)

    async def crash(self, driver: Hypervisor, vm: str) -> None:
        assert isinstance(driver, FakeHypervisor)
        driver.crash(vm)


class ProcessRig(Rig):
    async def guest_is_up(self, vm: str) -> None:
        # The guest agent and its payload.
        await eventually(lambda: len(self.processes(vm)) == 2)

    async def shown(self, driver: Hypervisor, vm: str) -> bool:
        return any((self.home(vm) / "state" / INPUTS).glob("*"))

    def make(self) -> ProcessHypervisor:
        return ProcessHypervisor(self.directory, [sys.executable, "-c", GUEST])

    def make_deaf(self) -> ProcessHypervisor:
        return ProcessHypervisor(self.directory, [sys.executable, "-c", DEAF_GUEST])


class QemuRig(Rig):
    # It boots first, and under emulation on a busy machine.
    stop_timeout_s = 90.0

    def __init__(self, directory: Path, image: ImageFiles) -> None:
        super().__init__(directory)
        self.image = image

    def home(self, vm: str) -> Path:
        return self.directory / "vms" / vm

    async def shown(self, driver: Hypervisor, vm: str) -> bool:
        assert isinstance(driver, QemuHypervisor)
        drives = await driver._vm(vm).running().machine.monitor.execute("query-block")
        return any("inserted" in one for one in drives if f"/{INPUT_DRIVE}/" in f"/{one.get('qdev')}/")

    def make(self) -> QemuHypervisor:
        return QemuHypervisor(self.directory, accelerator="tcg")

    def make_deaf(self) -> QemuHypervisor:
        # A guest that has not booted yet hears no power button.
        return self.make()

    def spec(self, vm: str) -> VmSpec:
        plain = super().spec(vm)
        return msgspec.structs.replace(plain, image=self.image)


@pytest.fixture(scope="session")
def guest_image(tmp_path_factory: pytest.TempPathFactory) -> ImageFiles:
    """Our own image, built once and cached between runs. Without QEMU: skipped on a laptop, a failure in CI."""
    missing = [tool for tool in ("qemu-system-x86_64", "qemu-img", "mmdebstrap") if shutil.which(tool) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"CI must run the QEMU tests; missing: {missing}")
    if missing:
        pytest.skip(f"missing: {missing}")
    manifest = build(Request(output=tmp_path_factory.mktemp("image"), cache=CACHE))
    store = ImageStore(tmp_path_factory.mktemp("images"), None)
    return store.resolve(store.add(manifest))


@pytest.fixture(params=["fake", "process", pytest.param("qemu", marks=pytest.mark.qemu)])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """Each driver in turn."""
    if request.param == "qemu":
        made: Rig = QemuRig(tmp_path, request.getfixturevalue("guest_image"))
    else:
        made = {"fake": FakeRig, "process": ProcessRig}[request.param](tmp_path)
    yield made
    await made.clean_up()
    assert made.processes("vm-a") == set()


@pytest.fixture
async def process_rig(tmp_path: Path) -> AsyncIterator[ProcessRig]:
    """The process driver alone."""
    made = ProcessRig(tmp_path)
    yield made
    await made.clean_up()


@pytest.fixture
async def qemu_rig(tmp_path: Path, guest_image: ImageFiles) -> AsyncIterator[QemuRig]:
    """QEMU alone."""
    made = QemuRig(tmp_path, guest_image)
    yield made
    await made.clean_up()


async def eventually(holds: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for what happens by itself, up to a deadline."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - what is waited for happens outside this loop
            await asyncio.sleep(0.01)


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., object]:
    """``await eventually(condition)``."""
    return eventually
