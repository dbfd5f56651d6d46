"""What a killed writer left goes at the next start of its owner, in every directory whose files are replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import adapters
import broker
import guest_agent
import host_agent
import volcloud
from adapters.storage.contents import FsspecContents
from adapters.storage.store import FsspecStore
from host_agent.hypervisors.contract import VmSpec
from host_agent.hypervisors.directory import VmDirectories
from host_agent.registry import VmRegistry
from volcloud.centre.layout import Layout

NAME = ".file.0123456789abcdef"


def start_registry(directory: Path) -> Path:
    return after_a_kill(directory, lambda: VmRegistry(directory / "vms.json").load())


def start_store(directory: Path) -> Path:
    return after_a_kill(directory, lambda: FsspecContents(FsspecStore(f"file://{directory}")).put_back())


def start_system(directory: Path) -> Path:
    return after_a_kill(directory / "run", Layout(directory).make)


def start_hypervisor(directory: Path) -> Path:
    directories = VmDirectories(directory, "process")
    directories.sweep()
    with directories.making(VmSpec(id="vm-a", name="a", cpus=1, memory_mib=1, disk_mib=1, image=None, broker="")):
        pass
    return after_a_kill(directories.path("vm-a"), directories.sweep)


def after_a_kill(directory: Path, start: Callable[[], object]) -> Path:
    """Leave a file as a killed writer does, then start."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / NAME).touch()
    (directory / ".keep").touch()
    start()
    return directory


@pytest.mark.parametrize("start", [start_registry, start_store, start_system, start_hypervisor])
def test_a_start_removes_what_the_killed_one_before_had_begun_to_write(
    tmp_path: Path, start: Callable[[Path], Path]
) -> None:
    directory = start(tmp_path)

    assert not (directory / NAME).exists()
    assert (directory / ".keep").exists()


@pytest.mark.parametrize("package", [adapters, broker, guest_agent, host_agent, volcloud])
def test_each_package_that_replaces_files_removes_what_is_left_of_that(package: object) -> None:
    sources = [path.read_text() for path in Path(package.__file__).parent.rglob("*.py")]  # type: ignore[attr-defined]

    assert any("durable.replace" in text for text in sources)
    assert any("durable.remove_unfinished(" in text for text in sources)
