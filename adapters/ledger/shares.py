"""How a VM is divided among the jobs that run in it at once. Pure: amounts in, amounts out.

Each slot has an equal share; a job that asks for nothing gets one cpu and its slot's share of memory and disk. A job
may ask for more than a share, as long as the others leave it. Jobs taken ahead on a slot run one after the other, so
a slot counts the largest of its jobs. A VM with fewer cpus than slots gives each slot one: its owner has asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from schemas.description import Requirements
from schemas.jobs import Machine


class Capacity(NamedTuple):
    """Cpus, memory and disk."""

    cpus: int
    memory_mib: int
    disk_mib: int

    def exceeds(self, most: Capacity) -> bool:
        """Whether it is more than ``most`` in any of the three."""
        return any(have > limit for have, limit in zip(self, most, strict=True))


NOTHING = Capacity(0, 0, 0)


def total(machine: Machine) -> Capacity:
    """Give what the VM has for all its slots."""
    return Capacity(max(machine.cpus, machine.slots), machine.memory_mib, machine.disk_mib)


def share(machine: Machine) -> Capacity:
    """Give the equal share of one slot."""
    return Capacity(*(have // machine.slots for have in total(machine)))


def need(asked: Requirements, machine: Machine) -> Capacity:
    """Give what a job would have of that machine: what it asks for, else its share."""
    own = share(machine)
    memory_mib = asked.memory_mib or machine.usual_memory_mib or own.memory_mib
    return Capacity(asked.cpus, memory_mib, asked.disk_mib or own.disk_mib)


def is_large(asked: Requirements, machine: Machine) -> bool:
    """Whether a job would have more than its slot's share, so that the other slots must be looked at."""
    return need(asked, machine).exceeds(share(machine))


class Occupancy:
    """What runs in one VM, by slot, and whether another job still has room there."""

    def __init__(self, most: Capacity, taken: Iterable[tuple[int, Capacity]] = ()) -> None:
        self._most = most
        self._largest: dict[int, Capacity] = {}
        #: Jobs that the VM has.
        self.jobs = 0
        for slot, amount in taken:
            self.take(slot, amount)

    def take(self, slot: int, amount: Capacity) -> None:
        """Give a slot a job."""
        self.jobs += 1
        self._largest[slot] = _larger(self._largest.get(slot, NOTHING), amount)

    def fits(self, slot: int, amount: Capacity) -> bool:
        """Whether a slot may have a job of this size beside what the others have."""
        after = {**self._largest, slot: _larger(self._largest.get(slot, NOTHING), amount)}
        return not Capacity(*(sum(column) for column in zip(*after.values(), strict=True))).exceeds(self._most)


def _larger(one: Capacity, other: Capacity) -> Capacity:
    return Capacity(*map(max, one, other))
