"""What this VM is: the facts that jobs are matched against, and the boot id that proves where one ran."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from schemas.jobs import Machine

AGENT_VERSION = "0.1.0"
#: Disk is told in steps, MiB, so that machines that are alike look alike to the ledger.
DISK_STEP_MIB = 256


def describe(
    state: Path, *, slots: int = 1, usual_memory_mib: int = 0, image: str = "", features: list[str] | None = None
) -> Machine:
    """Look at this machine: its totals, which the ledger divides among its ``slots``.

    ``state`` is the directory whose disk jobs will use: all of it that root has not kept for itself.
    """
    return Machine(
        cpus=os.cpu_count() or 1,
        memory_mib=memory_mib(),
        disk_mib=shutil.disk_usage(state).total >> 20 & ~(DISK_STEP_MIB - 1),
        platform=f"{platform.system().lower()}-{platform.machine()}",
        image=image,
        features=features or [],
        slots=slots,
        usual_memory_mib=usual_memory_mib,
        boot_id=boot_id(),
        agent_version=AGENT_VERSION,
        python=platform.python_version(),
    )


def memory_mib() -> int:
    """Give the memory of this machine, MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20


def boot_id() -> str:
    """Give the kernel's boot id; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return ""


def load() -> float:
    """Give the 1-minute load average."""
    return os.getloadavg()[0]
