"""The machine under the driver in memory; what is here survives the driver."""

from __future__ import annotations

import itertools

import msgspec

from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import VmSpec
from schemas.vms import VmSnapshot, VmState


class FakeVm(msgspec.Struct):
    """A VM that is nothing but its state."""

    spec: VmSpec
    state: VmState = VmState.POWEREDOFF
    #: Every seed the guest could have seen, the newest last.
    seeds: list[bytes] = []
    pid: int | None = None
    #: By name, in the order in which they were taken.
    snapshots: dict[str, VmSnapshot] = {}


class FakeHost:
    """All VMs of one machine. Two drivers over one host behave as an agent and its successor."""

    def __init__(self) -> None:
        self.vms: dict[str, FakeVm] = {}
        self.pids = itertools.count(1000)

    def vm(self, vm: str) -> FakeVm:
        """Give a VM. Raises HypervisorError if there is none."""
        if vm not in self.vms:
            raise HypervisorError(f"there is no VM {vm}")
        return self.vms[vm]

    def rest(self, vm: str, state: VmState) -> None:
        """End a VM in ``state``."""
        found = self.vm(vm)
        found.state, found.pid = state, None
