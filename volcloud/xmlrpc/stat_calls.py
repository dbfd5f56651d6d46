"""Calls that measure, in the shape of the original's performance collector: a metric a row."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from schemas.looks import VmCounters
from schemas.vms import VmStatus
from volcloud.xmlrpc.method import Generation, Room, method
from volcloud.xmlrpc.names import one_vm

#: Bytes of the unit of memory that the original had.
_KB = 1024
#: Metrics by the counter that they show: name, unit, and what the counter is divided by.
_COUNTED = {
    "cpu_seconds": ("CPU/Time", "s", 1),
    "resident_bytes": ("RAM/Usage/Used", "kB", _KB),
    "disk_bytes": ("Disk/Usage/Used", "kB", _KB),
    "block_read_bytes": ("Disk/Read", "kB", _KB),
    "block_write_bytes": ("Disk/Written", "kB", _KB),
    "net_rx_bytes": ("Net/Received", "kB", _KB),
    "net_tx_bytes": ("Net/Sent", "kB", _KB),
}


async def get_stats(room: Room, vm: str, key: str = "*") -> list[dict[str, Any]]:
    """Measurements of a VM as its host has them now, whose name fits a pattern such as 'RAM/*': name, object, unit,
    scale, values and values_as_string of each. Of time, disk and network they count from the start of the VM's process.
    The original kept 15 values of each, one a 10 s; here there is the newest, and nothing of what nobody counts."""
    row = await one_vm(room.client, vm)
    status, used = await asyncio.gather(room.client.agents.look(row.status.vm), room.client.vms.stats(row.status.vm))
    measured = [*_sizes(status), *_counted(used.counters)]
    return [_row(status.name, *one) for one in measured if fnmatchcase(one[0], key)]


async def get_performance_data(room: Room, vm: str) -> list[dict[str, Any]]:
    """All that getStats has of a VM."""
    return await get_stats(room, vm)


def _sizes(status: VmStatus) -> Iterator[tuple[str, str, float]]:
    """Give name, unit and value, in VirtualBox's words where it has one for it."""
    yield "CPU/Count", "", status.cpus
    yield "RAM/Usage/Total", "kB", status.memory_mib * _KB
    if status.guest is not None:
        yield "Guest/CPU/Load", "", status.guest.load
        yield "Guest/RAM/Usage/Total", "kB", status.guest.memory_mib * _KB
        yield "Guest/RAM/Usage/Free", "kB", status.guest.memory_free_mib * _KB


def _counted(counters: VmCounters) -> Iterator[tuple[str, str, float]]:
    for field, (name, unit, divisor) in _COUNTED.items():
        value = getattr(counters, field)
        if value is not None:
            yield name, unit, value if divisor == 1 else value // divisor


def _row(vm: str, name: str, unit: str, value: float) -> dict[str, Any]:
    shown = f"[{value:g}{unit and ' '}{unit}]"
    return {"name": name, "object": vm, "unit": unit, "scale": 1, "values": [value], "values_as_string": shown}


METHODS = [
    method("getPerformanceData", Generation.FIRST, get_performance_data),
    method("getStats", Generation.SECOND, get_stats),
]
