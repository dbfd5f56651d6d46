"""What the QEMU driver keeps of a VM on disk, beside its overlay: seed, command line, ports; its memory is
``memory_files``'s. Knows files and no QEMU.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from broker import durable
from host_agent.errors import HypervisorError, naming_disk
from host_agent.hypervisors.contract import GuestPorts
from host_agent.hypervisors.directory import read_record, write_record
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
from host_agent.hypervisors.qemu.memory_files import MemoryFiles
from schemas.vms import VmState

log = logging.getLogger(__name__)

_COMMAND = "command.json"
_DEVICES = "devices.json"
_PORTS = "ports.json"
#: The kernel counts a file's blocks so, bytes.
_BLOCK_BYTES = 512


def taken_bytes(path: Path) -> int:
    """Say what a file takes of the disk, bytes; one that is not there takes nothing. Raises OSError."""
    try:
        return path.stat().st_blocks * _BLOCK_BYTES
    except FileNotFoundError:
        return 0


def note_devices(home: Path, devices: VmDevices) -> None:
    """Note with which devices the VM is made whose directory will be ``home``. Raises OSError."""
    write_record(home / _DEVICES, devices)


class QemuFiles(MemoryFiles):
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

    def state_at_rest(self, vm: str) -> VmState:
        """Say in what state a VM is that has no process."""
        if not self.exists(vm):
            return VmState.ABSENT
        if self.is_saved(vm):
            return VmState.SAVED
        return VmState.POWEREDOFF if self.process(vm) is None else VmState.ABORTED
