"""``host_agent`` as a program: the only one of its directory, and what it says when it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker.address import Address, write_address
from host_agent.hypervisors.detached import find_tree
from host_agent.hypervisors.process.hypervisor import ProcessHypervisor
from host_agent.registry import VmRecord, VmRegistry
from host_agent.vm import Wish
from schemas.endpoints import Endpoint
from tests.contract.conftest import ProcessRig, eventually

#: No broker listens there: an agent goes on trying, and serves nobody meanwhile.
NOWHERE = Address(endpoints=(Endpoint("127.0.0.1", 9),), user="host-a", password="x", vhost="/")


class Program:
    """A host agent's directory, and the agents that were started in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "host_agent.toml"
        write_address(directory / "credential.json", NOWHERE)
        self.config.write_text(
            f'credential = "{directory}/credential.json"\ndirectory = "{directory}/host"\nhypervisor.kind = "process"\n'
        )
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "host_agent.main", "--config", str(self.config), *options]
        started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._started.append(started)
        return started

    async def serving(self) -> subprocess.Popen[str]:
        """Start an agent and wait until the directory is its own and its VMs are known."""
        agent = self.start()
        await eventually(lambda: (self.directory / "host" / "journal").exists())
        return agent

    def processes(self, vm: str) -> set[int]:
        return find_tree(self.directory / "host" / "hypervisor" / vm, None)

    def clean_up(self) -> None:
        for agent in self._started:
            agent.kill()
            agent.wait(20)
            assert agent.stderr is not None
            agent.stderr.close()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path)
    yield made
    made.clean_up()


@pytest.fixture
async def vm(program: Program) -> AsyncIterator[str]:
    """A VM of the directory's that runs."""
    rig = ProcessRig(program.directory / "host" / "hypervisor")
    driver = await rig.open()
    assert isinstance(driver, ProcessHypervisor)
    await driver.create(rig.spec("vm-a"))
    await driver.start("vm-a", b"")
    await driver.close()
    registry = VmRegistry(program.directory / "host" / "vms.json")
    registry.put(VmRecord(vm="vm-a", name="worker-1", cpus=1, memory_mib=64, disk_mib=1024, wish=Wish.RUNNING))
    yield "vm-a"
    await rig.clean_up()


def said_at_the_end(agent: subprocess.Popen[str]) -> str:
    return agent.communicate(timeout=60)[1]


async def test_a_second_agent_in_the_same_directory_ends_with_a_sentence_and_touches_nothing(program, vm):
    first = await program.serving()

    second = program.start()
    said = said_at_the_end(second)

    assert second.returncode == 1
    assert f"host is in use by another host_agent, pid {first.pid}: end that one first" in said
    assert "Traceback" not in said
    assert program.processes(vm)


async def test_nor_does_one_that_is_to_power_everything_off(program, vm):
    first = await program.serving()

    said = said_at_the_end(program.start("--poweroff-all"))

    assert f"pid {first.pid}" in said
    assert program.processes(vm)


async def test_an_agent_that_was_killed_leaves_the_directory_to_the_next(program, vm):
    first = await program.serving()
    (program.directory / "host" / "journal").rename(program.directory / "old")
    first.kill()
    first.wait(20)

    second = await program.serving()

    assert second.poll() is None
    assert program.processes(vm)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_agent_that_ends_says_what_it_leaves_running_and_how_to_end_it(program, vm, number):
    agent = await program.serving()

    agent.send_signal(number)
    said = said_at_the_end(agent)

    assert agent.returncode == 0
    assert "1 virtual machine goes on without it: worker-1 (pid " in said
    assert f"end with: host_agent --config {program.config} --poweroff-all" in said
    assert program.processes(vm)


async def test_what_it_says_ends_the_machines(program, vm):
    done = program.start("--poweroff-all")
    said_at_the_end(done)

    assert done.returncode == 0
    assert program.processes(vm) == set()


async def test_a_lost_registry_costs_no_disk_and_the_log_says_what_to_do(program, vm):
    (program.directory / "host" / "vms.json").unlink()
    agent = await program.serving()

    agent.send_signal(signal.SIGTERM)
    said = said_at_the_end(agent)

    assert "unknown vm set aside" in said
    assert "volcloud vm adopt vm-a" in said
    assert program.processes(vm)
    assert json.loads((program.directory / "host/hypervisor/vm-a/vm.json").read_bytes())["spec"]["id"] == vm
    assert (program.directory / "host/hypervisor/vm-a/state").is_dir()


async def test_an_agent_over_whose_directory_a_disk_is_mounted_ends_and_the_next_one_finds_what_is_there(program, vm):
    """It began before the disk was there, so it knows none of the VMs on it."""
    host = program.directory / "host"
    host.rename(program.directory / "disk")
    too_early = await program.serving()

    host.rename(program.directory / "hidden")
    (program.directory / "disk").rename(host)
    before = (host / "vms.json").read_bytes()
    said = said_at_the_end(too_early)
    second = await program.serving()
    second.send_signal(signal.SIGTERM)

    assert too_early.returncode == 1
    assert "is another directory than it was: a disk was mounted over it" in said
    assert "Traceback" not in said
    assert (host / "vms.json").read_bytes() == before
    assert "1 virtual machine goes on without it: worker-1" in said_at_the_end(second)
