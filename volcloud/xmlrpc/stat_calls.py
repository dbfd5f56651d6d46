"""Calls that measure, in the shape of the original's performance collector: a metric a row."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from schemas.vms import VmStatus
from volcloud.xmlrpc.method import Generation, Room, method
from volcloud.xmlrpc.names import one_vm

#: Bytes of the unit of memory that the original had.
_KB = 1024


async def get_stats(room: Room, vm: str, key: str = "*") -> list[dict[str, Any]]:
    """Measurements of a VM as its host has them now, whose name fits a pattern: name, object, unit, scale, values and
    values_as_string of each. The original kept 15 values of each, one a 10 s; here there is the newest."""
    await one_vm(room.client, vm)
    status = await room.client.agents.look(vm)
    return [_row(status.name, *one) for one in _measured(status) if fnmatchcase(one[0], key)]


async def get_performance_data(room: Room, vm: str) -> list[dict[str, Any]]:
    """All that getStats has of a VM."""
    return await get_stats(room, vm)


def _measured(status: VmStatus) -> Iterator[tuple[str, str, float]]:
    """Give name, unit and value, in VirtualBox's words where it has one for it."""
    yield "CPU/Count", "", status.cpus
    yield "CPU/Time", "s", status.cpu_seconds
    yield "RAM/Usage/Total", "kB", status.memory_mib * _KB
    yield "RAM/Usage/Used", "kB", status.resident_bytes // _KB
    if status.guest is not None:
        yield "Guest/CPU/Load", "", status.guest.load
        yield "Guest/RAM/Usage/Total", "kB", status.guest.memory_mib * _KB
        yield "Guest/RAM/Usage/Free", "kB", status.guest.memory_free_mib * _KB


def _row(vm: str, name: str, unit: str, value: float) -> dict[str, Any]:
    shown = f"[{value:g}{unit and ' '}{unit}]"
    return {"name": name, "object": vm, "unit": unit, "scale": 1, "values": [value], "values_as_string": shown}


METHODS = [
    method("getPerformanceData", Generation.FIRST, get_performance_data),
    method("getStats", Generation.SECOND, get_stats),
]
