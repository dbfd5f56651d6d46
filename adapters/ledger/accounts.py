"""Owners' accounts in the tables: their shares and limits, as a person has set them, and what they have passed.

What was passed is written under the lock of matching only, and only where several owners' jobs wait: one alone passes
nothing. An owner without a row has the defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import bindparam, select

from adapters.ledger import tables
from adapters.ledger.fair_share import FairShare, OwnerAccount
from adapters.ledger.transaction import Insert, Tx, insert_into, portions

_owners = tables.owners

#: Stands in the place of an owner in the row that says what that one had passed that was served last.
LAST_SERVED = ""

_OF_OWNERS = select(*(_owners.c[name] for name in OwnerAccount._fields)).where(
    _owners.c.owner.in_(bindparam("owners", expanding=True))
)
_MOST_WAITING = select(_owners.c.owner, _owners.c.most_waiting).where(
    _owners.c.owner.in_(bindparam("owners", expanding=True))
)


class Accounts:
    """The accounts of owners whose jobs wait, as one transaction finds them."""

    def __init__(self, tx: Tx, owners: Sequence[str]) -> None:
        self._tx = tx
        names = [*owners, LAST_SERVED] if len(owners) > 1 else []
        rows = (row for some in portions(names) for row in tx.execute(_OF_OWNERS, {"owners": some}))
        known = {row.owner: OwnerAccount._make(row) for row in rows}
        last = known.pop(LAST_SERVED, OwnerAccount(LAST_SERVED))
        self._at = last.passed
        self._found = [known.get(owner, OwnerAccount(owner)) for owner in owners]

    @property
    def are_several(self) -> bool:
        """More than one owner's jobs wait."""
        return len(self._found) > 1

    def turns(self) -> FairShare:
        """Give the order in which these owners are served."""
        return FairShare(self._found, self._at)

    def close(self, served: Iterable[tuple[str, int]]) -> None:
        """Write down who was served, each with the cpus of a job, and what was learnt of the time that jobs take."""
        if not self.are_several:
            return
        turns = self.turns()
        for owner, cpus in served:
            turns.serve(owner, cpus)
        after = {one.owner: one for one in turns.accounts()}
        for owner, took_ms in self._tx.took:
            if owner in after:
                after[owner] = after[owner].learnt(took_ms)
        changed = [one for one, before in zip(after.values(), self._found, strict=True) if one != before]
        if turns.at != self._at:
            changed.append(OwnerAccount(LAST_SERVED, passed=turns.at))
        self._tx.each(_upsert(self._tx.is_sqlite, ("passed", "takes_ms")), [one._asdict() for one in changed])


def most_waiting(tx: Tx, owners: Sequence[str]) -> dict[str, int]:
    """Say how many jobs of each of these owners may wait."""
    rows = [row for some in portions(owners) for row in tx.execute(_MOST_WAITING, {"owners": some})]
    said = {owner: most for owner, most in rows if most is not None}
    return {owner: said.get(owner, tx.policy.waiting_of_owner) for owner in owners}


def shares(tx: Tx, owners: Sequence[str]) -> dict[str, int]:
    """Give the share of each of these owners."""
    rows = [row for some in portions(owners) for row in tx.execute(_OF_OWNERS, {"owners": some})]
    said = {row.owner: row.share for row in rows}
    return {owner: said.get(owner, 1) for owner in owners}


def put(tx: Tx, owner: str, **settings: int | None) -> None:
    """Set an owner's ``share`` or ``most_waiting``; None = as the settings of the centre say. Idempotent."""
    tx.each(_upsert(tx.is_sqlite, tuple(sorted(settings))), [{"owner": owner, **settings}])


@cache
def _upsert(is_sqlite: bool, names: tuple[str, ...]) -> Insert:
    statement = insert_into(_owners, is_sqlite)
    changed: dict[str, Any] = {name: statement.excluded[name] for name in names}
    return statement.on_conflict_do_update(index_elements=["owner"], set_=changed)
