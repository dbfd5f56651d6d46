"""Owners' accounts in the tables: their shares and limits, as a person has set them, and what they use of the machines.

What is occupied is counted now and then, over all at once, while jobs of several owners wait; in between, what is given
is added. That is written under the lock of matching only. An owner without a row has the defaults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import bindparam, func, select

from adapters.ledger import classes, tables, tallies
from adapters.ledger.fair_share import FairShare, OwnerAccount
from adapters.ledger.readiness import NOT_RUNNING
from adapters.ledger.shares import Capacity
from adapters.ledger.transaction import Insert, Tx, insert_into, portions
from schemas.jobs import Machine, Phase
from schemas.ledger import JobState

_owners, _jobs, _attempts, _vms = tables.owners, tables.jobs, tables.attempts, tables.vms

#: Stands in the place of an owner in the row that says when it was counted last, ms of the lease clock, in ``used``.
COUNTED = ""
#: It is not counted more often than this, ms.
COUNT_EVERY_MS = 1000

_OF_OWNERS = select(*(_owners.c[name] for name in OwnerAccount._fields)).where(
    _owners.c.owner.in_(bindparam("owners", expanding=True))
)
_ALL = select(*(_owners.c[name] for name in OwnerAccount._fields))
_MOST_WAITING = select(_owners.c.owner, _owners.c.most_waiting).where(
    _owners.c.owner.in_(bindparam("owners", expanding=True))
)
_OCCUPIED = (
    select(_jobs.c.owner, _vms.c.offer, _attempts.c.cpus, _attempts.c.memory_mib, func.count().label("times"))
    .join_from(_attempts, _jobs, _jobs.c.number == _attempts.c.job)
    .join(_vms, _vms.c.vm == _attempts.c.vm)
    .where(_attempts.c.state != Phase.ASSIGNED.value)  # what waits for its turn in a slot occupies nothing
    .where(tables.IS_OPEN, tables.IS_SPEAKING, _vms.c.state.not_in(sorted(NOT_RUNNING)), _vms.c.offer.is_not(None))
    .group_by(_jobs.c.owner, _vms.c.offer, _attempts.c.cpus, _attempts.c.memory_mib)
)


class Accounts:
    """The accounts of owners whose jobs wait, as one transaction finds them."""

    def __init__(self, tx: Tx, owners: Sequence[str]) -> None:
        self._tx = tx
        known = _read(tx, owners) if len(owners) > 1 else {}
        self._found = {owner: known.get(owner, OwnerAccount(owner)) for owner in owners}

    @property
    def are_several(self) -> bool:
        """More than one owner's jobs wait."""
        return len(self._found) > 1

    def turns(self) -> FairShare:
        """Give the order in which these owners are served."""
        return FairShare(self._found.values())

    def close(self, served: Iterable[tuple[str, int]]) -> None:
        """Write down what was given to whom, thousandths of a cpu each."""
        if not self.are_several:
            return
        given: Counter[str] = Counter()
        for owner, occupied in served:
            given[owner] += occupied
        rows = [{"owner": owner, "occupied": self._found[owner].occupied + more} for owner, more in given.items()]
        self._tx.each(_upsert(self._tx.is_sqlite, ("occupied",)), sorted(rows, key=lambda row: str(row["owner"])))


def weight(has: Capacity, machine: Machine) -> int:
    """Say how much of a VM an attempt occupies, thousandths of a cpu: by what it has most of, memory or cpus."""
    parts = [has.cpus / machine.cpus] if machine.cpus else [1.0]
    if machine.memory_mib:
        parts.append(has.memory_mib / machine.memory_mib)
    return max(1, round(1000 * max(1, machine.cpus) * min(1.0, max(parts))))


def count(tx: Tx) -> None:
    """Count what each owner occupies, and put what that came to since the last time into what it has used.

    Does nothing while jobs of one owner alone wait. Call it under the lock of matching.
    """
    if len(tallies.owners(tx, [JobState.SUBMITTED])) < 2:
        return
    known = {row.owner: OwnerAccount._make(row) for row in tx.execute(_ALL)}
    counted = known.pop(COUNTED, OwnerAccount(COUNTED))
    passed_ms = tx.lease_now_ms - counted.used
    if passed_ms < COUNT_EVERY_MS:
        return
    occupied = _occupied(tx)
    accounts = [known.get(owner, OwnerAccount(owner)) for owner in sorted({*known, *occupied})]
    after = [one.after(passed_ms, occupied[one.owner]) for one in accounts]
    changed = [now for now, before in zip(after, accounts, strict=True) if now != before]
    rows = [one._asdict() for one in (*changed, counted._replace(used=tx.lease_now_ms))]
    tx.each(_upsert(tx.is_sqlite, ("used", "occupied")), rows)


def _occupied(tx: Tx) -> Counter[str]:
    rows = tx.execute(_OCCUPIED).all()
    machines = classes.offers(tx, sorted({row.offer for row in rows}))
    found: Counter[str] = Counter()
    for row in rows:
        found[row.owner] += row.times * weight(Capacity(row.cpus, row.memory_mib, 0), machines[row.offer])
    return found


def _read(tx: Tx, owners: Sequence[str]) -> Mapping[str, OwnerAccount]:
    rows = (row for some in portions(owners) for row in tx.execute(_OF_OWNERS, {"owners": some}))
    return {row.owner: OwnerAccount._make(row) for row in rows}


def most_waiting(tx: Tx, owners: Sequence[str]) -> dict[str, int]:
    """Say how many jobs of each of these owners may wait."""
    rows = [row for some in portions(owners) for row in tx.execute(_MOST_WAITING, {"owners": some})]
    said = {owner: most for owner, most in rows if most is not None}
    return {owner: said.get(owner, tx.policy.waiting_of_owner) for owner in owners}


def shares(tx: Tx, owners: Sequence[str]) -> dict[str, int]:
    """Give the share of each of these owners."""
    known = _read(tx, owners)
    return {owner: known[owner].share if owner in known else 1 for owner in owners}


def put(tx: Tx, owner: str, **settings: int | None) -> None:
    """Set an owner's ``share`` or ``most_waiting``; None = as the settings of the centre say. Idempotent."""
    tx.each(_upsert(tx.is_sqlite, tuple(sorted(settings))), [{"owner": owner, **settings}])


@cache
def _upsert(is_sqlite: bool, names: tuple[str, ...]) -> Insert:
    statement = insert_into(_owners, is_sqlite)
    changed: dict[str, Any] = {name: statement.excluded[name] for name in names}
    return statement.on_conflict_do_update(index_elements=["owner"], set_=changed)
