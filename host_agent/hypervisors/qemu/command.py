"""QEMU's command line for one VM, as a pure function of what it should be.

Paths that belong to the VM are relative: QEMU runs in the VM's directory, so a saved state finds the same command line
wherever the directory lies, and sockets stay shorter than the kernel's limit of 107 bytes. No secret is ever on it.
"""

from __future__ import annotations

import base64
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from host_agent import relay
from host_agent.errors import HypervisorError
from host_agent.hypervisors.contract import GuestPorts, ImageFiles, VmSpec
from host_agent.hypervisors.qemu.ports import forwarded, screen_option

OVERLAY = "root.qcow2"
#: The overlay among QEMU's block nodes.
DISK = "root"
QMP_SOCKET = "qmp.sock"
SEED_SOCKET = "seed.sock"
CONSOLE_SOCKET = "console.sock"
ROAD_SOCKET = "road.sock"
#: Where the driver keeps what comes out of the console's socket, and what QEMU itself prints.
CONSOLE = "console.log"
QEMU_LOG = "qemu.log"

#: The seed as the guest reads it from fw_cfg and from the port: one base64 line, padded with newlines. The size never
#: changes, since a guest that was saved remembers the old one.
SEED_FILE = "seed.fw"
SEED_FILE_BYTES = 8192

#: fw_cfg item and virtio-serial port that ``guest_agent.seed`` looks for.
SEED_ITEM = "opt/org.volunteer-cloud/seed"
SEED_PORT = "org.volunteer-cloud.seed"
#: The virtio-serial port that is the guest's end of the local road; the seed names it.
ROAD_PORT = "org.volunteer-cloud.road"

#: The drive in which a guest finds inputs, by its name in QEMU, and by the model that the guest sees.
INPUT_DRIVE, INPUT_MODEL = "inputs", "vc-inputs"

#: The address at which every guest finds the broker.
BROKER_ADDRESS = "10.0.2.100"
BROKER_PORT = 5672
#: How the option of a VM's network begins.
NETWORK = "user,id=net0,"
#: Nothing leads out of it but what is said to be forwarded.
_RESTRICTION = "restrict=on"


#: Connections to the broker that a VM may have at a time; its agent needs one, and another while it reconnects. A
#: relay of one takes some 11 MiB of the host's memory.
MOST_RELAYS = 8
#: How the file of a place begins; a number follows.
RELAY_PLACE = "relay."
#: Runs a relay if one of the VM's places is free, in the VM's directory. A place is a lock that the relay inherits, so
#: it is free again when the relay has ended, however it ended, and its file is what the relay counts in. Shell, since
#: what is turned away must cost little.
_GATE = f"""for n in {" ".join(map(str, range(MOST_RELAYS)))}; do
exec 9<>{RELAY_PLACE}$n && flock -n 9 && exec "$@"
done
exit 1"""


#: The number of the file that a relay inherits as its place.
_COUNTING = "9"
#: The program of a relay.
_RELAY = str(Path(relay.__file__).resolve())


#: Display devices by their name in ``VmDevices``. The least memory in which 1024x768 fits in 32 bits: a guest decides
#: how large a picture of it is.
_DISPLAYS = {"": [], "vga": ["-device", "VGA,vgamem_mb=4"]}


class VmDevices(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that not every VM has: what a VM was made with it keeps, as its guest may know it by its place. One that
    was made before there was a choice has none of them."""

    display: Literal["", "vga"] = ""


#: What a VM is given that is made now.
DEVICES_NOW = VmDevices(display="vga")


class MachineCommand(msgspec.Struct, frozen=True):
    """How a VM was started; kept beside a saved state, which only the same command line can load."""

    accelerator: str
    arguments: list[str]


def build(binary: str, machine: str, accelerator: str, spec: VmSpec, devices: VmDevices) -> MachineCommand:
    """Build the command line of a VM that boots, or (with ``restoring``) waits for its saved state."""
    arguments = [
        *(binary, "-name", spec.id, "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", f"{machine},accel={accelerator}", "-cpu", "max"),
        *("-smp", str(spec.cpus), "-m", f"{spec.memory_mib}M"),
        # A guest that reboots by itself would find a used seed, and one that powers off while nobody watches must be
        # told from a crash: both leave QEMU stopped, in state "shutdown", for the driver to see.
        *("-action", "reboot=shutdown,shutdown=pause"),
        *_disk(spec),
        *("-netdev", network([sys.executable, _RELAY, spec.broker] if spec.broker else [], spec.ports)),
        # No boot from the network: it costs a second and there is nothing to boot from.
        *("-device", "virtio-net-pci,netdev=net0,romfile="),
        *("-device", "virtio-rng-pci"),
        *_seed(),
        # Not a file: a guest that prints for ever must not fill the host's disk. What nobody reads is dropped.
        *("-chardev", f"socket,id=console,path={CONSOLE_SOCKET},server=on,wait=off", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,path={QMP_SOCKET},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
        # Behind all others, whose places on the bus are then what they were without.
        *_DISPLAYS[devices.display],
        *screen_option(spec.ports),
        *_inputs(),
        *_boot(spec, devices),
    ]
    return MachineCommand(accelerator, arguments)


def restoring(command: MachineCommand) -> list[str]:
    """Give the arguments with which QEMU waits for a saved state instead of booting."""
    return [*command.arguments, "-incoming", "defer"]


def uses_kvm(arguments: Sequence[str]) -> bool:
    """Say whether a QEMU with this command line uses KVM."""
    return any(argument.endswith(",accel=kvm") for argument in arguments)


def counts(command: MachineCommand) -> bool:
    """Say whether the relays of a VM that was started so count what they carry."""
    return any(f"<>{RELAY_PLACE}" in argument for argument in command.arguments)


def encode_seed(seed: bytes) -> bytes:
    """Encode a seed as the content of ``SEED_FILE``; raise HypervisorError if it is too long."""
    line = base64.b64encode(seed) + b"\n"
    if len(line) > SEED_FILE_BYTES:
        raise HypervisorError(f"a seed of {len(seed)} bytes is too long; at most {SEED_FILE_BYTES * 3 // 4 - 3}")
    return line.ljust(SEED_FILE_BYTES, b"\n")


def decode_seed(content: bytes, where: str = SEED_FILE) -> bytes:
    """Give the seed that ``encode_seed`` encoded. Raises HypervisorError if it is damaged; ``where`` says which."""
    advice = "remove it, and the next start writes it anew"
    if len(content) != SEED_FILE_BYTES:
        raise HypervisorError(f"{where} is damaged: {len(content)} bytes of {SEED_FILE_BYTES}; {advice}")
    try:
        return base64.b64decode(content.strip(), validate=True)
    except ValueError as error:
        raise HypervisorError(f"{where} is damaged: {error}; {advice}") from error


def _disk(spec: VmSpec) -> list[str]:
    node: dict[str, Any] = {
        "driver": "qcow2",
        "node-name": DISK,
        # What the guest frees goes back to the host: both nodes must be told.
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "file": {"driver": "file", "filename": OVERLAY, "discard": "unmap"},
    }
    if spec.image is not None and spec.image.disk is not None:
        # Whatever is written in the overlay, or in the image, of what it lies over: it is this file and no other.
        base = {"driver": "file", "filename": str(spec.image.disk), "read-only": True}
        node["backing"] = {"driver": "qcow2", "read-only": True, "file": base, "backing": None}
    # A read or write that fails stops the guest, which can go on once the host's disk is mended; told to the guest
    # instead, it would leave it with a file system that it trusts no more.
    return ["-blockdev", json.dumps(node), "-device", f"virtio-blk-pci,drive={DISK},werror=stop,rerror=stop"]


def network(relay: list[str], ports: GuestPorts) -> str:
    """Give the option of a VM's network, in which is the broker or nobody; see ``relay_command``. What is forwarded to
    the guest lets it reach nobody either."""
    options = [f"{NETWORK}{_RESTRICTION}"]
    if relay:
        options.append(f"guestfwd=tcp:{BROKER_ADDRESS}:{BROKER_PORT}-cmd:{_escape(relay_command(relay))}")
    return ",".join(options) + forwarded(ports)


def relay_command(relay: list[str]) -> str:
    """Give the command that joins one connection of a guest to the broker, a process each, ``MOST_RELAYS`` at a time.

    ``relay`` is a Python, the program and where the broker is. QEMU's other form, ``guestfwd=…-tcp:``, shares one
    connection among all that the guest opens.
    """
    # -I -S: no site-packages and no environment, which halves the start and leaves nothing for them to change.
    python, script, broker = relay
    return shlex.join(["sh", "-c", _GATE, "relay", python, "-I", "-S", script, broker, _COUNTING])


def _seed() -> list[str]:
    return [
        *("-fw_cfg", f"name={SEED_ITEM},file={SEED_FILE}"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=seed,path={SEED_SOCKET},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=seed,name={SEED_PORT}"),
        *("-chardev", f"socket,id=road,path={ROAD_SOCKET},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=road,name={ROAD_PORT}"),
    ]


def _inputs() -> list[str]:
    """A drive without a medium: what lies in it is changed while the guest lives. A read that fails is told to the
    guest, which has other ways."""
    return [
        *("-device", "virtio-scsi-pci,id=scsi"),
        *("-device", f"scsi-cd,id={INPUT_DRIVE},bus=scsi.0,vendor=volcloud,product={INPUT_MODEL},rerror=report"),
    ]


def _boot(spec: VmSpec, devices: VmDevices) -> list[str]:
    if spec.image is None or spec.image.kernel is None:
        return []
    initrd = ["-initrd", str(spec.image.initrd)] if spec.image.initrd else []
    return ["-kernel", str(spec.image.kernel), *initrd, "-append", _cmdline(spec.image, devices)]


def _cmdline(image: ImageFiles, devices: VmDevices) -> str:
    """A kernel writes to every console that it is given; the last one is its programs' too, and stays the image's."""
    return f"console=tty0 {image.cmdline}" if devices.display and "console=" in image.cmdline else image.cmdline


def _escape(value: str) -> str:
    """Double the commas, which separate QEMU's options."""
    return value.replace(",", ",,")
