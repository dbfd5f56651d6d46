"""The guest agent as processes of the host: a VM in name only, with no isolation at all.

For development, and for sites that bring their own sandbox. Pause and resume stop and continue every process of the
"VM", payloads included; there is no saved state. The processes outlive the agent and are found again by the pid, start
time and mark that ``detached`` and ``directory`` keep. The driver is the table of its VMs; what is done to one is
``vm``'s.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from host_agent.errors import HypervisorError, naming_disk
from host_agent.hypervisors.contract import Capabilities, StateListener, VmFacts, VmSpec
from host_agent.hypervisors.process.files import ProcessFiles
from host_agent.hypervisors.process.inputs import ProcessInputs
from host_agent.hypervisors.process.ports import ProcessLog, ProcessRoads, ProcessSeeds, ProcessStatistics
from host_agent.hypervisors.process.start import ProcessStart
from host_agent.hypervisors.process.vm import ProcessVm
from schemas.vms import VmState

log = logging.getLogger(__name__)

#: Keep of each line where it is, and not of each operation: 0.2 MB of a guest's agent.
LEAN = ("-X", "no_debug_ranges")


class ProcessHypervisor:
    """Runs each VM's guest agent as a process in a session of its own."""

    name = "process"

    def __init__(self, directory: Path, command: Sequence[str] | None = None, *, niceness: int = 0) -> None:
        """``command`` is given ``--seed``, ``--state-dir`` and ``--whereabouts``; by default it is our guest agent."""
        self._files = ProcessFiles(directory, self.name)
        ours = [sys.executable, *LEAN, "-m", "guest_agent.main"]
        self._start = ProcessStart(self._files, [*command] if command else ours, niceness)
        self._vms: dict[str, ProcessVm] = {}
        self._listener: StateListener | None = None
        self.capabilities = Capabilities(
            isolates=False,
            needs_image=False,
            notes="the guest agent runs as this user on this host: no isolation, no saved state",
            statistics=ProcessStatistics(self._files),
            serial_log=ProcessLog(self._files),
            seed_medium=ProcessSeeds(self._files),
            roads=ProcessRoads(self._files),
            inputs=ProcessInputs(self._files),
        )

    async def open(self, listener: StateListener) -> None:
        """Find the processes of an earlier agent by pid and start time, and end strays of half-made starts."""
        if self._listener is None:
            log.warning("driver_does_not_isolate driver=process: jobs run as this user, with its files and network")
        self._listener = listener
        self._files.sweep()
        for vm in self._files.list():
            await self.attach(vm)

    async def attach(self, vm: str) -> None:
        """See the contract."""
        await self._vm(vm).attach()

    async def close(self) -> None:
        """Stop watching; the processes go on. Clean-ups that have begun are finished."""
        self._listener = None
        vms, self._vms = self._vms, {}
        await asyncio.gather(*(vm.close() for vm in vms.values()))

    async def list(self) -> list[str]:
        """Name the VMs in order of creation."""
        return self._files.list()

    async def state(self, vm: str) -> VmState:
        """Read the state off the kernel's view of the process."""
        return await self._vm(vm).state()

    async def facts(self, vm: str) -> VmFacts:
        """Say which process is the VM."""
        return await self._vm(vm).facts()

    def where(self, vm: str) -> str:
        """See the contract: its directory."""
        return str(self._files.path(vm))

    def spec(self, vm: str) -> VmSpec:
        """Read it from the marker."""
        return self._files.spec(vm)

    async def create(self, spec: VmSpec) -> None:
        """Make the VM's directory."""
        if self._files.exists(spec.id):
            raise HypervisorError(f"there is already a VM {spec.id}")
        with naming_disk(f"cannot make {spec.id}"), self._files.making(spec) as home:
            self._files.make_state_directory(home)

    async def start(self, vm: str, seed: bytes) -> None:
        """Start the guest agent."""
        await self._vm(vm).start(seed)

    async def stop(self, vm: str, timeout_s: float) -> None:
        """Send SIGTERM to the guest agent, and end what it leaves behind."""
        await self._vm(vm).stop(timeout_s)

    async def pause(self, vm: str) -> None:
        """Stop every process of the VM."""
        await self._vm(vm).pause()

    async def resume(self, vm: str) -> None:
        """Continue every process of the VM."""
        await self._vm(vm).resume()

    async def reset(self, vm: str, seed: bytes) -> None:
        """Kill and start again."""
        await self._vm(vm).reset(seed)

    async def poweroff(self, vm: str) -> None:
        """Kill every process of the VM."""
        await self._vm(vm).poweroff()

    async def delete(self, vm: str) -> None:
        """Remove the VM's directory, and any process that escaped so far."""
        await self._vm(vm).delete()
        self._vms.pop(vm, None)

    def _vm(self, vm: str) -> ProcessVm:
        """Give a VM; one that is not there is not kept in the table."""
        if vm in self._vms:
            return self._vms[vm]
        found = ProcessVm(vm, self._files, self._start, functools.partial(self._tell, vm))
        if self._files.exists(vm):
            self._vms[vm] = found
        return found

    def _tell(self, vm: str, state: VmState) -> None:
        if self._listener is not None:
            self._listener(vm, state)
