"""The driver contract in memory: the shortest complete driver, and the documentation of the semantics.

It runs nothing. Tests use it in place of a hypervisor, and its variants at the end for everything that can go wrong.
Two drivers over one ``FakeHost`` behave as an agent and its successor over one machine.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec

from host_agent.errors import HypervisorError, StopTimedOut
from host_agent.hypervisors.contract import Capabilities, StateListener, VmFacts, VmSpec
from host_agent.vm import Verb
from schemas.endpoints import Endpoint
from schemas.vms import VmState

_OFF = frozenset({VmState.POWEREDOFF, VmState.ABORTED, VmState.SAVED})


class FakeVm(msgspec.Struct):
    """A VM that is nothing but its state."""

    spec: VmSpec
    state: VmState = VmState.POWEREDOFF
    #: Every seed the guest could have seen, the newest last.
    seeds: list[bytes] = []
    pid: int | None = None


class FakeHost:
    """The machine under the driver; what is here survives the driver."""

    def __init__(self) -> None:
        self.vms: dict[str, FakeVm] = {}
        self.pids = itertools.count(1000)


class FakeHypervisor:
    """A driver whose VMs do at once what they are asked."""

    name = "fake"
    capabilities = Capabilities(
        verbs=frozenset(Verb), isolates=True, needs_image=False, notes="in memory, for tests: runs nothing"
    )

    def __init__(self, host: FakeHost | None = None) -> None:
        self.host = host or FakeHost()
        self._listener: StateListener | None = None

    def road_for_guest(self) -> str:
        """See the contract."""
        return ""

    def road(self, vm: str) -> Path | None:
        """See the contract."""
        return None

    def endpoints_for_guest(self, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        """See the contract."""
        return endpoints

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
        if found is None or found.pid is None:
            return VmFacts()
        return VmFacts(pid=found.pid, accelerator="memory", cpu_seconds=0.0, resident_bytes=0)

    def where(self, vm: str) -> str:
        """Say where: nowhere on a disk."""
        return f"{vm} in this process's memory"

    def spec(self, vm: str) -> VmSpec:
        """Give what a VM was made from."""
        return self._vm(vm).spec

    def seed(self, vm: str) -> bytes | None:
        """Give the newest seed."""
        seeds = self._vm(vm).seeds
        return seeds[-1] if seeds else None

    async def create(self, spec: VmSpec) -> None:
        """Make a VM, powered off."""
        if spec.id in self.host.vms:
            raise HypervisorError(f"there is already a VM {spec.id}")
        self.host.vms[spec.id] = FakeVm(spec)

    async def start(self, vm: str, seed: bytes) -> None:
        """Boot, or go on from saved: running on return, ``seed`` offered."""
        found = self._vm(vm)
        found.seeds.append(seed)
        found.state, found.pid = VmState.RUNNING, next(self.host.pids)

    async def stop(self, vm: str, timeout_s: float) -> None:
        """Shut down; the fake guest always obeys."""
        self._rest(vm, VmState.POWEREDOFF)

    async def pause(self, vm: str) -> None:
        """Freeze."""
        self._vm(vm).state = VmState.PAUSED

    async def resume(self, vm: str) -> None:
        """Go on after a pause."""
        self._vm(vm).state = VmState.RUNNING

    async def reset(self, vm: str, seed: bytes) -> None:
        """Boot again without asking: a new process, running on return."""
        await self.start(vm, seed)

    async def poweroff(self, vm: str) -> None:
        """End from any state; a saved state is kept, and a VM that is gone is no error."""
        if await self.state(vm) not in (VmState.ABSENT, VmState.SAVED):
            self._rest(vm, VmState.POWEREDOFF)

    async def savestate(self, vm: str) -> None:
        """Save and end."""
        self._rest(vm, VmState.SAVED)

    async def discard(self, vm: str) -> None:
        """Throw away a saved state."""
        if await self.state(vm) is VmState.SAVED:
            self._rest(vm, VmState.POWEREDOFF)

    async def delete(self, vm: str) -> None:
        """Forget a VM that does not run; one that is gone is no error."""
        if vm in self.host.vms and self.host.vms[vm].state not in _OFF:
            raise HypervisorError(f"VM {vm} is {self.host.vms[vm].state}; power it off first")
        self.host.vms.pop(vm, None)

    async def offer_seed(self, vm: str, seed: bytes) -> None:
        """Make ``seed`` what the guest finds from now on."""
        self._vm(vm).seeds.append(seed)

    def crash(self, vm: str) -> None:
        """Let a VM die unasked, as a killed hypervisor process does: aborted, and the listener hears of it."""
        self._rest(vm, VmState.ABORTED)
        if self._listener is not None:
            self._listener(vm, VmState.ABORTED)

    def _vm(self, vm: str) -> FakeVm:
        if vm not in self.host.vms:
            raise HypervisorError(f"there is no VM {vm}")
        return self.host.vms[vm]

    def _rest(self, vm: str, state: VmState) -> None:
        found = self._vm(vm)
        found.state, found.pid = state, None


class FailsToCreate(FakeHypervisor):
    """No disk left: nothing is ever made, and nothing stays behind."""

    async def create(self, spec: VmSpec) -> None:
        """Fail, leaving nothing."""
        raise HypervisorError("no space left on device")


class FailsToStart(FakeHypervisor):
    """No memory left: VMs can be made but not started, and keep the state they had."""

    async def start(self, vm: str, seed: bytes) -> None:
        """Fail; the state stays."""
        raise HypervisorError(f"cannot start {self._vm(vm).spec.id}: cannot allocate memory")


class NeverStops(FakeHypervisor):
    """Guests that ignore the power button: ``stop`` times out (at once, to spare the tests), ``poweroff`` works."""

    async def stop(self, vm: str, timeout_s: float) -> None:
        """Time out; the VM goes on running."""
        raise StopTimedOut(f"{self._vm(vm).spec.id} did not shut down within {timeout_s} s")


class FailsToSave(FakeHypervisor):
    """No room for the memory: ``savestate`` fails and the VM goes on as before."""

    async def savestate(self, vm: str) -> None:
        """Fail; the state stays."""
        raise HypervisorError(f"cannot save {self._vm(vm).spec.id}: no space left on device")


class CannotBeAsked(FakeHypervisor):
    """A hypervisor that hangs: every VM that runs is ``unknown``, and only ``poweroff`` still works."""

    async def state(self, vm: str) -> VmState:
        """Say ``unknown`` of every VM that runs."""
        known = await super().state(vm)
        return known if known in _OFF or known is VmState.ABSENT else VmState.UNKNOWN
