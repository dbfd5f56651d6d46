"""The driver contract in memory: the shortest complete driver, and the documentation of the semantics.

It runs nothing. Tests use it in place of a hypervisor, and its variant at the end for guests that do not obey.
"""

from __future__ import annotations

from host_agent.errors import HypervisorError, StopTimedOut
from host_agent.hypervisors.contract import Capabilities, StateListener, VmFacts, VmSpec
from host_agent.hypervisors.fake.host import FakeHost, FakeVm
from host_agent.hypervisors.fake.ports import FakeScreenshots, FakeSeeds, FakeSnapshots, FakeStatistics
from schemas.vms import VmState

_OFF = frozenset({VmState.POWEREDOFF, VmState.ABORTED, VmState.SAVED})


class FakeHypervisor:
    """A driver whose VMs do at once what they are asked."""

    name = "fake"

    def __init__(self, host: FakeHost | None = None) -> None:
        self.host = host or FakeHost()
        self._listener: StateListener | None = None
        self.capabilities = Capabilities(
            isolates=True,
            needs_image=False,
            notes="in memory, for tests: runs nothing",
            snapshots=FakeSnapshots(self.host),
            statistics=FakeStatistics(self.host),
            screenshots=FakeScreenshots(self.host),
            seed_medium=FakeSeeds(self.host),
        )

    async def open(self, listener: StateListener) -> None:
        """Take over the host's VMs, in whatever state they are."""
        self._listener = listener

    async def attach(self, vm: str) -> None:
        """Do nothing: a driver over a host has all of its VMs."""

    async def close(self) -> None:
        """Stop listening; the VMs stay as they are."""
        self._listener = None

    async def list(self) -> list[str]:
        """Name the VMs in order of creation: dictionaries keep it."""
        return [*self.host.vms]

    async def state(self, vm: str) -> VmState:
        """Say what state a VM is in; it is never ``unknown``."""
        found = self.host.vms.get(vm)
        return found.state if found else VmState.ABSENT

    async def facts(self, vm: str) -> VmFacts:
        """Invent the facts of a VM that runs."""
        found = self.host.vms.get(vm)
        return VmFacts(pid=found.pid, accelerator="memory") if found and found.pid else VmFacts()

    def where(self, vm: str) -> str:
        """Say where: nowhere on a disk."""
        return f"{vm} in this process's memory"

    def spec(self, vm: str) -> VmSpec:
        """Give what a VM was made from."""
        return self.host.vm(vm).spec

    async def create(self, spec: VmSpec) -> None:
        """Make a VM, powered off."""
        if spec.id in self.host.vms:
            raise HypervisorError(f"there is already a VM {spec.id}")
        self.host.vms[spec.id] = FakeVm(spec)

    async def start(self, vm: str, seed: bytes) -> None:
        """Boot, or go on from saved: running on return, ``seed`` offered."""
        found = self.host.vm(vm)
        found.seeds.append(seed)
        found.state, found.pid = VmState.RUNNING, next(self.host.pids)

    async def stop(self, vm: str, timeout_s: float) -> None:
        """Shut down; the fake guest always obeys."""
        self.host.rest(vm, VmState.POWEREDOFF)

    async def pause(self, vm: str) -> None:
        """Freeze."""
        self.host.vm(vm).state = VmState.PAUSED

    async def resume(self, vm: str) -> None:
        """Go on after a pause."""
        self.host.vm(vm).state = VmState.RUNNING

    async def reset(self, vm: str, seed: bytes) -> None:
        """Boot again without asking: a new process, running on return."""
        await self.start(vm, seed)

    async def poweroff(self, vm: str) -> None:
        """End from any state; a saved state is kept, and a VM that is gone is no error."""
        if await self.state(vm) not in (VmState.ABSENT, VmState.SAVED):
            self.host.rest(vm, VmState.POWEREDOFF)

    async def delete(self, vm: str) -> None:
        """Forget a VM that does not run; one that is gone is no error."""
        if vm in self.host.vms and self.host.vms[vm].state not in _OFF:
            raise HypervisorError(f"VM {vm} is {self.host.vms[vm].state}; power it off first")
        self.host.vms.pop(vm, None)

    def crash(self, vm: str) -> None:
        """Let a VM die unasked, as a killed hypervisor process does: aborted, and the listener hears of it."""
        self.host.rest(vm, VmState.ABORTED)
        if self._listener is not None:
            self._listener(vm, VmState.ABORTED)


class NeverStops(FakeHypervisor):
    """Guests that ignore the power button: ``stop`` times out (at once, to spare the tests), ``poweroff`` works."""

    async def stop(self, vm: str, timeout_s: float) -> None:
        """Time out; the VM goes on running."""
        raise StopTimedOut(f"{self.host.vm(vm).spec.id} did not shut down within {timeout_s} s")
