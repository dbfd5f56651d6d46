"""What is counted of a VM that is a process: by which process, and since when."""

from __future__ import annotations

import time

import msgspec

from broker.daemon.process_identity import ProcessIdentity
from broker.daemon.process_stat import ProcessStat
from schemas.looks import VmCounters


def counted_by(process: ProcessIdentity, stat: ProcessStat, counters: VmCounters) -> VmCounters:
    """Give counters with the name of the life that they are of: a process of one boot of the host."""
    age_s = stat.age_s
    return msgspec.structs.replace(
        counters,
        life=f"{process.pid}-{process.started}-{process.boot[:8]}",
        for_s=age_s,
        since_ms=int((time.time() - age_s) * 1000),
    )
