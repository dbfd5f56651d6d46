"""Events that guests bring about by what they say: each VM has a share of them of its own, so that none of them costs
its host, or the VMs beside it, an event of theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import bindparam, func, select

from adapters.ledger import tables
from adapters.ledger.transaction import Tx, portions
from schemas.events import Event, EventKind

#: What a guest brings about: it is what is left when it begins anew, or is silent for a while, again and again.
OF_GUESTS = frozenset({EventKind.AGENT_READY, EventKind.AGENT_SILENT})
#: So many in a while; who starts a VM more often than that has the events of its states.
MOST_IN_WHILE, WHILE_MS = 8, 600_000

_rows = tables.happenings
_TOLD = (
    select(_rows.c.vm, _rows.c.event, func.count())
    .where(
        _rows.c.vm.in_(bindparam("vms", expanding=True)),
        _rows.c.event.in_([*OF_GUESTS, EventKind.LEFT_OUT]),
        _rows.c.lease_ms > bindparam("since_ms"),
    )
    .group_by(_rows.c.vm, _rows.c.event)
)


def within_shares(tx: Tx, said: Sequence[Event]) -> list[Event]:
    """Leave out what VMs are over their shares; that this begins is an event as well, once in a while."""
    told: Counter[str] = Counter()
    warned: set[str] = set()
    since_ms = tx.lease_now_ms - WHILE_MS
    for some in portions(sorted({one.vm for one in said})):
        for vm, event, count in tx.execute(_TOLD, {"vms": some, "since_ms": since_ms}):
            if event == EventKind.LEFT_OUT:
                warned.add(vm)
            else:
                told[vm] += count
    kept: list[Event] = []
    for one in said:
        told[one.vm] += 1
        if told[one.vm] <= MOST_IN_WHILE:
            kept.append(one)
            continue
        tx.counts["events_left_out"] += 1
        if one.vm not in warned:
            warned.add(one.vm)
            kept.append(_left_out(one))
    return kept


def _left_out(event: Event) -> Event:
    often = f"more than {MOST_IN_WHILE} times in {WHILE_MS // 1000} s"
    why = f"its guest agent came or fell silent {often}: more of that is left out"
    return Event(event=EventKind.LEFT_OUT, host=event.host, vm=event.vm, name=event.name, why=why)
