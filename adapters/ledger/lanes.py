"""How many jobs a VM may have and ask for at once, and how many of them would run before another. Pure.

What a guest says of its slots and of its queue counts as far as its VM can be so: by the cpus that its host has
reported, by hard numbers, and by what the ledger itself has given it and not seen end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from schemas.jobs import MOST_LANES, Machine

#: Slots of each cpu at most: an owner may set more than one where jobs wait for something else than a cpu.
SLOTS_OF_A_CPU = 4
#: Jobs that one may have before it in its slot at most: as many as the slot has lanes, and three times as many that
#: have ended and whose ends are on their way, some 0.4 s of jobs of 2 ms.
MOST_BEFORE = 4 * MOST_LANES
#: Jobs of each cpu at most, with those taken ahead, and of a VM; beyond them a slot that has none may have one.
JOBS_OF_A_CPU, JOBS_OF_A_VM = MOST_BEFORE, 1024
#: What a VM may be, of which no host has spoken yet.
UNREPORTED_CPUS = 16


class Lanes:
    """One VM's; ``taken`` are the slot numbers of what it has."""

    def __init__(self, machine: Machine, reported_cpus: int, taken: Iterable[int]) -> None:
        cpus = max(1, reported_cpus or min(machine.cpus, UNREPORTED_CPUS))
        self._slots = machine.slots
        self._most_slots = cpus * SLOTS_OF_A_CPU
        self._before = Counter(self._place(slot) for slot in taken)
        self._left = min(cpus * JOBS_OF_A_CPU, JOBS_OF_A_VM) - self._before.total()

    def _place(self, slot: int) -> int:
        return slot % self._slots

    def admit(self, slot: int, said: int) -> int | None:
        """Say how many jobs one for this slot number would wait for, at least; None: it may not be asked for.

        ``said`` is what its guest says. What was admitted counts for the next.
        """
        place = self._place(slot)
        ahead = max(said, self._before[place])
        is_lane = slot < self._slots * MOST_LANES and place < self._most_slots and ahead < MOST_BEFORE
        # A slot that has nothing may have one, whatever the others have taken ahead: it would stand still.
        if not is_lane or (self._left <= 0 and self._before[place]):
            return None
        self._before[place] += 1
        self._left -= 1
        return ahead
