"""What ``host_agent`` is told at its start."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

from schemas.ids import VmName

Seconds = Annotated[float, Meta(gt=0)]
#: Which settings it holds the driver says (``host_agent.hypervisors.drivers``): others than ours may be installed.
DriverTable = Annotated[
    dict[str, Any],
    Meta(extra_json_schema={"description": 'a table that names the driver, as [hypervisor] with kind = "qemu" in it'}),
]


class WantedVm(Struct, frozen=True, kw_only=True):
    """A VM that this host should have and keep running."""

    name: VmName
    cpus: Annotated[int, Meta(ge=1)] = 1
    memory_mib: Annotated[int, Meta(ge=64)] = 768
    disk_mib: Annotated[int, Meta(ge=1024)] = 4096


class Limits(Struct, frozen=True, kw_only=True):
    """What this host lets its VMs have, together; left out: no limit. Started VMs count with cpus and memory, also
    paused ones; all VMs that are made with their disks, saved states and snapshots."""

    #: Of the VMs that are started.
    cpus: Annotated[int, Meta(ge=0)] | None = None
    #: Of the VMs that are started.
    memory_mib: Annotated[int, Meta(ge=0)] | None = None
    #: Of all VMs: their disks as large as they may grow, and what saved states and snapshots take beside them.
    disk_mib: Annotated[int, Meta(ge=0)] | None = None
    #: How many there may be.
    vms: Annotated[int, Meta(ge=0)] | None = None


class HostConfig(Struct, frozen=True, kw_only=True):
    """Settings of ``host_agent``."""

    #: File with this host's broker credential.
    credential: str
    #: Directory for all that this agent keeps: journal, VMs, images.
    directory: str
    hypervisor: DriverTable = field(default_factory=lambda: {"kind": "qemu"})
    #: Image ids (SHA-256) that may run here; the first is the default.
    images: list[str] = []
    vms: list[WantedVm] = []
    #: Beyond them no VM is made or started. A host that is over them when they are changed keeps what runs.
    limits: Limits = Limits()
    beat_s: Seconds = 15.0
    #: Settings handed to guest agents, by name: beat_s, request_again_s, store_patience_s, payload_memory_mib.
    guest: dict[str, float] = {}
    #: What is kept of jobs' inputs for all guests of this host, MiB; 0 = nothing: each guest fetches for itself.
    inputs_mib: Annotated[int, Meta(ge=0, le=1 << 30)] = 4096
    #: What stays free on the disk whatever inputs are asked for, MiB; of a small disk a tenth is enough.
    inputs_spare_mib: Annotated[int, Meta(ge=0, le=1 << 30)] = 2048
    #: Job slots of a guest; 0 = as many as its cpus. The centre gives jobs to four for each cpu at most.
    slots: Annotated[int, Meta(ge=0, le=256)] = 0
