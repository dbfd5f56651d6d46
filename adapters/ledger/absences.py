"""Hosts that fall silent, say goodbye and come back, as events: each is told once.

``hosts.told`` is the presence that was told last; what holds now is ``presence``'s to say. Silence is counted by the
lease clock, which stands still while nothing can be heard.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, bindparam, select, update

from adapters.ledger import tables
from adapters.ledger.presence import LATE_AFTER, LOST_AFTER, Presence
from adapters.ledger.transaction import PORTION, Tx
from schemas.events import Event, EventKind

_hosts = tables.hosts

_TOLD = select(_hosts.c.told).where(_hosts.c.host == bindparam("of_host"))
_TELL = update(_hosts).where(_hosts.c.host == bindparam("of_host")).values(told=bindparam("now_told"))


def _fall(to: Presence, before: Presence) -> Any:
    """Change a portion of the hosts that were told to be ``before``. The conditions are said twice: one that another
    transaction has changed meanwhile, as its beat does, is judged anew by the outer ones alone."""
    conditions: list[ColumnElement[bool]] = [
        _hosts.c.told == before.value,
        _hosts.c.beat_ms < bindparam("before_ms"),
    ]
    first = select(_hosts.c.host).where(*conditions).limit(PORTION).scalar_subquery()
    return update(_hosts).where(_hosts.c.host.in_(first), *conditions).values(told=to.value).returning(_hosts.c.host)


#: In this order: one that was silent for so long between two looks is told to be late, and then lost.
_FALLS = (
    (_fall(Presence.LATE, Presence.PRESENT), LATE_AFTER, EventKind.HOST_LATE, Presence.LATE),
    (_fall(Presence.LOST, Presence.LATE), LOST_AFTER, EventKind.HOST_LOST, Presence.LOST),
)


def heard(tx: Tx, host: str) -> None:
    """A host, which has a row, has spoken: tell it if that is news."""
    before = str(tx.execute(_TOLD, {"of_host": host}).scalar() or "")
    if before == Presence.PRESENT:
        return
    kind = EventKind.HOST_BACK if before else EventKind.HOST_PRESENT
    _tell(tx, Event(event=kind, host=host, was=before, state=Presence.PRESENT))


def said_bye(tx: Tx, host: str, why: str) -> None:
    """A host's agent has said that it stops: tell it, once, of a host that is known."""
    before = tx.execute(_TOLD, {"of_host": host}).scalar()
    if before is not None and before != Presence.ABSENT:
        _tell(tx, Event(event=EventKind.HOST_BYE, host=host, was=before, state=Presence.ABSENT, why=why))


def fall_silent(tx: Tx) -> int:
    """Tell of hosts that have missed their beats; gives how many, of a portion."""
    most = 0
    for statement, beats, kind, now in _FALLS:
        before_ms = tx.lease_now_ms - int(1000 * beats * tx.policy.beat_s)
        fallen = list(tx.execute(statement, {"before_ms": before_ms}).scalars())
        for host in sorted(fallen):
            tx.tell(Event(event=kind, host=host, state=now, why=f"{beats} beats missed"))
        most = max(most, len(fallen))
    return most


def _tell(tx: Tx, event: Event) -> None:
    tx.execute(_TELL, {"of_host": event.host, "now_told": event.state})
    tx.tell(event)
