"""QEMU as a driver: each VM a process of its own that outlives the agent, driven over QMP.

A VM is a directory: an overlay over the image's read-only disk, sockets, logs, the seed, and once saved its memory
and the command line that can load it. The driver is the table of its VMs; what is done to one is ``vm``'s.
"""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

from host_agent.errors import HypervisorError, naming_disk
from host_agent.hypervisors.contract import Capabilities, StateListener, VmFacts, VmSpec
from host_agent.hypervisors.qemu.accounts import VmAccounts
from host_agent.hypervisors.qemu.command import DEVICES_NOW, OVERLAY
from host_agent.hypervisors.qemu.disk import create_overlay
from host_agent.hypervisors.qemu.files import QemuFiles, note_devices
from host_agent.hypervisors.qemu.inputs import QemuInputs
from host_agent.hypervisors.qemu.ports import again_for_ports
from host_agent.hypervisors.qemu.program import QemuProgram
from host_agent.hypervisors.qemu.roads import QemuRelay, QemuRoads
from host_agent.hypervisors.qemu.screenshots import QemuLog, QemuScreenshots
from host_agent.hypervisors.qemu.seeds import QemuSeeds
from host_agent.hypervisors.qemu.snapshots import QemuSnapshots
from host_agent.hypervisors.qemu.start import QemuStart
from host_agent.hypervisors.qemu.statistics import QemuStatistics
from host_agent.hypervisors.qemu.vm import QemuVm
from schemas.vms import VmState


class QemuHypervisor:
    """Runs VMs in QEMU, under KVM if a probe boot succeeds, else emulated."""

    name = "qemu"

    def __init__(
        self,
        directory: Path,
        binary: str = "qemu-system-x86_64",
        accelerator: str | None = None,
        *,
        niceness: int = 0,
        accounts: VmAccounts | None = None,
    ) -> None:
        """``accelerator`` (``kvm`` or ``tcg``) saves the probe; ``niceness`` is how far guests give way to others;
        ``accounts`` are those that VMs run as where the agent is root."""
        self._files = QemuFiles(directory / "vms", self.name)
        self._program = QemuProgram(binary, directory, accelerator, accounts or VmAccounts())
        self._start = QemuStart(self._program, self._files, niceness)
        self._vms: dict[str, QemuVm] = {}
        self._listener: StateListener | None = None
        self.capabilities = Capabilities(
            isolates=True,
            needs_image=True,
            snapshots=QemuSnapshots(self._vm, self._files),
            statistics=QemuStatistics(self._vm, self._files),
            screenshots=QemuScreenshots(self._vm, self._files),
            serial_log=QemuLog(self._files),
            seed_medium=QemuSeeds(self._vm, self._files),
            roads=QemuRoads(self._files),
            inputs=QemuInputs(self._vm),
            relay=QemuRelay(),
            program=self._program,
        )

    async def open(self, listener: StateListener) -> None:
        """Find out which QEMU this is, and attach to the VMs that live. Raises HypervisorError without QEMU."""
        self._listener = listener
        await self._program.identify()
        self._files.sweep()
        for vm in self._files.list():
            await self.attach(vm)

    async def attach(self, vm: str) -> None:
        """See the contract."""
        await self._vm(vm).attach()

    async def close(self) -> None:
        """Let go of every VM; they run on."""
        self._listener = None
        vms, self._vms = self._vms, {}
        await asyncio.gather(self._start.close(), *(vm.close() for vm in vms.values()))

    async def list(self) -> list[str]:
        """Name the VMs in order of creation."""
        return self._files.list()

    async def state(self, vm: str) -> VmState:
        """Ask QEMU, or where none runs, the VM's directory."""
        return await self._vm(vm).state()

    async def facts(self, vm: str) -> VmFacts:
        """Read them off the process."""
        return await self._vm(vm).facts()

    def where(self, vm: str) -> str:
        """See the contract: its directory."""
        return str(self._files.path(vm))

    def spec(self, vm: str) -> VmSpec:
        """Read it from the marker."""
        return self._files.spec(vm)

    async def create(self, spec: VmSpec) -> None:
        """Make the VM's directory with its overlay."""
        if self._files.exists(spec.id):
            raise HypervisorError(f"there is already a VM {spec.id}")
        if spec.image is None or spec.image.disk is None:
            raise HypervisorError(f"VM {spec.id} needs an image with a disk")
        with naming_disk(f"cannot make {spec.id}"), self._files.making(spec) as home:
            note_devices(home, DEVICES_NOW)
            await create_overlay(home / OVERLAY, spec.image.disk.resolve(), spec.disk_mib)

    async def start(self, vm: str, seed: bytes) -> None:
        """Boot, or load the saved memory and go on."""
        await again_for_ports(lambda: self._vm(vm).start(seed))

    async def stop(self, vm: str, timeout_s: float) -> None:
        """Press the power button until the guest obeys."""
        await self._vm(vm).stop(timeout_s)

    async def pause(self, vm: str) -> None:
        """Stop the virtual CPUs."""
        await self._vm(vm).pause()

    async def resume(self, vm: str) -> None:
        """Let the virtual CPUs go on."""
        await self._vm(vm).resume()

    async def reset(self, vm: str, seed: bytes) -> None:
        """End the process and start another."""
        await again_for_ports(lambda: self._vm(vm).reset(seed))

    async def poweroff(self, vm: str) -> None:
        """Let QEMU quit, or kill it if it does not."""
        await self._vm(vm).poweroff()

    async def delete(self, vm: str) -> None:
        """Remove the VM's directory."""
        await self._vm(vm).delete()
        self._vms.pop(vm, None)

    def _vm(self, vm: str) -> QemuVm:
        """Give a VM; one that is not there is not kept in the table."""
        if vm in self._vms:
            return self._vms[vm]
        found = QemuVm(vm, self._files, self._start, functools.partial(self._tell, vm))
        if self._files.exists(vm):
            self._vms[vm] = found
        return found

    def _tell(self, vm: str, state: VmState) -> None:
        if self._listener is not None:
            self._listener(vm, state)
