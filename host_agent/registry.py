"""The VMs that this host should have: names, ids, sizes, boot generations, what each shall be. A file, written whole
before each step that would be lost without it.

What a VM's state is, the hypervisor knows; who it is, this registry. It also holds the VMs that are gone and whose
principals the key manager has not yet said to have deleted: leaving one list and entering the other is one write.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from broker import durable
from host_agent.errors import RegistryUnreadable, UnknownVm
from host_agent.vm import Wish

log = logging.getLogger(__name__)


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
    #: Started again when it aborts, for as long as it is wished to run.
    autostart: bool = False
    #: What it shall be, as somebody said last.
    wish: Wish = Wish.OFF
    #: It was made wholly, and nobody has begun to delete it: where the hypervisor has nothing of it, it is missing. One
    #: that is not is gone for good then.
    is_made: bool = True


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds."""

    vms: list[VmRecord] = []
    #: Ids of VMs that are gone, whose principals are to be revoked.
    leaving: list[str] = []


class VmRegistry:
    """See the module. Blocking, small; used on the event loop.

    What raises OSError has changed nothing, in memory as on the disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, VmRecord] = {}
        self._leaving: tuple[str, ...] = ()

    def load(self) -> None:
        """Read what an earlier agent left, also in the form of the first releases, a list of VMs and nothing else.

        Raises RegistryUnreadable when it is not readable: nothing is guessed.
        """
        durable.remove_unfinished(self._path.parent)
        try:
            content = msgspec.json.decode(self._path.read_bytes(), type=_Content | list[VmRecord])
        except FileNotFoundError:
            content = _Content()
        except msgspec.MsgspecError as error:
            raise RegistryUnreadable(
                f"{self._path}: not a registry of VMs: {error}; restore it, or move it away and adopt the VMs"
            ) from error
        if isinstance(content, list):
            content = _Content(vms=content)
        self._records = {record.vm: record for record in content.vms}
        self._leaving = tuple(content.leaving)

    def all(self) -> list[VmRecord]:
        """List the VMs in order of creation."""
        return list(self._records.values())

    def find(self, vm: str) -> VmRecord | None:
        """Give a VM's record, or None."""
        return self._records.get(vm)

    def get(self, vm: str) -> VmRecord:
        """Give a VM's record. Raises UnknownVm."""
        record = self.find(vm)
        if record is None:
            known = ", ".join(r.name for r in self.all()) or "none"
            raise UnknownVm(f"vm = {vm!r}: this host has no such VM; it has {known}")
        return record

    def named(self, name: str) -> VmRecord | None:
        """Give the VM of that name, or None."""
        return next((record for record in self.all() if record.name == name), None)

    def put(self, record: VmRecord) -> None:
        """Add or change a VM, durably; its principal is not to be revoked any more. Raises OSError."""
        self._save(self._records | {record.vm: record}, tuple(vm for vm in self._leaving if vm != record.vm))

    def remove(self, vm: str) -> None:
        """Forget a VM and note that its principal is to be revoked, durably, in one. Raises OSError.

        One that is not there is no error, and is noted as well.
        """
        left = {known: record for known, record in self._records.items() if known != vm}
        leaving = self._leaving if vm in self._leaving else (*self._leaving, vm)
        self._save(left, leaving)

    def unmake(self, vm: str) -> None:
        """Forget a VM that could not be made, also where the disk is full: the next agent would find it never made."""
        self._records.pop(vm, None)
        self._save_later("vm unmade")

    def note_made(self, vm: str, *, is_made: bool) -> None:
        """Note that a VM is wholly there, or that its end has begun. On a full disk it is written with the next
        change."""
        record = self.find(vm)
        if record is not None and record.is_made is not is_made:
            self._records[vm] = msgspec.structs.replace(record, is_made=is_made)
            self._save_later("made")

    def next_generation(self, vm: str, *, beyond: int = 0) -> int:
        """Say which generation comes next. Raises UnknownVm."""
        return max(self.get(vm).generation, beyond) + 1

    def raise_generation(self, vm: str, *, beyond: int = 0) -> VmRecord:
        """Begin the next generation of a VM, durably, before it boots. Raises OSError."""
        record = self.get(vm)
        record = msgspec.structs.replace(record, generation=self.next_generation(vm, beyond=beyond))
        self.put(record)
        return record

    def wish(self, vm: str, wish: Wish) -> None:
        """Note what a VM shall be from now on. It counts at once; on a full disk it is written with the next change."""
        record = self.find(vm)
        if record is not None and record.wish is not wish:
            self._records[vm] = msgspec.structs.replace(record, wish=wish)
            self._save_later("wish")

    @property
    def leaving(self) -> tuple[str, ...]:
        """The VMs whose principals are to be revoked."""
        return self._leaving

    def left(self, vm: str) -> None:
        """Note that a VM's principal is gone, durably. Raises OSError."""
        self._save(self._records, tuple(one for one in self._leaving if one != vm))

    def _save(self, records: dict[str, VmRecord], leaving: tuple[str, ...]) -> None:
        content = _Content(vms=list(records.values()), leaving=list(leaving))
        durable.replace(self._path, msgspec.json.encode(content))
        self._records, self._leaving = records, leaving

    def _save_later(self, what: str) -> None:
        try:
            self._save(self._records, self._leaving)
        except OSError as error:
            log.error("registry not written", extra={"what": what, "why": str(error)})
