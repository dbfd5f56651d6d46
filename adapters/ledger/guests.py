"""Guest agents as they show themselves: which boot generation they are of, what they offer, when they last spoke.

A VM's known generation only grows, raised by its guest or by its host; what an older one says is stale. Hosts' words
are in ``inventory``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from sqlalchemy import bindparam, case, delete, func, select

from adapters.ledger import classes, readiness, tables
from adapters.ledger.policy import Policy
from adapters.ledger.transaction import Insert, Tx, insert_into, portions
from schemas.events import Event, EventKind
from schemas.jobs import Machine

_vms, _requests = tables.vms, tables.requests


class Sighting(NamedTuple):
    """A guest has spoken."""

    vm: str
    generation: int
    machine: Machine | None = None


class Guest(NamedTuple):
    """What the ledger knows of a guest."""

    vm: str
    generation: int
    offer: int | None
    agent_seen_ms: int
    agent_since_ms: int
    #: As ``agent_seen_ms``, by the lease clock.
    beat_ms: int
    agent: str
    boot_id: str
    #: Until when it is given nothing, and its cpus as its host says; others change these.
    rest_until_ms: int = 0
    cpus: int = 0


_SELECT = select(*(_vms.c[name] for name in Guest._fields)).where(_vms.c.vm.in_(bindparam("vms", expanding=True)))
_OUTDATED = delete(_requests).where(_requests.c.vm == bindparam("of_vm"), _requests.c.generation < bindparam("below"))
#: What a VM that no host has reported is taken to be.
UNREPORTED = {"host": "", "state": "unknown", "hypervisor": "", "pid": 0, "status": None, "paused_ms": 0, "name": ""}


def is_ready(beat_ms: int, lease_now_ms: int, policy: Policy) -> bool:
    """Whether an agent that last spoke then has spoken within its last three beats, by the lease clock."""
    return beat_ms >= lease_now_ms - policy.silence_ms


def sight(tx: Tx, sightings: Sequence[Sighting]) -> dict[str, Guest]:
    """Write down that guests have spoken and give what is known of each after it.

    The generation is the highest ever said; requests of lower ones are forgotten. What a lower one offers is ignored.
    One that was silent may be given jobs again.
    """
    names = sorted({seen.vm for seen in sightings})
    before = {row.vm: Guest._make(row) for some in portions(names) for row in tx.execute(_SELECT, {"vms": some})}
    offers = _offers(tx, sightings)
    after = dict(before)
    for seen in sightings:
        after[seen.vm] = _merge(tx, after.get(seen.vm), seen, offers.get(id(seen)))
    _save(tx, [after[vm] for vm in names if _is_news(before.get(vm), after[vm], tx.policy)])
    readiness.settle(tx, [vm for vm, guest in before.items() if guest.agent == readiness.SILENT])
    for vm, guest in after.items():
        _tell(tx, before.get(vm), guest)
    raised = [g for vm, g in after.items() if vm in before and g.generation > before[vm].generation]
    forget_outdated(tx, [(guest.vm, guest.generation) for guest in raised])
    return after


def _tell(tx: Tx, before: Guest | None, after: Guest) -> None:
    """Tell of an agent that serves, or serves in another boot."""
    if before is not None and (before.agent != readiness.SPEAKS or before.generation < after.generation):
        ready = Event(
            event=EventKind.AGENT_READY,
            host="",
            vm=after.vm,
            generation=after.generation,
            was=before.agent,
            state=readiness.SPEAKS,
        )
        tx.tell(ready)


def _offers(tx: Tx, sightings: Sequence[Sighting]) -> dict[int, int]:
    """Give the class of each machine that is shown, by its sighting. A VM that has shown too many is given no job."""
    keys = {id(seen): classes.offer_key(seen.machine) for seen in sightings if seen.machine}
    shown = [classes.Brought(keys[id(seen)], seen.vm) for seen in sightings if seen.machine]
    numbers = classes.offer_numbers(tx, shown)
    for one in shown:
        if one.key not in numbers:
            tx.refusals[one.by] = classes.too_many(one.by, classes.MOST_OF_VM, "machine")
    tx.counts["too_many_kinds"] += sum(one.key not in numbers for one in shown)
    return {number: numbers.get(key, classes.NO_CLASS) for number, key in keys.items()}


def forget_outdated(tx: Tx, raised: Sequence[tuple[str, int]]) -> None:
    """Forget the requests of VMs that are from before these generations."""
    tx.each(_OUTDATED, [{"of_vm": vm, "below": generation} for vm, generation in raised])


def _merge(tx: Tx, known: Guest | None, seen: Sighting, offer: int | None) -> Guest:
    now_ms, boot_id = tx.now_ms, seen.machine.boot_id.replace("\0", "") if seen.machine else ""
    if known is None:
        return Guest(seen.vm, seen.generation, offer, now_ms, now_ms, tx.lease_now_ms, readiness.SPEAKS, boot_id)
    if seen.generation < known.generation:
        return known
    again = seen.generation > known.generation or not is_ready(known.beat_ms, tx.lease_now_ms, tx.policy)
    return known._replace(
        generation=seen.generation,
        offer=known.offer if offer is None else offer,
        agent_seen_ms=now_ms,
        agent_since_ms=now_ms if again else known.agent_since_ms,
        beat_ms=tx.lease_now_ms,
        agent=readiness.SPEAKS,
        boot_id=boot_id or known.boot_id,
    )


def _is_news(before: Guest | None, after: Guest, policy: Policy) -> bool:
    """A guest that says nothing new is written down a few times before it would count as silent."""
    if before is None:
        return True
    said = after._replace(agent_seen_ms=before.agent_seen_ms, beat_ms=before.beat_ms)
    return said != before or after.beat_ms >= before.beat_ms + policy.silence_ms // 9


@cache
def _upsert(is_sqlite: bool) -> Insert:
    statement = insert_into(_vms, is_sqlite)
    new = statement.excluded
    newer = new.generation >= _vms.c.generation
    return statement.on_conflict_do_update(
        index_elements=["vm"],
        set_={
            "generation": case((newer, new.generation), else_=_vms.c.generation),
            "offer": case((newer, func.coalesce(new.offer, _vms.c.offer)), else_=_vms.c.offer),
            "agent_seen_ms": new.agent_seen_ms,
            "agent_since_ms": new.agent_since_ms,
            "beat_ms": new.beat_ms,
            "agent": new.agent,
            "boot_id": new.boot_id,
        },
    )


def _save(tx: Tx, guests: Sequence[Guest]) -> None:
    tx.each(_upsert(tx.is_sqlite), [guest._asdict() | UNREPORTED | {"hello_id": ""} for guest in guests])
