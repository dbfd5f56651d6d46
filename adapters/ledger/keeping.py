"""VMs that are kept free for jobs which need more than a slot's share and have waited for long: one for each shape.

It is the VM of which all that runs there must be over first, by the terms of its attempts (see ``terms``), and not one
whose slot happens to be idle: what runs in its other slots may take for weeks. It stays the same one while it can take
jobs, so that it does come free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import bindparam, case, exists, func, select, update

from adapters.ledger import classes, tables
from adapters.ledger.matching import unmet
from adapters.ledger.readiness import NOT_RUNNING
from adapters.ledger.transaction import Tx
from schemas.jobs import Phase

#: How long a VM is kept free for a shape of jobs unless that is said again, ms of the lease clock.
KEPT_MS = 30_000

_vms, _attempts, _requests = tables.vms, tables.attempts, tables.requests

_CAN_WORK = tables.IS_SPEAKING & (_vms.c.rest_until_ms == 0) & _vms.c.state.not_in(sorted(NOT_RUNNING))
_HAS_WORK = exists().where(tables.IS_OPEN, _attempts.c.vm == _vms.c.vm)
_ASKS = exists().where(tables.IS_READY, _requests.c.vm == _vms.c.vm)
_KEPT = (
    select(_vms.c.vm, _vms.c.kept_until_ms)
    .where(tables.IS_KEPT, _vms.c.kept_for == bindparam("shape"), _vms.c.kept_until_ms > bindparam("now_ms"))
    .where(_CAN_WORK, _HAS_WORK | _ASKS, _vms.c.vm != bindparam("but_vm"))
    .limit(1)
)
_OFFERED = select(_vms.c.offer).where(_vms.c.offer.is_not(None), tables.IS_SPEAKING).distinct()
#: When an attempt is over, whatever its guest does.
_OVER = case(
    (_attempts.c.state == Phase.ASSIGNED.value, _attempts.c.over_ms + _attempts.c.may_take_ms),
    else_=_attempts.c.over_ms,
)
_FIRST_FREE = (
    select(_vms.c.vm)
    .join_from(_vms, _attempts, _attempts.c.vm == _vms.c.vm)
    .where(tables.IS_OPEN, _CAN_WORK, _vms.c.offer.in_(bindparam("offers", expanding=True)))
    .where(_vms.c.kept_until_ms <= bindparam("now_ms"), _vms.c.vm != bindparam("but_vm"))
    .group_by(_vms.c.vm)
    .order_by(func.max(_OVER), _vms.c.vm)
    .limit(1)
)
_KEEP = (
    update(_vms)
    .where(_vms.c.vm == bindparam("of_vm"))
    .values(kept_for=bindparam("shape"), kept_until_ms=bindparam("until_ms"))
)


class KeptVm(NamedTuple):
    """A VM that is kept free, and until when, as far as that is written down."""

    vm: str
    until_ms: int = 0


def keeper(tx: Tx, shape: int, but_vm: str) -> KeptVm:
    """Give the VM that is kept free for jobs of a shape, else choose one; none that can: an empty name."""
    values = {"now_ms": tx.lease_now_ms, "but_vm": but_vm}
    if kept := tx.execute(_KEPT, values | {"shape": shape}).first():
        return KeptVm(*kept)
    asked = classes.shapes(tx, [shape])[shape]
    offered = classes.offers(tx, list(tx.execute(_OFFERED).scalars()))
    meeting = sorted(number for number, machine in offered.items() if not unmet(asked, machine))
    return KeptVm(tx.execute(_FIRST_FREE, values | {"offers": meeting}).scalar() or "")


def keep(tx: Tx, kept: Mapping[int, KeptVm]) -> None:
    """Write down which VMs are kept free, by shape, so that nobody gives their slots to what comes meanwhile."""
    until_ms = tx.lease_now_ms + KEPT_MS
    due = {shape: one.vm for shape, one in kept.items() if one.vm and one.until_ms < until_ms - KEPT_MS // 2}
    tx.each(_KEEP, [{"of_vm": vm, "shape": shape, "until_ms": until_ms} for shape, vm in due.items()])
