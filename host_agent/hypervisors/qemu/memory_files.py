"""A VM's saved memory on disk, and the note of what was under way when it was saved or loaded.

``memory`` exists exactly while the VM is saved: it appears by a rename when complete, and has another name before the
guest runs on, since then the disk no longer matches it. Knows files and no QEMU.
"""

from __future__ import annotations

import contextlib

import msgspec

from broker import durable
from host_agent.hypervisors.directory import VmDirectories, read_record, write_record
from host_agent.hypervisors.qemu.memory import MEMORY, MEMORY_BEING_WRITTEN, MEMORY_LOADED, MEMORY_USED

_SAVING = "saving.json"


class Saving(msgspec.Struct, frozen=True):
    """A note that a VM is on its way into a saved memory or out of it: whoever finds it lets it go on as it was."""

    was_running: bool
    #: On its way out of a snapshot: its disk and memory may not match, so it does not go on.
    restores: bool = False


class MemoryFiles(VmDirectories):
    """See the module."""

    def is_saved(self, vm: str) -> bool:
        """Say whether there is a saved memory."""
        return (self.path(vm) / MEMORY).exists()

    def discard_memory(self, vm: str) -> None:
        """Remove the saved memory, durably. Raises OSError. The disk has its room back soon after."""
        durable.remove_large(self.path(vm) / MEMORY)

    def drop_half_written(self, vm: str) -> None:
        """Remove a memory that was never complete, and one that is of no use any more. Raises OSError."""
        (self.path(vm) / MEMORY_BEING_WRITTEN).unlink(missing_ok=True)
        self.drop_used(vm)

    def drop_used(self, vm: str) -> None:
        """Remove a memory from which a guest has gone on. Raises OSError."""
        durable.unlink_large(self.path(vm) / MEMORY_USED)

    def note_saving(self, vm: str, saving: Saving) -> None:
        """Note that a VM begins to be saved, or to go on. Raises OSError."""
        write_record(self.path(vm) / _SAVING, saving)

    def use_up_memory(self, vm: str) -> None:
        """Make a saved memory one that is loaded, durably: it can be loaded no more, and whoever finds the VM then lets
        it go on. Raises OSError."""
        home = self.path(vm)
        (home / MEMORY).rename(home / MEMORY_LOADED)
        try:
            durable.sync_directory(home)
        except OSError:
            (home / MEMORY_LOADED).rename(home / MEMORY)
            raise

    def saving(self, vm: str) -> Saving | None:
        """Say whether a VM was being saved or restored, and what it was before."""
        noted = read_record(self.path(vm) / _SAVING, Saving)
        if noted is None and (self.path(vm) / MEMORY_LOADED).exists():
            return Saving(was_running=True)
        return noted

    def goes_on(self, vm: str) -> None:
        """A guest goes on from its memory, or has, which is of no use any more: see ``drop_used``. What a disk is given
        back at once holds up whoever writes to it. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            (self.path(vm) / MEMORY_LOADED).rename(self.path(vm) / MEMORY_USED)

    def forget_saving(self, vm: str) -> None:
        """It is saved, or as it was."""
        (self.path(vm) / _SAVING).unlink(missing_ok=True)
        self.goes_on(vm)
        self.drop_used(vm)
