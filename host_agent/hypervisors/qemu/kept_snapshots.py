"""A VM's snapshots as they lie in its directory: a record of each, and its memory, a qcow2 file of its own.

A snapshot is there exactly while its record is: it appears by a rename when all of it is complete, and goes first.
What is not there yet, or any more, is *void*: a record of that kind names what is to be removed. Removing a snapshot
needs no room on the disk. The VM's disk as it was is a part of the overlay, under the tag. Knows files and no QEMU.
"""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

import msgspec

from broker import durable
from host_agent.errors import HypervisorError
from host_agent.hypervisors.directory import read_record, write_record
from host_agent.hypervisors.qemu.command import MachineCommand
from schemas.vms import VmSnapshot, VmState

log = logging.getLogger(__name__)

#: Endings of a record: of a snapshot that is there, and of one that is not, or not yet.
_THERE, _VOID = "snapshot", "void-snapshot"


class KeptSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot: what it is called, and all that it takes to load it."""

    name: str
    #: Its name in the overlay. Nobody chooses it: QEMU also takes the number of another snapshot for a name.
    tag: str
    taken_ms: int
    was_running: bool
    #: The command line of the QEMU that it was taken of, which alone can load it.
    command: MachineCommand

    @property
    def memory(self) -> str:
        """The file that holds its memory, in the VM's directory."""
        return f"memory-{self.tag}.qcow2"

    @property
    def state(self) -> VmState:
        """What the VM was when it was taken."""
        return VmState.RUNNING if self.was_running else VmState.PAUSED


def memories(home: Path) -> list[Path]:
    """Give the memories of all snapshots of a VM, also of void ones."""
    return list(home.glob("memory-*.qcow2"))


def new_tag() -> str:
    """Make a tag that no snapshot has had; short, as it is part of the name of a block device."""
    return f"s{secrets.token_hex(8)}"


class SnapshotRecords:
    """The records in one VM's directory."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def kept(self) -> list[KeptSnapshot]:
        """Give the snapshots that are there, the oldest first. Raises HypervisorError for a damaged record."""
        records = [read_record(path, KeptSnapshot) for path in self.home.glob(f"*.{_THERE}")]
        return sorted(filter(None, records), key=lambda one: (one.taken_ms, one.name))

    def told(self) -> list[VmSnapshot]:
        """Give them as they are told to people."""
        return [
            VmSnapshot(name=one.name, taken_ms=one.taken_ms, state=one.state, size_bytes=self._size_bytes(one))
            for one in self.kept()
        ]

    def find(self, name: str) -> KeptSnapshot | None:
        """Give the snapshot of that name, or None. Raises HypervisorError if its record is damaged."""
        return read_record(self._path(name, _THERE), KeptSnapshot)

    def get(self, name: str) -> KeptSnapshot:
        """Give the snapshot of that name, whose memory must be there. Raises HypervisorError."""
        found = self.find(name)
        if found is None:
            raise HypervisorError(f"{self.home} holds no snapshot {name}")
        if not (self.home / found.memory).exists():
            raise HypervisorError(f"the memory of snapshot {name} is gone: {self.home / found.memory}")
        return found

    def begin(self, snapshot: KeptSnapshot) -> None:
        """Note, durably, that what bears its tag is void until it is complete. Raises OSError."""
        write_record(self._path(snapshot.tag, _VOID), snapshot)

    def complete(self, snapshot: KeptSnapshot) -> None:
        """Make it one that is there, durably. Raises OSError."""
        durable.sync_file(self.home / snapshot.memory)
        self._path(snapshot.tag, _VOID).rename(self._path(snapshot.name, _THERE))
        durable.sync_directory(self.home)

    def make_void(self, name: str) -> KeptSnapshot | None:
        """Make it one that is not there any more, durably, and give it; one that is not there is no error. Raises
        OSError.

        Of one whose record is damaged nobody knows which memory is its own: the record alone goes.
        """
        path, snapshot = self._path(name, _THERE), None
        try:
            snapshot = self.find(name)
        except HypervisorError as error:
            log.error("damaged_snapshot_removed path=%s error=%s", path, error)
            path.unlink(missing_ok=True)
        else:
            if snapshot is not None:
                path.rename(self._path(snapshot.tag, _VOID))
        durable.sync_directory(self.home)
        return snapshot

    def voids(self) -> list[KeptSnapshot]:
        """Give what is to be removed; a damaged record names nothing."""
        found: list[KeptSnapshot] = []
        for path in sorted(self.home.glob(f"*.{_VOID}")):
            try:
                found += filter(None, [read_record(path, KeptSnapshot)])
            except HypervisorError as error:
                log.error("void_snapshot_not_read path=%s error=%s", path, error)
        return found

    def drop_memory(self, snapshot: KeptSnapshot) -> None:
        """Free the room that the memory of a void one takes. Raises OSError."""
        (self.home / snapshot.memory).unlink(missing_ok=True)

    def forget(self, snapshot: KeptSnapshot) -> None:
        """Nothing is left of a void one but this record, which goes now. Raises OSError."""
        self.drop_memory(snapshot)
        self._path(snapshot.tag, _VOID).unlink(missing_ok=True)

    def _size_bytes(self, snapshot: KeptSnapshot) -> int:
        try:
            return (self.home / snapshot.memory).stat().st_blocks * 512
        except OSError:
            return 0

    def _path(self, stem: str, ending: str) -> Path:
        return self.home / f"{stem}.{ending}"
