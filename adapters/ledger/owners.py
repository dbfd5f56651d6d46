"""Owners as consoles see and set them: a page of all that have jobs, each with its share, its limit and its tallies."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import Any

from sqlalchemy import bindparam, func, select

from adapters.ledger import accounts, tables, tallies
from adapters.ledger.tallies import WHOLE_OWNER
from adapters.ledger.transaction import Tx
from schemas.owners import OwnerList, OwnerRow, Owners, OwnerSet

_owners, _tallies = tables.owners, tables.tallies

_TALLIED = (
    select(_tallies.c.owner, _tallies.c.state, func.sum(_tallies.c.count).label("count"))
    .where(_tallies.c.submission == WHOLE_OWNER)
    .group_by(_tallies.c.owner, _tallies.c.state)
    .having(func.sum(_tallies.c.count) > 0)
)
_SET = select(_owners).where(_owners.c.owner.in_(bindparam("owners", expanding=True)))


def listed(tx: Tx, message: OwnerList) -> Owners:
    """List owners by name: those that have jobs, and those that are named."""
    counts = _counts(tx)
    # The database may have another order of texts than ours.
    names = sorted(name for name in {*counts, *message.named} if name > message.after)
    page = list(islice(names, message.limit))
    is_last = len(page) == len(names)
    return Owners(call=message.id, owners=_rows(tx, page, counts), next="" if is_last else page[-1])


def put(tx: Tx, message: OwnerSet) -> Owners:
    """Set what is said of an owner, and give its row. Idempotent."""
    settings: dict[str, int | None] = {}
    if message.share is not None:
        settings["share"] = message.share
    if message.most_waiting is not None or message.forget_most_waiting:
        settings["most_waiting"] = None if message.forget_most_waiting else message.most_waiting
    if settings:
        accounts.put(tx, message.owner, **settings)
    counts = tallies.of_owner(tx, message.owner)
    return Owners(call=message.id, owners=_rows(tx, [message.owner], {message.owner: counts}))


def _counts(tx: Tx) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for owner, state, count in tx.execute(_TALLIED):
        counts[owner][str(state)] = int(count)
    return counts


def _rows(tx: Tx, names: list[str], counts: dict[str, dict[str, int]]) -> list[OwnerRow]:
    known = {row.owner: row for row in tx.execute(_SET, {"owners": names})}
    return [_row(tx, name, known.get(name), counts.get(name, {})) for name in names]


def _row(tx: Tx, name: str, known: Any, jobs: dict[str, int]) -> OwnerRow:
    if known is None:
        return OwnerRow(owner=name, most_waiting=tx.policy.waiting_of_owner, jobs=jobs)
    is_own = known.most_waiting is not None
    return OwnerRow(
        owner=name,
        share=known.share,
        most_waiting=known.most_waiting if is_own else tx.policy.waiting_of_owner,
        is_limit_own=is_own,
        used_s=known.used / 1000,
        cpus=known.occupied / 1000,
        jobs=jobs,
    )
