"""A driver that somebody else has written and installed: the agent finds it by its kind, sets it and uses it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker.address import Address, write_address
from schemas.endpoints import Endpoint

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "driver.md"

#: A driver over VMs that are files with their state in them.
TOY = '''
from pathlib import Path

from host_agent.hypervisors.drivers import Driver, DriverSettings
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from schemas.vms import VmState


class ToySettings(DriverSettings, frozen=True, kw_only=True, tag="toy"):
    """VMs in files."""

    off: str = "off"


class ToyHypervisor(FakeHypervisor):
    name = "toy"

    def __init__(self, settings: ToySettings, directory: Path) -> None:
        super().__init__()
        self.off, self.directory = settings.off, directory

    async def list(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    async def state(self, vm: str) -> VmState:
        is_off = (self.directory / vm).read_text() == self.off
        return VmState.POWEREDOFF if is_off else VmState.RUNNING

    async def poweroff(self, vm: str) -> None:
        (self.directory / vm).write_text(self.off)


driver = Driver(ToySettings, ToyHypervisor)
'''


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A directory on the path in which the driver is installed."""
    made = tmp_path / "packages"
    metadata = made / "toy_driver-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-driver\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[volunteer_cloud.hypervisors]\ntoy = toy_driver:driver\n")
    (made / "toy_driver.py").write_text(TOY)
    return made


def poweroff_all(tmp_path: Path, hypervisor: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Have an agent of this directory end all VMs."""
    address = Address(endpoints=(Endpoint("127.0.0.1", 9),), user="host-a", password="x", vhost="/")
    write_address(tmp_path / "credential.json", address)
    config = tmp_path / "host_agent.toml"
    places = f'credential = "{tmp_path}/credential.json"\ndirectory = "{tmp_path}/host"\n'
    config.write_text(f"{places}\n[hypervisor]\n{hypervisor}\n")
    command = [sys.executable, "-m", "host_agent.main", "--config", str(config), "--poweroff-all"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)


def test_the_agent_uses_a_driver_that_is_installed_as_its_settings_say(tmp_path: Path, packages: Path) -> None:
    vms = tmp_path / "host" / "hypervisor"
    vms.mkdir(parents=True)
    (vms / "vm-a").write_text("on")

    done = poweroff_all(tmp_path, 'kind = "toy"\noff = "asleep"', PYTHONPATH=str(packages))

    assert done.returncode == 0, done.stderr
    assert (vms / "vm-a").read_text() == "asleep"


def test_a_setting_that_the_driver_does_not_have_is_refused_with_those_that_it_has(
    tmp_path: Path, packages: Path
) -> None:
    done = poweroff_all(tmp_path, 'kind = "toy"\ncolour = "red"', PYTHONPATH=str(packages))

    assert done.returncode == 2
    assert "hypervisor.colour = 'red': the driver toy has no such setting: it has kind, off" in done.stderr


def test_without_it_the_agent_names_the_drivers_that_there_are(tmp_path: Path) -> None:
    done = poweroff_all(tmp_path, 'kind = "toy"')

    assert done.returncode == 2
    assert "hypervisor.kind = 'toy': must be a driver that is installed: fake, process, qemu" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_contracts_tests_run_over_a_driver_as_the_page_on_drivers_says(tmp_path: Path) -> None:
    files = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-c", "setup.cfg", "-p", "tests.contract.conftest"]

    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(tmp_path / "test_toy_driver.py")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=150,
    )

    assert done.returncode == 0, done.stdout
    assert sum(map(int, re.findall(r"(\d+) passed", done.stdout))) > 30, done.stdout
