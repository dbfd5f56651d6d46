"""What ``host_agent`` is told at its start."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from schemas.ids import VmName

Seconds = Annotated[float, Meta(gt=0)]


class WantedVm(Struct, frozen=True, kw_only=True):
    """A VM that this host should have and keep running."""

    name: VmName
    cpus: Annotated[int, Meta(ge=1)] = 1
    memory_mib: Annotated[int, Meta(ge=64)] = 768
    disk_mib: Annotated[int, Meta(ge=1024)] = 4096


class HostConfig(Struct, frozen=True, kw_only=True):
    """Settings of ``host_agent``."""

    #: File with this host's broker credential.
    credential: str
    #: Directory for all that this agent keeps: journal, VMs, images.
    directory: str
    hypervisor: Literal["qemu", "process", "fake"] = "qemu"
    #: Image ids (SHA-256) that may run here; the first is the default.
    images: list[str] = []
    vms: list[WantedVm] = []
    beat_s: Seconds = 15.0
    #: Settings handed to guest agents, by name: beat_s, request_again_s, store_patience_s, payload_memory_mib.
    guest: dict[str, float] = {}
    #: How far guests give way to what else runs on this host, 0 to 19; above 0 they also have the disk only when idle.
    niceness: Annotated[int, Meta(ge=0, le=19)] = 10
    #: Job slots of a guest; 0 = as many as its cpus. The centre gives jobs to four for each cpu at most.
    slots: Annotated[int, Meta(ge=0, le=256)] = 0
