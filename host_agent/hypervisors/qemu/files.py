"""What the QEMU driver keeps of a VM on disk, beside its overlay: seed, command line, saved memory, what was under way.

``memory`` exists exactly while the VM is saved: it appears by a rename when complete, and has another name before the
guest runs on, since then the disk no longer matches it. Knows files and no QEMU.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import msgspec

from broker import durable
from host_agent.errors import HypervisorError, naming_disk
from host_agent.hypervisors.contract import GuestPorts
from host_agent.hypervisors.directory import VmDirectories, read_record, write_record
from host_agent.hypervisors.kept_log import KeptLog, trim
from host_agent.hypervisors.qemu.command import (
    CONSOLE,
    QEMU_LOG,
    SEED_FILE,
    MachineCommand,
    VmDevices,
    decode_seed,
    encode_seed,
)
from host_agent.hypervisors.qemu.memory import MEMORY, MEMORY_BEING_WRITTEN, MEMORY_LOADED, MEMORY_USED
from schemas.vms import VmState

log = logging.getLogger(__name__)

_COMMAND = "command.json"
_DEVICES = "devices.json"
_PORTS = "ports.json"
_SAVING = "saving.json"
#: The kernel counts a file's blocks so, bytes.
_BLOCK_BYTES = 512


def taken_bytes(path: Path) -> int:
    """Say what a file takes of the disk, bytes; one that is not there takes nothing. Raises OSError."""
    try:
        return path.stat().st_blocks * _BLOCK_BYTES
    except FileNotFoundError:
        return 0


class Saving(msgspec.Struct, frozen=True):
    """A note that a VM is on its way into a saved memory or out of it: whoever finds it lets it go on as it was."""

    was_running: bool
    #: On its way out of a snapshot: its disk and memory may not match, so it does not go on.
    restores: bool = False


def note_devices(home: Path, devices: VmDevices) -> None:
    """Note with which devices the VM is made whose directory will be ``home``. Raises OSError."""
    write_record(home / _DEVICES, devices)


class QemuFiles(VmDirectories):
    """The directories of the QEMU driver's VMs."""

    def write_seed(self, vm: str, seed: bytes) -> None:
        """Make ``seed`` what the guest finds. Raises HypervisorError."""
        with naming_disk(f"cannot seed {vm}"):
            durable.replace(self.path(vm) / SEED_FILE, encode_seed(seed))

    def read_seed(self, vm: str) -> bytes | None:
        """Give the newest seed; None if there never was one. Raises HypervisorError."""
        with naming_disk(f"seed of {vm}"):
            try:
                path = self.path(vm) / SEED_FILE
                return decode_seed(path.read_bytes(), str(path))
            except FileNotFoundError:
                return None

    def credential(self, vm: str) -> Path | None:
        """Give the file that says where the VM's broker is; None where there is none, or the VM's marker is damaged."""
        try:
            broker = self.spec(vm).broker
        except HypervisorError:
            return None
        return Path(broker) if broker else None

    def devices(self, vm: str) -> VmDevices:
        """Say which devices a VM was made with. Raises HypervisorError."""
        return read_record(self.path(vm) / _DEVICES, VmDevices) or VmDevices()

    def ports(self, vm: str) -> GuestPorts | None:
        """Say at which ports its guest is reached since the last start; None where none were noted, or that is
        damaged: the next start chooses others."""
        try:
            return read_record(self.path(vm) / _PORTS, GuestPorts)
        except HypervisorError as error:
            log.warning("ports_not_known vm=%s error=%s", vm, error)
            return None

    def note_ports(self, vm: str, ports: GuestPorts) -> None:
        """Note at which ports it is reached from now on. Raises OSError."""
        if ports not in (self.ports(vm), GuestPorts()):
            write_record(self.path(vm) / _PORTS, ports)

    def command(self, vm: str) -> MachineCommand | None:
        """Give the command line of the last boot."""
        return read_record(self.path(vm) / _COMMAND, MachineCommand)

    def command_of_saved(self, vm: str) -> MachineCommand:
        """Give the command line that alone can load the saved memory. Raises HypervisorError if it is lost."""
        command = self.command(vm)
        if command is None:
            raise HypervisorError(f"{self.path(vm) / _COMMAND} is missing")
        return command

    def begin_boot(self, vm: str, command: MachineCommand) -> None:
        """Note the command line of a boot, and begin its logs."""
        home = self.path(vm)
        write_record(home / _COMMAND, command)
        KeptLog(home / CONSOLE).begin()
        with contextlib.suppress(FileNotFoundError):
            (home / QEMU_LOG).replace(home / f"{QEMU_LOG}.1")

    def note_command(self, vm: str, command: MachineCommand) -> None:
        """Note the command line of a process that goes on from a snapshot. Raises OSError."""
        write_record(self.path(vm) / _COMMAND, command)

    def trim_logs(self, vm: str) -> None:
        """Keep what QEMU itself prints within bounds."""
        trim(self.path(vm) / QEMU_LOG)

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

    def state_at_rest(self, vm: str) -> VmState:
        """Say in what state a VM is that has no process."""
        if not self.exists(vm):
            return VmState.ABSENT
        if self.is_saved(vm):
            return VmState.SAVED
        return VmState.POWEREDOFF if self.process(vm) is None else VmState.ABORTED
