"""What a queue is asked for: jobs that the slots can do, in as few questions as that takes. Pure.

PanDA knows memory and disk of a job when it chooses one, and no cores: these it knows by the resource type, of which a
question names one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adapters.sources.contract import Offer
from schemas.description import MAX_MIB, Requirements

#: Jobs of one answer: one with as many files as are taken has a megabyte.
MOST_JOBS = 25


class MachineSize(NamedTuple):
    """What a machine has."""

    memory_mib: int
    disk_mib: int
    cores: int

    def is_within(self, other: MachineSize) -> bool:
        """Say whether whatever fits this would fit the other as well."""
        return all(mine <= its for mine, its in zip(self, other, strict=True))


class QueueAsk(NamedTuple):
    """A question for jobs: for machines of which size, of which type, and how many slots these have."""

    machine: MachineSize
    resource_type: str
    slots: int

    @property
    def room(self) -> Requirements:
        """The most that a job may need."""
        memory, disk, cores = self.machine
        return Requirements(cpus=min(max(cores, 1), 256), memory_mib=min(memory, MAX_MIB), disk_mib=min(disk, MAX_MIB))

    def is_within(self, other: QueueAsk) -> bool:
        """Say whether whatever fits this would fit the other as well."""
        return self.resource_type == other.resource_type and self.machine.is_within(other.machine)


def asks_for(offers: Sequence[Offer], resource_types: Mapping[str, int]) -> list[QueueAsk]:
    """Give the questions for these slots, the largest machines first, of each the types with the most cores first."""
    slots: defaultdict[MachineSize, int] = defaultdict(int)
    for machine, count in offers:
        slots[MachineSize(machine.memory_mib, machine.disk_mib, machine.cpus)] += max(count, 0)
    found = []
    for size, count in sorted(slots.items(), reverse=True):
        types = [name for name, most in resource_types.items() if most <= size.cores] if resource_types else [""]
        types.sort(key=lambda name: -resource_types.get(name, 0))
        found += [QueueAsk(size, name, count) for name in types if count]
    return found
