"""Waiting jobs as matching reads them: page by page from the tables, by owner, in order of service."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    bindparam,
    literal_column,
    or_,
    select,
    tuple_,
)

from adapters.ledger import classes, tables
from adapters.ledger.accounts import Accounts
from adapters.ledger.backlog import Backlog, Backlogs
from adapters.ledger.matching import Free, Pair, Waiting, unmet
from adapters.ledger.owners_backlog import OwnersBacklog
from adapters.ledger.transaction import Tx, portions
from adapters.ledger.vm_pool import VmPool

#: Rows read at a time; a batch seldom needs more. Of each owner, where there are several, fewer at first, then twice
#: as many each time.
PAGE, SHORTEST_PAGE = 64, 4

_jobs, _kinds, _requests = tables.jobs, tables.kinds, tables.requests


def _distinct(column: Column[Any], condition: ColumnElement[bool]) -> Select[Any]:
    """List the values of an index's column by one probe each, however many rows have them."""
    first = select(column).where(condition).order_by(column).limit(1).scalar_subquery()
    found = select(first.label("value")).cte("found", recursive=True)
    after = select(column).where(condition, column > found.c.value).order_by(column).limit(1)
    step = select(after.correlate(found).scalar_subquery()).where(found.c.value.is_not(None))
    return select(found.union_all(step).c.value)


def _columns_of_waiting() -> list[Column[Any]]:
    return [_jobs.c[name] for name in Waiting._fields]


_OWNERS = _distinct(_jobs.c.owner, tables.IS_WAITING)
_KINDS = select(_kinds.c.owner, _kinds.c.shape).where(_kinds.c.owner.in_(bindparam("owners", expanding=True)))
OFFERS = _distinct(_requests.c.offer, tables.IS_READY)
_WALK = (
    select(*_columns_of_waiting())
    .where(tables.IS_WAITING, _jobs.c.owner == bindparam("of_owner"))
    .order_by(_jobs.c.rank, _jobs.c.number)
    .limit(bindparam("most", type_=Integer))
)
_OF_SHAPE = _WALK.where(_jobs.c.shape == bindparam("shape"))
# SQLite finds a row's place in an index by the pair (rank, number) no better than by its rank, so there it is read in
# two steps; where it is not, PostgreSQL takes the index of the numbers and passes over other owners' jobs.
_AFTER = tuple_(_jobs.c.rank, _jobs.c.number) > tuple_(bindparam("rank"), bindparam("number"))
_OF_RANK = (_jobs.c.rank == bindparam("rank")) & (_jobs.c.number > bindparam("number"))
_OF_LATER_RANKS = _jobs.c.rank > bindparam("rank")
_peers = _jobs.alias("peers")


def _not_kept_from(rows: FromClause) -> ColumnElement[bool]:
    """Leave out what is kept from a VM; see ``Waiting.avoids``."""
    return or_(rows.c.avoid_vm != bindparam("but_for"), rows.c.avoid_until_ms <= bindparam("now_ms"))


def _heads(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Give an owner's first waiting job of each shape, by one probe each."""
    first = (
        select(_peers.c.number)
        .where(_peers.c.state == literal_column("'submitted'"), _peers.c.not_before_ms == literal_column("0"))
        .where(_peers.c.owner == bindparam("of_owner"), _peers.c.shape == tables.shapes.c.number, *conditions)
        .order_by(_peers.c.rank, _peers.c.number)
        .limit(1)
        .correlate(tables.shapes)
        .scalar_subquery()
    )
    among = tables.shapes.c.number.in_(bindparam("shapes", expanding=True))
    return select(*_columns_of_waiting()).where(_jobs.c.number.in_(select(first).where(among)))


_HEADS = _heads()
_HEADS_BUT_FOR = _heads(_not_kept_from(_peers))


def _with_shapes() -> Select[Any]:
    """List the owners of whom jobs of some shapes wait."""
    waits = (
        select(_peers.c.number)
        .where(_peers.c.state == literal_column("'submitted'"), _peers.c.not_before_ms == literal_column("0"))
        .where(_peers.c.owner == _kinds.c.owner, _peers.c.shape == _kinds.c.shape)
        .exists()
    )
    among = _kinds.c.shape.in_(bindparam("shapes", expanding=True))
    return select(_kinds.c.owner).distinct().where(among, waits)


_WITH_SHAPES = _with_shapes()


class WaitingLines:
    """All that waits, or what is of some shapes alone, as one transaction sees it."""

    def __init__(self, tx: Tx, pool: VmPool, only: Collection[int] | None = None) -> None:
        self._tx, self._pool, self._only = tx, pool, only
        self._owners = values(tx, _OWNERS) if only is None else _owners_of_shapes(tx, only)
        self._accounts = Accounts(tx, self._owners)
        self._turns = self._accounts.turns()
        self._known: dict[str, set[int]] = {}
        self.backlogs = Backlogs(self._as_seen_by)

    def close(self, pairs: Sequence[Pair]) -> None:
        """Write down what was given to whom."""
        self._accounts.close((job.owner, self._weigh(job, free)) for job, free in pairs)

    def _as_seen_by(self, vm: str, taken: set[int]) -> OwnersBacklog:
        """Give what a VM is not kept from; empty = everything."""
        return OwnersBacklog(self._turns, lambda owner: self._line(owner, vm, taken), self._owners_of, self._weigh)

    def _line(self, owner: str, vm: str, taken: set[int]) -> Backlog:
        lines = _LinesOfOwner(self._tx, owner, vm, max(SHORTEST_PAGE, PAGE // len(self._owners)))
        walk = lines.walk() if self._only is None else None
        kinds = None if self._only is None else len(self._only)
        return Backlog(walk, lines.queues, lambda offer: self._fitting_of(owner, offer), self._fits, kinds, taken)

    def _weigh(self, job: Waiting, free: Free) -> int:
        return self._pool.weight(job.shape, free.offer) if self._accounts.are_several else 0

    def _fits(self, shape: int, offer: int) -> bool:
        known = self._tx.known.fits.get((shape, offer))
        return judged(self._tx, [shape], [offer])[shape, offer] if known is None else known

    def _shapes_of(self, owner: str) -> Collection[int]:
        """Say of which shapes jobs of an owner may wait; read once."""
        if self._only is not None:
            return self._only
        self._read_kinds([owner])
        return self._known[owner]

    def _read_kinds(self, owners: Iterable[str]) -> None:
        new = [owner for owner in owners if owner not in self._known]
        self._known |= {owner: set() for owner in new}
        for some in portions(new):
            for owner, shape in self._tx.execute(_KINDS, {"owners": some}):
                self._known[owner].add(shape)

    def _fitting_of(self, owner: str, offer: int) -> list[int]:
        compared = judged(self._tx, self._shapes_of(owner), [offer])
        return [shape for (shape, _), meets in compared.items() if meets]

    def _owners_of(self, offer: int) -> set[str]:
        """Name the owners of whose jobs some may fit an offer. All kinds are looked through once."""
        if self._only is None:
            self._read_kinds(self._owners)
        shapes = set().union(*(self._shapes_of(owner) for owner in self._owners))
        fitting = {shape for (shape, _), meets in judged(self._tx, shapes, [offer]).items() if meets}
        return {owner for owner in self._owners if not fitting.isdisjoint(self._shapes_of(owner))}


def _owners_of_shapes(tx: Tx, shapes: Collection[int]) -> list[str]:
    """Name the owners of whom jobs of some of these shapes wait, by a probe for each of their kinds."""
    some_of = ({"shapes": some} for some in portions(sorted(shapes)))
    return sorted({owner for some in some_of for owner in tx.execute(_WITH_SHAPES, some).scalars()})


class _LinesOfOwner:
    """An owner's waiting jobs, but those that are kept from a VM."""

    def __init__(self, tx: Tx, owner: str, vm: str, first_page: int) -> None:
        self._tx, self._vm, self._first_page = tx, vm, first_page
        kept_off = {"but_for": vm, "now_ms": tx.lease_now_ms} if vm else {}
        self._values = {"of_owner": owner} | kept_off

    def walk(self) -> Iterator[Waiting]:
        """Give all of them in order."""
        return self._pages(_WALK, self._values)

    def queues(self, shapes: Collection[int]) -> dict[int, Iterator[Waiting]]:
        """Give those of each of these shapes in order; what waits of none is left out."""
        first = _HEADS_BUT_FOR if self._vm else _HEADS
        some_of = ({"shapes": some} | self._values for some in portions(sorted(shapes)))
        heads = [Waiting._make(row) for some in some_of for row in self._tx.execute(first, some)]
        return {
            head.shape: chain([head], self._pages(_OF_SHAPE, self._values | {"shape": head.shape}, head))
            for head in heads
        }

    def _pages(self, statement: Select[Any], named: dict[str, Any], after: Waiting | None = None) -> Iterator[Waiting]:
        if self._vm:
            statement = statement.where(_not_kept_from(_jobs))
        following, most = [statement] if after is None else [], self._first_page
        while True:
            if after is not None:
                named = named | {"rank": after.rank, "number": after.number}
                following = self._following(statement)
            page: list[Waiting] = []
            while following and not page:
                page = [Waiting._make(row) for row in self._tx.execute(following.pop(0), named | {"most": most})]
            if not page:
                return
            yield from page
            after, most = page[-1], min(PAGE, 2 * most)

    def _following(self, statement: Select[Any]) -> list[Select[Any]]:
        if self._tx.is_sqlite:
            return [statement.where(_OF_RANK), statement.where(_OF_LATER_RANKS)]
        return [statement.where(_AFTER)]


def values(tx: Tx, distinct: Select[Any], **named: Any) -> list[Any]:
    """Read what ``OFFERS`` and its like list."""
    return [value for (value,) in tx.execute(distinct, named) if value is not None]


def judged(tx: Tx, shapes: Iterable[int], offers: Collection[int]) -> dict[tuple[int, int], bool]:
    """Say which of these offers meet which of these shapes; each pair of classes is compared once, then known."""
    found = {(shape, offer): tx.known.fits.get((shape, offer)) for shape in shapes for offer in offers}
    new = [pair_of for pair_of, meets in found.items() if meets is None]
    if new:
        asked = classes.shapes(tx, sorted({shape for shape, _ in new}))
        offered = classes.offers(tx, sorted({offer for _, offer in new}))
        compared = {(shape, offer): not unmet(asked[shape], offered[offer]) for shape, offer in new}
        tx.known.fits.update(compared)
        found |= compared
    return {pair_of: bool(meets) for pair_of, meets in found.items()}
