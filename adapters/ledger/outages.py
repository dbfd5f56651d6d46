"""Outages of the storage: while no storage adapter is at work no job's file gets in or out, and no end is told.

The centre is to blame for them and no guest: meanwhile the terms of attempts that move files do not end, and when an
adapter is at work again that time is added to them. An adapter whose store takes no files is not at work.
"""

from __future__ import annotations

import logging

from sqlalchemy import BigInteger, bindparam, update

from adapters.ledger import clock, tables
from adapters.ledger.transaction import Tx
from schemas.jobs import Phase

log = logging.getLogger(__name__)

#: Phases in which an attempt needs the storage to go on.
MOVES_FILES = frozenset({Phase.STAGE_IN, Phase.STAGE_OUT})
#: Silence of all storage adapters that is an outage, ms: each takes a turn every 10 s, and starts anew in less.
OUTAGE_MS = 60_000

_attempts = tables.attempts
_ADD = (
    update(_attempts)
    .where(tables.IS_OPEN, _attempts.c.state.in_(sorted(MOVES_FILES)), _attempts.c.over_ms > 0)
    .values(over_ms=_attempts.c.over_ms + bindparam("gap_ms", type_=BigInteger))
)


def held_up(tx: Tx) -> frozenset[Phase]:
    """Name the phases whose attempts cannot go on just now, whatever their guests do."""
    return MOVES_FILES if _gap_ms(tx) else frozenset()


def take_turn(tx: Tx) -> None:
    """Note that a storage adapter is at work and its store takes files; who was held up has the time of that added."""
    gap_ms = _gap_ms(tx)
    if gap_ms:
        log.warning("storage is at work again", extra={"silent_s": gap_ms // 1000})
        tx.execute(_ADD, {"gap_ms": gap_ms})
    clock.take_turn(tx, clock.STORAGE)


def _gap_ms(tx: Tx) -> int:
    """Say for how long an outage has lasted; 0 = there is none, also before the ledger's first storage adapter."""
    seen_ms = clock.last_seen_ms(tx, clock.STORAGE)
    silent_ms = tx.lease_now_ms - seen_ms
    return silent_ms if seen_ms and silent_ms > OUTAGE_MS else 0
