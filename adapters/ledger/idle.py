"""Free job slots in the order in which they are served, of some classes of machine; a class may be left out on the way.

Of a few classes each is read by its own index; of many, the whole order is read and the others are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from heapq import heapify, heappop, heapreplace
from typing import Any

from sqlalchemy import Integer, bindparam, exists, select, tuple_

from adapters.ledger import tables
from adapters.ledger.matching import Free
from adapters.ledger.transaction import Tx

#: Rows read at a time; a batch seldom needs more.
PAGE = 64
#: Classes that are read each by itself; a query more costs as much as passing over some hundred rows.
MOST_APART = 3

_requests, _vms = tables.requests, tables.vms
_HAS_LARGE = exists().where(tables.IS_OPEN_AND_LARGE, tables.attempts.c.vm == _requests.c.vm)

_ORDER = (_requests.c.ahead, _requests.c.asked_ms, _requests.c.vm, _requests.c.slot)
_FIRST = (
    select(
        *(_requests.c[name] for name in ("vm", "slot", "offer", "request_id", "generation", "ahead", "asked_ms")),
        *(
            _vms.c[name]
            for name in ("host", "hypervisor", "pid", "boot_id", "strikes", "kept_for", "kept_until_ms", "returns")
        ),
        _HAS_LARGE.label("is_crowded"),
    )
    .join_from(_requests, _vms, _vms.c.vm == _requests.c.vm)
    .where(tables.IS_READY)
    .order_by(*_ORDER)
    .limit(PAGE)
    .with_for_update(of=_requests, skip_locked=True)
)
_AFTER = tuple_(*_ORDER) > tuple_(
    bindparam("ahead"), bindparam("asked_ms"), bindparam("after_vm"), bindparam("after_slot")
)
_OF_OFFER = _FIRST.where(_requests.c.offer == bindparam("offer"))
# The sum keeps SQLite from the index of offers, after which it would have to sort them all.
_OF_OFFERS = _FIRST.where((_requests.c.offer + 0).in_(bindparam("offers", type_=Integer, expanding=True)))

_Place = tuple[int, int, str, int]


class Idle:
    """The free slots of these offers. Iterate; ``leave_out`` an offer whose slots nothing fits any more."""

    def __init__(self, tx: Tx, offers: Collection[int]) -> None:
        self._tx = tx
        self._offers = set(offers)

    def leave_out(self, offer: int) -> None:
        """Give no more slots of this offer."""
        self._offers.discard(offer)

    def __iter__(self) -> Iterator[Free]:
        return self._apart() if len(self._offers) <= MOST_APART else self._together()

    def _together(self) -> Iterator[Free]:
        for free in _pages(self._tx, _OF_OFFERS, lambda: {"offers": sorted(self._offers)}):
            if free.offer in self._offers:
                yield free

    def _line(self, offer: int) -> Iterator[Free]:
        return _pages(self._tx, _OF_OFFER, lambda: {"offer": offer})

    def _apart(self) -> Iterator[Free]:
        lines = {offer: self._line(offer) for offer in sorted(self._offers)}
        heads = [(_place(head), head) for line in lines.values() if (head := next(line, None))]
        heapify(heads)
        while heads:
            _, free = heads[0]
            if free.offer in self._offers:
                yield free
            follower = next(lines[free.offer], None) if free.offer in self._offers else None
            if follower is None:
                heappop(heads)
            else:
                heapreplace(heads, (_place(follower), follower))


def _pages(tx: Tx, statement: Any, values: Callable[[], dict[str, Any]]) -> Iterator[Free]:
    page = [Free._make(row) for row in tx.execute(statement, values())]
    while page:
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1]
        place = {"ahead": last.ahead, "asked_ms": last.asked_ms, "after_vm": last.vm, "after_slot": last.slot}
        page = [Free._make(row) for row in tx.execute(statement.where(_AFTER), values() | place)]


def _place(free: Free) -> _Place:
    return free.ahead, free.asked_ms, free.vm, free.slot
