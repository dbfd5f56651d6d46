"""What a hypervisor driver promises: the primitive acts on VMs that this host agent made.

``Hypervisor`` is a VM's life, which every driver has; what only some can do is a port, to be asked for in
``Capabilities``. A driver carries out one act from a state in which it is legal (``host_agent.verbs``); refusing
illegal verbs and letting repeated ones succeed is done once, above, in ``host_agent.control``. A driver never touches a
VM that does not bear our marker, never keeps a secret on a command line, and survives the agent: what it needs to find
its VMs again lies in its directory. Every method is called on the agent's event loop and never blocks it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from schemas.endpoints import Endpoint
from schemas.inputs import Medium
from schemas.looks import VmCounters
from schemas.vms import VmSnapshot, VmState

#: How long a hypervisor may take to tell a VM's counters, seconds.
COUNTERS_S = 2.5


class ImageSource(Protocol):
    """Where images come from."""

    def resolve(self, image: str) -> ImageFiles:
        """Give an image's files, verified. Blocking. Raises ImageError saying what to do."""


class ImageFiles(msgspec.Struct, frozen=True, kw_only=True):
    """An image ready to boot: read-only files, verified against their SHA-256 by ``host_agent.images``."""

    id: str
    disk: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""


#: Of TCP.
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class GuestPorts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What of a guest can be reached from its host, at loopback ports of that. Where it is wanted: 0 is any port, and
    one that somebody else has when the VM starts is another for that life of the VM."""

    #: Ports of the host, each with the guest's to which it leads.
    forwards: tuple[tuple[Port, Port], ...] = ()
    #: Port at which the guest's screen may be looked at and typed to, as VNC; None: it may not.
    screen: Port | None = None


class VmSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to create. ``id`` is the principal's name (``vm-…``) and names everything that the driver makes."""

    id: str
    name: str
    cpus: int
    memory_mib: int
    disk_mib: int
    #: None only for drivers whose capabilities say that they need no image.
    image: ImageFiles | None
    #: File that says where the broker is, which is the one address that the guest may reach, through our relay. It is
    #: read at each connection: a broker that has moved is found, also by a memory that was saved before. Empty: there
    #: is none, and the guest reaches nobody but its host.
    broker: str
    #: Of drivers that can.
    ports: GuestPorts = GuestPorts()


class VmFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a VM from outside; None where it does not run or the driver cannot tell."""

    pid: int | None = None
    #: ``kvm``, ``tcg``, ``none`` (a process) or ``memory`` (the fake).
    accelerator: str | None = None
    #: Why it is in the state that it is in, where that needs saying.
    reason: str = ""
    #: It is stuck on something that can be mended outside of it, such as a full disk: ``resume`` may let it go on.
    may_go_on: bool = False
    #: Where its guest is reached.
    ports: GuestPorts = GuestPorts()


class VmStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a VM uses of its host; None where it does not run or the driver cannot tell."""

    cpu_seconds: float | None = None
    resident_bytes: int | None = None
    #: How much of its memory is on disk, while it is being saved.
    percent_saved: int | None = None


class Snapshots(Protocol):
    """The port of drivers that can keep a VM's memory on disk: one saved state, which ends the VM and from which
    ``Hypervisor.start`` goes on, and snapshots by name, of memory and disk together, which outlive what they keep."""

    async def savestate(self, vm: str) -> None:
        """Write memory to disk and end the VM. Post-condition: saved. After a failure, and when cancelled: the state it
        had before; the next driver brings that about where this one was killed."""

    async def discard(self, vm: str) -> None:
        """Throw away a saved state. Post-condition: poweredoff. Succeeds when there is none."""

    async def take(self, vm: str, name: str) -> None:
        """Keep disk and memory of a VM that runs or is paused, under a name that no snapshot of it has.

        Post-condition: the snapshot is there, the VM as it was; it stands still meanwhile. After a failure, and when
        cancelled: no snapshot, the VM as it was; what is left of it on disk goes at once, or with the next verb.
        """

    async def restore(self, vm: str, name: str, seed: bytes) -> None:
        """Bring a VM, in whatever state, back to a snapshot, with ``seed`` as the newest word to the guest.

        Post-condition: in the state in which it was taken; a saved state is gone. After a failure, and when cancelled:
        the snapshot is kept, no process is left; a VM that had one is aborted, one that had none as it was or off.
        """

    async def delete(self, vm: str, name: str) -> None:
        """Remove a snapshot. The VM stays as it is. Succeeds when there is none."""

    async def list(self, vm: str) -> list[VmSnapshot]:
        """List the snapshots of a VM, the oldest first. Raises HypervisorError if they cannot be read."""

    async def kept_bytes(self, vm: str) -> int:
        """Say what a VM's saved state and snapshots take of the host's disk, beyond the size of the VM's own disk.
        Raises HypervisorError if that cannot be told."""


class VmCounted(msgspec.Struct, frozen=True):
    """What a VM has used, and why some of it is not told."""

    counters: VmCounters
    reason: str = ""


class Statistics(Protocol):
    """The port of drivers that can tell what a VM uses."""

    async def of(self, vm: str) -> VmStatistics:
        """Say what a VM uses now; empty for one that does not run. It is asked with every beat, so it is cheap."""

    async def counters(self, vm: str) -> VmCounted:
        """Say what a VM uses and has used; of one that does not run, what its disk takes. What a hypervisor does not
        tell within ``COUNTERS_S`` is left out, with the reason."""


class Screenshots(Protocol):
    """The port of drivers whose VMs have a screen."""

    async def take(self, vm: str) -> bytes:
        """Give what is on a VM's screen now, as a PNG. Raises HypervisorError, and Unsupported for a VM that was made
        without a display."""


class SerialLog(Protocol):
    """The port of drivers that keep what a guest prints on its serial console."""

    def file(self, vm: str) -> Path:
        """Name the log, kept as ``kept_log`` keeps it; it need not be there."""


class SeedMedium(Protocol):
    """The port of drivers that keep a VM's seed where the guest finds it, also while the VM lives."""

    async def offer(self, vm: str, seed: bytes) -> None:
        """Make ``seed`` what the guest finds from now on."""

    def newest(self, vm: str) -> bytes | None:
        """Give the newest seed of a VM; None if it never had one. Raises HypervisorError if it cannot be read."""


class Roads(Protocol):
    """The port of drivers whose guests meet their host without the broker."""

    @property
    def guest_end(self) -> str:
        """Where a guest meets its host, as its seed has it."""

    def socket(self, vm: str) -> Path:
        """Name the unix socket that is the host's end of a VM's road; it need not be there."""


class InputMedium(Protocol):
    """The port of drivers that can show a guest one file of their host at a time: read-only, and nothing beside it."""

    @property
    def kind(self) -> Medium:
        """What a guest finds."""

    @property
    def unit_bytes(self) -> int:
        """A guest finds whole units of this many bytes; what of the file is beyond the last is told to it."""

    async def insert(self, vm: str, file: Path) -> str:
        """Show a guest this file, an absolute path, in place of any other, and give the name under which it finds it.

        The guest can change nothing that another one will read. After a failure it is shown nothing. Raises
        HypervisorError, also for a VM that does not run or was begun without such a medium.
        """

    async def eject(self, vm: str) -> None:
        """Show a guest nothing. Succeeds when that is so already. Raises HypervisorError, as for a VM that has none."""


class Relay(Protocol):
    """The port of drivers whose guests are in a network of their own and reach the broker by a relay alone."""

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where a guest reaches the broker, wherever that is."""


class ProgramFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the program that runs a driver's VMs."""

    #: Its own words, as it gives its version.
    version: str = ""
    #: ``kvm`` or ``tcg``, as the next VM will run; None where that is not known yet.
    accelerator: str | None = None
    #: Why KVM is not used, where it is not.
    why_no_kvm: str = ""
    #: As whom it runs VMs, for a person.
    runs_as: str = ""


class Program(Protocol):
    """The port of drivers whose VMs are run by a program that is installed on the host."""

    def facts(self) -> ProgramFacts:
        """Say what is known of it, without asking it."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver can do beside a VM's life: the ports that it has. Who needs another refuses with the driver's name
    and ``notes``, or does without."""

    #: False: the guest shares the host's kernel, files and network, and we say so loudly.
    isolates: bool
    needs_image: bool
    notes: str = ""
    snapshots: Snapshots | None = None
    statistics: Statistics | None = None
    screenshots: Screenshots | None = None
    serial_log: SerialLog | None = None
    seed_medium: SeedMedium | None = None
    roads: Roads | None = None
    #: None: guests fetch their inputs for themselves.
    inputs: InputMedium | None = None
    #: None: a guest reaches the broker where its host does.
    relay: Relay | None = None
    program: Program | None = None


#: Called on the event loop with (VM id, new state) when a VM changes state without being asked.
StateListener = Callable[[str, VmState], None]


class Hypervisor(Protocol):
    """A driver. Its errors, and those of its ports, are ``host_agent.errors.HypervisorError`` and its children only."""

    name: str
    capabilities: Capabilities

    async def open(self, listener: StateListener) -> None:
        """Find the VMs of an earlier run and attach to those that live.

        Post-condition: ``list`` names every VM that bears our marker, half-made ones are removed. One whose files are
        damaged is listed too and says so when it is asked; it keeps no other from being found. Idempotent.
        """

    async def attach(self, vm: str) -> None:
        """Attach to a VM that was not there when the driver was opened and is now, as ``open`` does. Idempotent."""

    async def close(self) -> None:
        """Let go of every VM without changing its state. Idempotent."""

    async def list(self) -> list[str]:
        """Name the VMs that exist, in order of creation."""

    async def state(self, vm: str) -> VmState:
        """Say what state a VM is in now; ``absent`` if there is none, ``unknown`` if it cannot be asked."""

    async def facts(self, vm: str) -> VmFacts:
        """Say what is known of a VM from outside; empty for one that is absent."""

    def where(self, vm: str) -> str:
        """Say for people where a VM is kept, whether it is there or not."""

    def spec(self, vm: str) -> VmSpec:
        """Give what a VM was made from. Raises HypervisorError if there is none, or it cannot be read."""

    async def create(self, spec: VmSpec) -> None:
        """Make a VM, powered off. After a failure nothing of it is left behind."""

    async def start(self, vm: str, seed: bytes) -> None:
        """Boot from poweredoff or aborted, or go on from saved, with ``seed`` as the newest word to the guest.

        Post-condition: running. After a failure, and when cancelled: the state it had before, with no process left.
        """

    async def stop(self, vm: str, timeout_s: float) -> None:
        """Ask the guest to shut down and wait. Post-condition: poweredoff. Raises StopTimedOut, state unchanged."""

    async def pause(self, vm: str) -> None:
        """Freeze the VM. Post-condition: paused, its memory kept in RAM."""

    async def resume(self, vm: str) -> None:
        """Let a VM go on that is paused, or stuck and may go on. Post-condition: running. Raises HostDiskFull while the
        disk is full on which it is stuck."""

    async def reset(self, vm: str, seed: bytes) -> None:
        """Reboot without asking the guest, which will find ``seed``. Post-condition: running."""

    async def poweroff(self, vm: str) -> None:
        """End the VM from whatever state. Post-condition: poweredoff and no process of it is left; a saved state is
        kept. Succeeds when there is nothing to end."""

    async def delete(self, vm: str) -> None:
        """Remove every trace of a VM that does not run. Succeeds when it is already gone."""
