"""Whether the free slots of a VM may be given jobs: blocked while it does not run, is silent, or rests.

A request's ``state`` says so, ``ready`` or ``blocked``; matching reads ready ones alone. Whoever changes one of the
reasons settles the VM's requests in the same transaction. A guest of a newer boot than its host's last word is not
blocked by that word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, bindparam, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from adapters.ledger import tables
from adapters.ledger.transaction import PORTION, Tx, portions
from schemas.events import Event, EventKind
from schemas.vms import UNDECIDED

#: States in which a VM keeps what its payloads have begun though it does not beat.
PAUSED = frozenset({"pausing", "paused", "saving", "saved"})
#: States in which a VM can take no job.
NOT_RUNNING = PAUSED | UNDECIDED | {"poweredoff", "stopping", "aborted", "stuck", "absent"}
#: What a guest agent does: it beats, or it has not for three beats. A VM that was never heard of has neither word.
SPEAKS, SILENT = "speaks", "silent"
READY, BLOCKED = "ready", "blocked"

_requests, _vms = tables.requests, tables.vms

_ASKED = (
    select(
        *(_requests.c[name] for name in ("vm", "generation", "offer", "state")),
        _vms.c.state.label("vm_state"),
        *(_vms.c[name] for name in ("told_generation", "agent", "rest_until_ms")),
    )
    .join_from(_requests, _vms, _vms.c.vm == _requests.c.vm)
    .where(_requests.c.vm.in_(bindparam("vms", expanding=True)))
    .distinct()
)
_SETTLE = (
    update(_requests)
    .where(_requests.c.vm == bindparam("of_vm"), _requests.c.generation == bindparam("of_generation"))
    .values(state=bindparam("now_in"))
)


def _change_first(*conditions: ColumnElement[bool], **values: Any) -> ReturningUpdate[tuple[str]]:
    """Change a portion of the VMs that are so.

    The conditions are said twice: a VM that another transaction has changed meanwhile, as its beat does, is judged anew
    by the outer ones alone.
    """
    first = select(_vms.c.vm).where(*conditions).limit(PORTION).scalar_subquery()
    return update(_vms).where(_vms.c.vm.in_(first), *conditions).values(**values).returning(_vms.c.vm)


_FALL_SILENT = _change_first(tables.IS_SPEAKING, _vms.c.beat_ms < bindparam("before_ms"), agent=SILENT)
_RESTED = _change_first(tables.IS_RESTING, _vms.c.rest_until_ms <= bindparam("now_ms"), rest_until_ms=0)


class Asked(NamedTuple):
    """Requests of one boot of a VM, and what is known of it."""

    vm: str
    generation: int
    offer: int
    state: str
    vm_state: str
    told_generation: int
    agent: str
    rest_until_ms: int


def readiness(asked: Asked) -> str:
    """Say what these requests should be."""
    halted = asked.vm_state in NOT_RUNNING and asked.generation <= asked.told_generation
    return BLOCKED if halted or asked.agent == SILENT or asked.rest_until_ms else READY


def settle(tx: Tx, vms: Sequence[str]) -> None:
    """Make the requests of these VMs ready or blocked, as they now are; counts those that may be served again."""
    found = [Asked._make(row) for some in portions(sorted(vms)) for row in tx.execute(_ASKED, {"vms": some})]
    changed = [(one, readiness(one)) for one in found if one.state != readiness(one)]
    rows = [{"of_vm": one.vm, "of_generation": one.generation, "now_in": now_in} for one, now_in in changed]
    tx.each(_SETTLE, rows)
    tx.fresh_offers |= {one.offer for one, now_in in changed if now_in == READY}
    tx.counts["requests_unblocked"] += sum(now_in == READY for _, now_in in changed)


def fall_silent(tx: Tx) -> int:
    """Block what VMs have asked for whose agents have not been heard for three beats; gives how many, of a portion."""
    silent = list(tx.execute(_FALL_SILENT, {"before_ms": tx.lease_now_ms - tx.policy.silence_ms}).scalars())
    for vm in silent:
        tx.tell(Event(event=EventKind.AGENT_SILENT, host="", vm=vm, was=SPEAKS, state=SILENT))
    settle(tx, silent)
    return len(silent)


def end_rests(tx: Tx) -> int:
    """Let VMs that have rested long enough be given a job again; gives how many, of a portion."""
    rested = list(tx.execute(_RESTED, {"now_ms": tx.lease_now_ms}).scalars())
    settle(tx, rested)
    return len(rested)
