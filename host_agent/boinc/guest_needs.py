"""What the client lets the guests of a task have."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from host_agent.boinc.arguments import Arguments
from host_agent.boinc.init_data import InitData
from host_agent.boinc.plan import GuestPlan
from host_agent.errors import GuestStuck, ImageError
from host_agent.hypervisors.contract import GuestPorts

#: The disk of a guest, as large as it may grow, where nobody bounds it, MiB; and the least that one has.
DISK_MIB, LEAST_DISK_MIB = 8192, 1024
#: What outputs may take where nobody bounds them, bytes.
_OUTPUT_BYTES = 64 << 30
_MOST_CPUS = 32
#: Memory of this computer that stays with others, MiB.
SPARE_MIB = 128
#: Ports below are the system's.
LEAST_PORT = 1024


class GuestNeeds(Struct, frozen=True, kw_only=True):
    """See the module."""

    cpus: int = 1
    disk_mib: int = DISK_MIB
    output_bytes: int = _OUTPUT_BYTES
    #: Between two checkpoints at least, seconds: a preference of the volunteer's.
    checkpoint_s: float = 0.0
    #: In place of what the job file says, MiB; 0: as it says.
    memory_mib: int = 0


def memory_mib() -> tuple[int, int]:
    """Give this computer's memory, and what of it could be had now, MiB."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    told = {words[0].rstrip(":"): int(words[1]) >> 10 for words in lines if len(words) > 1}
    return told.get("MemTotal", 0), told.get("MemAvailable", told.get("MemFree", 0))


def demand_memory(wanted_mib: int) -> None:
    """Return where this computer has it. Raises ImageError where it never has, GuestStuck where it may later."""
    whole_mib, free_mib = memory_mib()
    if wanted_mib + SPARE_MIB > whole_mib:
        raise ImageError(f"the virtual machine needs {wanted_mib} MiB of memory; this computer has {whole_mib}")
    if wanted_mib + SPARE_MIB > free_mib:
        raise GuestStuck(f"the virtual machine needs {wanted_mib} MiB of memory; {free_mib} are free just now")


def needs_of(data: InitData, arguments: Arguments) -> GuestNeeds:
    """Read it off what the client tells. A bound of 0 is none."""
    bound_mib = int(data.disk_bound_bytes) >> 20
    cpus = arguments.threads(data.ncpus)
    return GuestNeeds(
        cpus=min(cpus, _MOST_CPUS),
        disk_mib=max(LEAST_DISK_MIB, min(bound_mib, DISK_MIB)) if bound_mib else DISK_MIB,
        output_bytes=int(data.disk_bound_bytes) or _OUTPUT_BYTES,
        checkpoint_s=data.checkpoint_period_s,
        memory_mib=arguments.memory_mib,
    )


def ports_of(guest: GuestPlan) -> GuestPorts:
    """Say at which ports of this computer a guest is to be reached."""
    # A job takes no port that programs of this computer are looked for at.
    forwards = tuple((of_host if of_host >= LEAST_PORT else 0, of_guest) for of_host, of_guest in guest.forwards)
    return GuestPorts(forwards=forwards, screen=0 if guest.has_screen else None)
