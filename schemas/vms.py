"""Virtual machines on the wire: the verbs that a host agent takes, and what it says of its VMs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas.envelope import Command, Message, Reply
from schemas.ids import SnapshotName, VmName


class VmState(StrEnum):
    """What a host says about a VM, in VirtualBox's words; ``unknown`` means that its hypervisor could not be asked.

    A word of a host that is newer than its reader is ``unknown`` too.
    """

    ABSENT = "absent"
    POWEREDOFF = "poweredoff"
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SAVING = "saving"
    SAVED = "saved"
    RESTORING = "restoring"
    STOPPING = "stopping"
    STUCK = "stuck"
    ABORTED = "aborted"
    UNKNOWN = "unknown"
    #: The agent's own word, no driver's: the hypervisor has it, and the registry does not know it.
    SET_ASIDE = "set_aside"
    #: The agent's own word too: the registry knows it, and the hypervisor has nothing of it. A disk may not be mounted.
    MISSING = "missing"
    #: The centre's own word, no host's: its host had said that it runs, and neither that nor its guest is heard of.
    LOST = "lost"

    @classmethod
    def _missing_(cls, value: object) -> VmState:
        return cls.UNKNOWN


#: States in which a VM is nobody's to use, though its guest agent may speak: its host waits for a person's word.
UNDECIDED = frozenset({VmState.SET_ASIDE, VmState.MISSING})
#: States in which a VM has no process: nothing of it is to be heard.
WITHOUT_PROCESS = frozenset({VmState.POWEREDOFF, VmState.ABORTED, VmState.SAVED, VmState.ABSENT})
#: VMs of one host: all of them are written down in one transaction.
MOST_VMS = 1000

#: What a host says of itself and its VMs is kept at the centre, and shown: each word has its bound, characters.
MOST_OF_A_WORD, MOST_OF_A_NAME, MOST_OF_A_HOSTNAME, MOST_OF_A_REASON = 64, 128, 255, 1000
#: Longest name of a job that a guest tells its host; of a longer one the end is told, characters.
MOST_OF_A_JOB = 128
Word = Annotated[str, Meta(max_length=MOST_OF_A_WORD)]
Name = Annotated[str, Meta(max_length=MOST_OF_A_NAME)]
Reason = Annotated[str, Meta(max_length=MOST_OF_A_REASON)]
Amount = Annotated[int, Meta(ge=0, le=1 << 53)]
#: Images that a host names.
MOST_IMAGES = 256
#: Ports of a driver that a host names, and VMs that it says it has no more.
MOST_PORTS, MOST_GONE = 32, 64


class GuestFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A guest as its own agent sees it."""

    #: Its agent has a link to the broker.
    is_connected: bool = False
    cpus: Amount
    #: Processes that want a cpu, on the average of the last minute.
    load: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    memory_mib: Amount
    memory_free_mib: Amount = 0
    #: Jobs that it has at hand, and the first of them.
    holding: Amount = 0
    jobs: Annotated[list[Annotated[str, Meta(max_length=MOST_OF_A_JOB)]], Meta(max_length=16)] = []


class GuestReport(Message, frozen=True, kw_only=True, tag="guest.report"):
    """A guest's agent is ready, and this is how the guest does: said to its host, by the local road."""

    guest: GuestFacts


class VmAct(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A verb that is at work on a VM."""

    verb: Word
    #: For how long it has been, seconds.
    for_s: Annotated[float, Meta(ge=0, le=1e9)]
    #: Who asked for it; empty: the host's agent by itself.
    by: Name = ""
    #: How far it is, where the hypervisor tells.
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None


class VmActed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last verb that has ended on a VM, whatever came of it, since its host's agent started."""

    verb: Word
    #: Who asked for it; empty: the host's agent by itself.
    by: Name = ""
    #: When it ended, agent time, ms.
    at_ms: Amount = 0


class VmStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A VM as its host sees it."""

    vm: Name
    name: Name
    state: VmState
    generation: Amount
    hypervisor: Word
    cpus: Amount
    memory_mib: Amount
    disk_mib: Amount
    image: Name = ""
    #: Process id of the hypervisor on its host; 0 where there is none.
    pid: Amount = 0
    accelerator: Word = ""
    cpu_seconds: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    resident_bytes: Amount = 0
    #: Why it is in this state, where that needs saying.
    reason: Reason = ""
    #: Started again when it aborts.
    autostart: bool = False
    #: What its agent says of itself; None where there is no word of it.
    guest: GuestFacts | None = None
    #: What is being done to it.
    act: VmAct | None = None
    #: What was done to it last.
    acted: VmActed | None = None


class VmCreate(Command, frozen=True, kw_only=True, tag="vm.create"):
    """Make a VM; answered by its status. The same name again, with the same size, succeeds."""

    name: VmName
    cpus: Annotated[int, Meta(ge=1, le=256)] = 1
    memory_mib: Annotated[int, Meta(ge=64, le=1 << 24)] = 512
    disk_mib: Annotated[int, Meta(ge=1024, le=1 << 30)] = 4096
    #: SHA-256 id of an image on the host's allow-list; empty = the host's default.
    image: str = ""
    autostart: bool = False


class VmCommand(Command, frozen=True, kw_only=True):
    """A verb on one VM; answered by its status *after* the verb."""

    vm: str


class VmStart(VmCommand, frozen=True, kw_only=True, tag="vm.start"):
    """Boot a VM, or let it go on from its saved state."""


class VmStop(VmCommand, frozen=True, kw_only=True, tag="vm.stop"):
    """Ask the guest to shut down, and wait."""

    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0


class VmPause(VmCommand, frozen=True, kw_only=True, tag="vm.pause"):
    """Freeze a VM, its memory kept; its jobs wait."""


class VmResume(VmCommand, frozen=True, kw_only=True, tag="vm.resume"):
    """Let a paused VM go on."""


class VmReset(VmCommand, frozen=True, kw_only=True, tag="vm.reset"):
    """Reboot a VM without asking the guest."""


class VmPoweroff(VmCommand, frozen=True, kw_only=True, tag="vm.poweroff"):
    """End a VM at once; its jobs run again elsewhere."""


class VmSavestate(VmCommand, frozen=True, kw_only=True, tag="vm.savestate"):
    """Write a VM's memory to disk and end it; start brings it back."""


class VmDiscard(VmCommand, frozen=True, kw_only=True, tag="vm.discard"):
    """Throw a saved state away, so that the VM boots afresh; or all of a VM that was set aside."""


class VmTakeSnapshot(VmCommand, frozen=True, kw_only=True, tag="vm.take_snapshot"):
    """Keep a VM's disk and memory as they are now, under a name; it goes on after."""

    snapshot: SnapshotName


class VmRestoreSnapshot(VmCommand, frozen=True, kw_only=True, tag="vm.restore_snapshot"):
    """Bring a VM back to a snapshot, disk and memory; what came after is lost, the snapshot is kept."""

    snapshot: SnapshotName


class VmDeleteSnapshot(VmCommand, frozen=True, kw_only=True, tag="vm.delete_snapshot"):
    """Remove a snapshot of a VM; the VM stays as it is. One that is not there is no error."""

    snapshot: SnapshotName


class VmAdopt(VmCommand, frozen=True, kw_only=True, tag="vm.adopt"):
    """Take a VM back that was set aside: its host has it, and its agent did not know it."""


class VmDelete(VmCommand, frozen=True, kw_only=True, tag="vm.delete"):
    """Remove a VM and all that belongs to it."""


def vm_verbs() -> dict[str, type[VmCommand]]:
    """Give the commands that are a verb on one VM, by the verb as people type it."""
    return {str(kind.__struct_config__.tag).removeprefix("vm."): kind for kind in VmCommand.__subclasses__()}


class VmList(Message, frozen=True, kw_only=True, tag="vm.list"):
    """Ask a host for all its VMs."""


class Vms(Reply, frozen=True, kw_only=True, tag="reply.vms"):
    """VMs as their host sees them now."""

    vms: list[VmStatus]


class VmSnapshotList(Message, frozen=True, kw_only=True, tag="vm.snapshots"):
    """Ask a host for the snapshots of one of its VMs."""

    vm: str


#: Snapshots that one VM may have: each keeps a memory on its host's disk.
MOST_SNAPSHOTS = 16


class VmSnapshot(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A VM's disk and memory as they once were."""

    name: Name
    #: The host's time when it was taken, ms since 1970.
    taken_ms: Amount
    #: What the VM was then, and is again when it is restored: running or paused.
    state: VmState
    #: What its memory takes on the host's disk. What its disk takes grows as the VM writes, and is not told apart.
    size_bytes: Amount = 0


class VmSnapshots(Reply, frozen=True, kw_only=True, tag="reply.snapshots"):
    """A VM's snapshots, the oldest first."""

    snapshots: Annotated[list[VmSnapshot], Meta(max_length=MOST_SNAPSHOTS)]


class HostTaken(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a host's VMs take of it: ``cpus`` and memory of those that have a process, disk of all."""

    #: VMs that have a process.
    running: Amount = 0
    cpus: Amount = 0
    #: What they were given, and what of it is in the host's memory now.
    memory_mib: Amount = 0
    resident_mib: Amount = 0
    #: What their disks may grow to.
    disk_mib: Amount = 0


class InputFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a host keeps of its guests' inputs, and what it did with them since its agent began."""

    limit_bytes: Amount
    kept_bytes: Amount = 0
    files: Amount = 0
    #: From the centre, over the broker.
    fetches: Amount = 0
    fetched_bytes: Amount = 0
    #: To guests; of these, hits needed no fetch.
    served: Amount = 0
    served_bytes: Amount = 0
    hits: Amount = 0
    #: Guests fetched those for themselves.
    refused: Amount = 0
    #: Files that went to make room.
    evictions: Amount = 0


class HostFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A host as its agent sees it."""

    hostname: Annotated[str, Meta(max_length=MOST_OF_A_HOSTNAME)]
    platform: Name
    cpus: Amount
    memory_mib: Amount
    free_disk_mib: Amount
    hypervisor: Word
    accelerator: Word = ""
    agent_version: Word = ""
    #: False: guests are not separated from the host.
    isolates: bool = True
    images: Annotated[list[Name], Meta(max_length=MOST_IMAGES)] = []
    #: What its driver can do beside a VM's life, by the names of its ports.
    ports: Annotated[list[Word], Meta(max_length=MOST_PORTS)] = []
    #: ``relay``: its guests reach the broker and nothing else. ``host``: they are in the host's network.
    network: Word = ""
    #: What its driver says of itself.
    notes: Reason = ""
    #: The program that runs its VMs, with its version; the host's kernel and distribution.
    hypervisor_version: Name = ""
    kernel: Name = ""
    system: Name = ""
    #: Processes that want a cpu, on the average of the last minute.
    load: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    memory_free_mib: Amount = 0
    #: Size of the disk on which its VMs lie; ``free_disk_mib`` is free there.
    disk_mib: Amount = 0
    taken: HostTaken | None = None
    #: Why its VMs are emulated, where they are and KVM would be faster.
    why_no_kvm: Reason = ""
    #: As whom the host's programs run its VMs.
    runs_as: Name = ""
    #: None: this host keeps no inputs for its guests.
    inputs: InputFacts | None = None


class VmGone(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A VM that a host has no more, and who had it removed; empty: the agent by itself."""

    vm: Name
    by: Name = ""


class HostInventory(Message, frozen=True, kw_only=True, tag="host.inventory"):
    """HELLO and every later beat of a host: its facts and the full state of its VMs. Decides nothing about a job."""

    host: HostFacts
    vms: Annotated[list[VmStatus], Meta(max_length=MOST_VMS)]
    #: Agent time, ms; tells an old report from a new one.
    at_ms: int
    #: VMs that were removed of late.
    gone: Annotated[list[VmGone], Meta(max_length=MOST_GONE)] = []


class HostBye(Message, frozen=True, kw_only=True, tag="host.bye"):
    """The agent stops; its VMs may live on."""

    reason: Reason = ""
