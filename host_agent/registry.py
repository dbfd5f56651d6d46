"""The VMs that this host should have: names, ids, sizes, boot generations. A file, written whole before each step that
would be lost without it.

What a VM's state is, the hypervisor knows; who it is, this registry.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from broker import durable
from host_agent.errors import ConfigError, HostError


class VmRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A VM of this host."""

    vm: str
    name: str
    cpus: int
    memory_mib: int
    disk_mib: int
    image: str = ""
    #: Raised by every start, restore and reset, before it happens.
    generation: int = 0
    #: Started again when it aborts.
    autostart: bool = False


class NoSuchVm(HostError):
    """This host has no VM of that id."""

    code = "not_found"


class VmRegistry:
    """See the module. Blocking, small; used on the event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, VmRecord] = {}

    def load(self) -> None:
        """Read what an earlier agent left. Raises ConfigError when it is not readable: nothing is guessed."""
        try:
            records = msgspec.json.decode(self._path.read_bytes(), type=list[VmRecord])
        except FileNotFoundError:
            records = []
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{self._path}: not a registry of VMs: {error}; restore it or remove it") from error
        self._records = {record.vm: record for record in records}

    def all(self) -> list[VmRecord]:
        """List the VMs in order of creation."""
        return list(self._records.values())

    def get(self, vm: str) -> VmRecord:
        """Give a VM's record. Raises NoSuchVm."""
        record = self._records.get(vm)
        if record is None:
            known = ", ".join(r.name for r in self.all()) or "none"
            raise NoSuchVm(f"vm = {vm!r}: this host has no such VM; it has {known}")
        return record

    def named(self, name: str) -> VmRecord | None:
        """Give the VM of that name, or None."""
        return next((record for record in self.all() if record.name == name), None)

    def put(self, record: VmRecord) -> None:
        """Add or change a VM, durably."""
        self._records[record.vm] = record
        self._save()

    def remove(self, vm: str) -> None:
        """Forget a VM, durably. One that is not there is no error."""
        if self._records.pop(vm, None) is not None:
            self._save()

    def raise_generation(self, vm: str) -> VmRecord:
        """Begin the next generation of a VM, durably, before it boots."""
        record = self.get(vm)
        record = msgspec.structs.replace(record, generation=record.generation + 1)
        self.put(record)
        return record

    def _save(self) -> None:
        durable.replace(self._path, msgspec.json.encode(self.all()))
