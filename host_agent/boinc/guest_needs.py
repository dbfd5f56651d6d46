"""What the client lets the guests of a task have."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from host_agent.boinc.arguments import Arguments
from host_agent.boinc.init_data import InitData

#: The disk of a guest, as large as it may grow, where nobody bounds it, MiB; and the least that one has.
DISK_MIB, LEAST_DISK_MIB = 8192, 1024
#: What outputs may take where nobody bounds them, bytes.
_OUTPUT_BYTES = 64 << 30
_MOST_CPUS = 32
#: Memory of this computer that stays with others, MiB.
SPARE_MIB = 128


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


def needs_of(data: InitData, arguments: Arguments) -> GuestNeeds:
    """Read it off what the client tells. A bound of 0 is none."""
    bound_mib = int(data.disk_bound_bytes) >> 20
    cpus = arguments.nthreads or max(1, round(data.ncpus))
    return GuestNeeds(
        cpus=min(cpus, _MOST_CPUS),
        disk_mib=max(LEAST_DISK_MIB, min(bound_mib, DISK_MIB)) if bound_mib else DISK_MIB,
        output_bytes=int(data.disk_bound_bytes) or _OUTPUT_BYTES,
        checkpoint_s=data.checkpoint_period_s,
        memory_mib=arguments.memory_mib,
    )
