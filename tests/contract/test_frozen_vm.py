"""A paused VM of the ``process`` driver whose agent dies: nothing that it had started outlives it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from broker.daemon.process_stat import read_stat
from host_agent.hypervisors.contract import VmSpec
from host_agent.hypervisors.detached import find_tree
from host_agent.hypervisors.process import ProcessHypervisor
from host_agent.vm import VmState
from volcloud.centre.stopping import end_marked

#: The containers of our guest agent at work, without its broker: a starter, a payload, a child of that in a session of
#: its own, and another one that has dropped its parent.
GUEST = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, %r)
from tests.unit.guests import Guest
script = "(setsid sleep 600 &); setsid sleep 600 & touch begun; sleep 600"
asyncio.run(Guest(Path(sys.argv[-1])).run("/bin/sh", "-c", script))
"""

Eventually = Callable[[Callable[[], object]], Awaitable[None]]


class Paused:
    """A VM that was paused while it ran a job."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "vm-a"
        self.told: list[tuple[str, VmState]] = []
        self.driver = ProcessHypervisor(directory, [sys.executable, "-c", GUEST % str(Path(__file__).parents[2])])

    async def bring_about(self, eventually: Eventually) -> None:
        await self.driver.open(lambda vm, state: self.told.append((vm, state)))
        await self.driver.create(
            VmSpec(id="vm-a", name="vm-a", cpus=1, memory_mib=64, disk_mib=64, image=None, broker="")
        )
        await self.driver.start("vm-a", b"seed")
        await eventually(lambda: [*self.home.glob("state/jobs/slot-0/work/*/begun")])
        await self.driver.pause("vm-a")

    def left(self) -> list[str]:
        """Name what has to do with the VM, whatever it bears: by its words or by where it is."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                about = (process / "cmdline").read_text() + str((process / "cwd").readlink())
            except OSError:
                continue
            if str(self.home) in about and int(process.name) != os.getpid():
                found.append(about)
        return found


@pytest.fixture
async def paused(tmp_path: Path, eventually: Eventually) -> AsyncIterator[Paused]:
    vm = Paused(tmp_path)
    await vm.bring_about(eventually)
    yield vm
    await vm.driver.poweroff("vm-a")
    await vm.driver.close()


async def kill_agent(vm: Paused) -> None:
    pid = (await vm.driver.facts("vm-a")).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def test_starters_and_payloads_of_a_paused_vm_end_with_its_agent(paused: Paused, eventually: Eventually) -> None:
    before = paused.left()
    await kill_agent(paused)
    await eventually(lambda: ("vm-a", VmState.ABORTED) in paused.told)

    assert len(before) >= 4
    assert paused.left() == []


async def test_an_agent_that_dies_while_its_host_is_away_leaves_what_is_found_by_its_mark(
    paused: Paused, eventually: Eventually
) -> None:
    pid = (await paused.driver.facts("vm-a")).pid
    await paused.driver.close()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: (stat := read_stat(pid)) is None or stat.run_state == "Z")
    marked = find_tree(paused.home, None)

    end_marked([paused.home])
    await eventually(lambda: paused.left() == [])

    assert len(marked) >= 4
