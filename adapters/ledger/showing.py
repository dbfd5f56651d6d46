"""One host, or one VM, with all that is known of it and what happened to it last; ``registry`` gives pages of them."""

from __future__ import annotations

import msgspec
from sqlalchemy import bindparam, func, select

from adapters.errors import NotFound
from adapters.ledger import history, registry, tables
from adapters.ledger.transaction import Tx
from schemas.events import HostDetails, HostShow, VmDetails, VmShow
from schemas.ledger import HostRow

#: Events that are shown with it, and VMs of a host.
MOST_EVENTS, MOST_VMS = 20, 200

_hosts, _vms = tables.hosts, tables.vms

_HOST = select(_hosts).where(_hosts.c.host == bindparam("of_host"))
_COUNT = select(func.count()).where(tables.IS_THERE, _vms.c.host == bindparam("of_host"))
_VMS_OF = select(_vms.c.vm).where(tables.IS_THERE, _vms.c.host == bindparam("of_host")).order_by(_vms.c.vm)
_VM = select(_vms.c.vm).where(tables.IS_THERE, _vms.c.vm == bindparam("of_vm"))


def host(tx: Tx, message: HostShow) -> HostDetails:
    """Tell all about one host. Raises NotFound."""
    row = _host(tx, message.host)
    if row is None:
        raise NotFound(f"host = {message.host!r}: no such host", "`volcloud host list` shows them")
    vms = list(tx.execute(_VMS_OF.limit(MOST_VMS), {"of_host": message.host}).scalars())
    told = history.latest(tx, message.host, MOST_EVENTS)
    return HostDetails(call=message.id, host=row, vms=registry.vm_rows(tx, vms), events=told)


def vm(tx: Tx, message: VmShow) -> VmDetails:
    """Tell all about one VM that its host has. Raises NotFound."""
    rows = registry.vm_rows(tx, list(tx.execute(_VM, {"of_vm": message.vm}).scalars()))
    if not rows:
        raise NotFound(f"vm = {message.vm!r}: no such VM", "`volcloud vm list` shows them")
    told = history.latest(tx, message.vm, MOST_EVENTS)
    return VmDetails(call=message.id, vm=rows[0], host=_host(tx, rows[0].host), events=told)


def shorter(record: HostDetails) -> HostDetails:
    """Leave out half of the VMs of an answer that does not fit a message."""
    return msgspec.structs.replace(record, vms=record.vms[: len(record.vms) // 2])


def _host(tx: Tx, name: str) -> HostRow | None:
    row = tx.execute(_HOST, {"of_host": name}).first()
    vms = tx.execute(_COUNT, {"of_host": name}).scalar_one() if row is not None else 0
    return registry.host_row(tx, row, vms) if row is not None else None
