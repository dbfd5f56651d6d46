"""What this VM is: the facts that jobs are matched against, and the boot id that proves where one ran."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from schemas.jobs import Machine

AGENT_VERSION = "0.1.0"
#: Disk is told in steps, MiB, so that machines that are alike look alike to the ledger.
DISK_STEP_MIB = 256


def describe(
    *,
    memory_mib: int,
    disk_mib: int,
    slots: int = 1,
    usual_memory_mib: int = 0,
    image: str = "",
    features: list[str] | None = None,
) -> Machine:
    """Look at this machine. Memory and disk are what jobs are given of it, for the ledger to divide among ``slots``."""
    return Machine(
        cpus=os.cpu_count() or 1,
        memory_mib=memory_mib,
        disk_mib=disk_mib & ~(DISK_STEP_MIB - 1),
        platform=f"{platform.system().lower()}-{platform.machine()}",
        image=image,
        features=features or [],
        slots=slots,
        usual_memory_mib=usual_memory_mib,
        boot_id=boot_id(),
        agent_version=AGENT_VERSION,
        python=platform.python_version(),
    )


def memory_bytes() -> int:
    """Give the memory of this machine, the agent's and the kernel's part included."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory_bytes() -> int:
    """Give the memory that could be had now, caches included; 0 where the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) << 10 if found else 0


def boot_id() -> str:
    """Give the kernel's boot id; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return ""


def load() -> float:
    """Give the 1-minute load average."""
    return os.getloadavg()[0]
