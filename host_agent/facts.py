"""What a host is, as its agent tells the centre: its machine, its driver, and what its VMs take of it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from host_agent.config import HostConfig
from host_agent.hypervisors.contract import Capabilities, Hypervisor, ProgramFacts
from schemas.codec import clip
from schemas.vms import (
    MOST_IMAGES,
    MOST_OF_A_HOSTNAME,
    MOST_OF_A_NAME,
    MOST_OF_A_REASON,
    MOST_OF_A_WORD,
    MOST_PORTS,
    HostFacts,
    HostTaken,
    InputFacts,
    VmStatus,
)

AGENT_VERSION = "0.1.0"
_MEMORY = Path("/proc/meminfo")
#: What of a driver's capabilities is no port.
_NO_PORTS = frozenset({"isolates", "needs_image", "notes"})


def facts_of(
    config: HostConfig, hypervisor: Hypervisor, statuses: Sequence[VmStatus], inputs: InputFacts | None = None
) -> HostFacts:
    """Describe this host now. Asks the kernel and nobody else; blocks where the disk of the VMs does. Raises OSError
    where that is gone."""
    can = hypervisor.capabilities
    program = can.program.facts() if can.program is not None else ProgramFacts()
    disk = shutil.disk_usage(config.directory)
    in_use = next((status.accelerator for status in statuses if status.accelerator), "")
    return HostFacts(
        hostname=clip(platform.node(), MOST_OF_A_HOSTNAME),
        platform=clip(f"{platform.system().lower()}-{platform.machine()}", MOST_OF_A_NAME),
        kernel=clip(platform.release(), MOST_OF_A_NAME),
        system=clip(_distribution(), MOST_OF_A_NAME),
        cpus=os.cpu_count() or 1,
        load=round(os.getloadavg()[0], 2),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        memory_free_mib=_memory_free_mib(),
        disk_mib=disk.total >> 20,
        free_disk_mib=disk.free >> 20,
        hypervisor=hypervisor.name,
        hypervisor_version=clip(program.version, MOST_OF_A_NAME),
        accelerator=clip(in_use or program.accelerator or "", MOST_OF_A_WORD),
        why_no_kvm=clip(program.why_no_kvm, MOST_OF_A_REASON),
        runs_as=clip(program.runs_as, MOST_OF_A_NAME),
        agent_version=AGENT_VERSION,
        isolates=can.isolates,
        images=config.images[:MOST_IMAGES],
        ports=ports_of(can),
        network="host" if can.relay is None else "relay",
        notes=clip(can.notes, MOST_OF_A_REASON),
        taken=taken_by(statuses),
        inputs=inputs,
    )


def ports_of(can: Capabilities) -> list[str]:
    """Name the ports that a driver has."""
    names = [field.name for field in msgspec.structs.fields(type(can)) if field.name not in _NO_PORTS]
    return [clip(name, MOST_OF_A_WORD) for name in names if getattr(can, name)][:MOST_PORTS]


def taken_by(statuses: Sequence[VmStatus]) -> HostTaken:
    """Sum up what VMs take."""
    live = [status for status in statuses if status.pid]
    return HostTaken(
        running=len(live),
        cpus=sum(status.cpus for status in live),
        memory_mib=sum(status.memory_mib for status in live),
        resident_mib=sum(status.resident_bytes for status in live) >> 20,
        disk_mib=sum(status.disk_mib for status in statuses),
    )


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _memory_free_mib() -> int:
    """Give what may be had without swapping; 0 where the kernel does not say."""
    try:
        words = {line.split(":")[0]: line.split() for line in _MEMORY.read_text().splitlines()}
        return int(words["MemAvailable"][1]) >> 10
    except (OSError, KeyError, IndexError, ValueError):
        return 0
