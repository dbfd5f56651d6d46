"""The VMs that ask for work, as matching sees them in one transaction: whether they meet, and have room for, a job.

Nearly every job asks for no more than a slot's share, and then nothing of a VM is read but what its request says. Only
for a job that needs more, on a VM that has such a job, and on one that is on trial, is the VM's room read.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, islice

from sqlalchemy import bindparam, select

from adapters.ledger import classes, keeping, tables
from adapters.ledger.accounts import weight
from adapters.ledger.keeping import KeptVm
from adapters.ledger.matching import Fit, Free, Waiting
from adapters.ledger.readiness import NOT_RUNNING
from adapters.ledger.shares import Capacity, Occupancy, is_large, need, total
from adapters.ledger.transaction import Tx, portions
from schemas.description import Requirements
from schemas.jobs import Machine

_attempts, _vms = tables.attempts, tables.vms

_TAKEN = select(_attempts.c.place, _attempts.c.cpus, _attempts.c.memory_mib, _attempts.c.disk_mib).where(
    tables.IS_OPEN, _attempts.c.vm == bindparam("of_vm")
)
#: Of two that can work, one is another than any VM.
_TWO_ABLE = (
    select(_vms.c.vm)
    .where(tables.IS_SPEAKING, _vms.c.rest_until_ms == 0)
    .where(_vms.c.state.not_in(sorted(NOT_RUNNING)), _vms.c.offer.in_(bindparam("offers", expanding=True)))
    .limit(2)
)


class VmPool:
    """See the module; a ``matching.Pool``."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._large: dict[tuple[int, int], bool] = {}
        self._needs: dict[tuple[int, int], Capacity] = {}
        self._machines: dict[int, Machine] = {}
        #: VMs that can work and meet a shape, up to two of each.
        self._able: dict[int, list[str]] = {}
        self._occupancies: dict[str, Occupancy] = {}
        self._given: defaultdict[str, list[tuple[int, Capacity]]] = defaultdict(list)
        self._crowded: set[str] = set()
        #: Which VM is kept free for which shape of overdue jobs.
        self._keeps: dict[int, KeptVm] = {}
        self._overdue_before_ms = tx.lease_now_ms - int(tx.policy.patience_s * 1000)

    def is_closed(self, free: Free) -> bool:
        """Whether the VM is on trial and has a job: then it may have nothing more."""
        return free.strikes > 0 and self._occupancy(free).jobs > 0

    def judge(self, job: Waiting, free: Free) -> Fit:
        """Say whether a slot whose machine meets a job's requirements may have it.

        One that needs more room than its VM has left keeps a VM free once it is overdue (see ``keeping``).
        """
        if job.avoids(free.vm, self._tx.lease_now_ms) and self._has_other(job.shape, free.vm):
            return Fit.ELSEWHERE
        if free.kept_until_ms > self._tx.lease_now_ms and free.kept_for != job.shape:
            return Fit.NO
        if self._fits(job.shape, free):
            return Fit.YES
        is_overdue = job.since_ms < self._overdue_before_ms
        return Fit.WAIT if is_overdue and self._keeper(job) == free.vm else Fit.NO

    def close(self) -> None:
        """Write down which VMs are kept free."""
        keeping.keep(self._tx, self._keeps)

    def _keeper(self, job: Waiting) -> str:
        if job.shape not in self._keeps:
            but_vm = job.avoid_vm if self._tx.lease_now_ms < job.avoid_until_ms else ""
            self._keeps[job.shape] = keeping.keeper(self._tx, job.shape, but_vm)
        return self._keeps[job.shape].vm

    def _fits(self, shape: int, free: Free) -> bool:
        """Whether there is room beside what the VM's other slots have."""
        if not (self.is_large(shape, free.offer) or free.is_crowded or free.vm in self._crowded):
            return True
        return self._occupancy(free).fits(self.place(free), self.need(shape, free.offer))

    def give(self, job: Waiting, free: Free) -> None:
        """Note that the job goes there."""
        amount = self.need(job.shape, free.offer)
        self._given[free.vm].append((self.place(free), amount))
        if free.vm in self._occupancies:
            self._occupancies[free.vm].take(self.place(free), amount)
        if self.is_large(job.shape, free.offer):
            self._crowded.add(free.vm)

    def is_large(self, shape: int, offer: int) -> bool:
        """Whether a job of that shape needs more than its slot's share of such a VM."""
        key = shape, offer
        if key not in self._large:
            self._large[key] = is_large(self._asked(shape), self._machine(offer))
        return self._large[key]

    def need(self, shape: int, offer: int) -> Capacity:
        """Say what a job of that shape would have of such a VM."""
        key = shape, offer
        if key not in self._needs:
            self._needs[key] = need(self._asked(shape), self._machine(offer))
        return self._needs[key]

    def weight(self, shape: int, offer: int) -> int:
        """Say how much of such a VM a job of that shape would occupy, thousandths of a cpu."""
        return weight(self.need(shape, offer), self._machine(offer))

    def place(self, free: Free) -> int:
        """Give the slot that would run it: numbers beyond the slots are lanes."""
        return free.slot % self._machine(free.offer).slots

    def _has_other(self, shape: int, vm: str) -> bool:
        if shape not in self._able:
            # By the offers that are known, not by all pairs, of which there may be 200,000.
            fits = self._tx.known.fits
            offers = [offer for offer in self._tx.known.offers if fits.get((shape, offer))]
            found = (self._tx.execute(_TWO_ABLE, {"offers": some}).scalars() for some in portions(offers))
            self._able[shape] = list(islice(chain.from_iterable(found), 2))
        return any(able != vm for able in self._able[shape])

    def _occupancy(self, free: Free) -> Occupancy:
        if free.vm not in self._occupancies:
            rows = self._tx.execute(_TAKEN, {"of_vm": free.vm}).all()
            taken = [(row.place, Capacity(row.cpus, row.memory_mib, row.disk_mib)) for row in rows]
            self._occupancies[free.vm] = Occupancy(total(self._machine(free.offer)), [*taken, *self._given[free.vm]])
        return self._occupancies[free.vm]

    def _asked(self, shape: int) -> Requirements:
        return classes.shapes(self._tx, [shape])[shape]

    def _machine(self, offer: int) -> Machine:
        if offer not in self._machines:
            self._machines[offer] = classes.offers(self._tx, [offer])[offer]
        return self._machines[offer]
