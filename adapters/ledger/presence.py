"""Whether hosts and VMs are there, by what was last heard of them. Pure, but for the same words as SQL.

A host is late after two beats, lost after three, by the lease clock, which stands still while nothing can be heard. Of
a VM that its host says runs, nothing is known once the host is lost or has said goodbye and the guest is silent too.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, case, literal, or_

from adapters.ledger import tables
from adapters.ledger.policy import Policy
from adapters.ledger.readiness import NOT_RUNNING, SPEAKS
from adapters.ledger.transaction import Tx
from schemas.vms import VmState

_hosts, _vms = tables.hosts, tables.vms

#: State of a VM of which nothing is heard any more.
LOST_VM = VmState.LOST.value


class Presence(StrEnum):
    """Whether a host is there."""

    PRESENT = "present"
    #: It has missed two beats.
    LATE = "late"
    #: It has missed three.
    LOST = "lost"
    #: Its agent has said that it stops.
    ABSENT = "absent"


#: Beats that a host has missed when it is late, and when it is lost.
LATE_AFTER, LOST_AFTER = 2, 3


def presence(*, is_present: bool, beat_ms: int, lease_now_ms: int, policy: Policy) -> Presence:
    """Say whether a host is there that last spoke then, and has not said goodbye since (``is_present``)."""
    missed = (lease_now_ms - beat_ms) / (1000 * policy.beat_s)
    if not is_present:
        return Presence.ABSENT
    return Presence.LOST if missed > LOST_AFTER else Presence.LATE if missed > LATE_AFTER else Presence.PRESENT


def presence_in_sql(tx: Tx) -> ColumnElement[Any]:
    """``presence`` of a row of ``hosts``."""
    return case(
        (_hosts.c.present.is_(False), literal(Presence.ABSENT.value)),
        (_hosts.c.beat_ms < _before_ms(tx, LOST_AFTER), literal(Presence.LOST.value)),
        (_hosts.c.beat_ms < _before_ms(tx, LATE_AFTER), literal(Presence.LATE.value)),
        else_=literal(Presence.PRESENT.value),
    )


def vm_state_in_sql(tx: Tx) -> ColumnElement[Any]:
    """The state of a row of ``vms``, joined with its host's where there is one: as its host said, or ``lost``."""
    is_gone = or_(_hosts.c.host.is_(None), _hosts.c.present.is_(False), _hosts.c.beat_ms < _before_ms(tx, LOST_AFTER))
    runs = _vms.c.state.not_in(sorted(NOT_RUNNING))
    return case((and_(is_gone, runs, _vms.c.agent != SPEAKS), literal(LOST_VM)), else_=_vms.c.state)


def _before_ms(tx: Tx, beats: int) -> int:
    return tx.lease_now_ms - int(1000 * beats * tx.policy.beat_s)
