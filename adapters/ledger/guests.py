"""Guest agents as they show themselves: which boot generation they are of, what they offer, when they last spoke.

A VM's known generation only grows, raised by its guest or by its host; what an older one says is stale. Hosts' words
are in ``inventory``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from sqlalchemy import bindparam, case, delete, func, select

from adapters.ledger import classes, tables
from adapters.ledger.transaction import Insert, Policy, Tx, insert_into, portions
from schemas.jobs import Machine

#: A guest that says nothing new is written down at most this often, ms.
SEEN_STEP_MS = 5000

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


_SELECT = select(*(_vms.c[name] for name in Guest._fields)).where(_vms.c.vm.in_(bindparam("vms", expanding=True)))
_OUTDATED = delete(_requests).where(_requests.c.vm == bindparam("of_vm"), _requests.c.generation < bindparam("below"))
#: What a VM that no host has reported is taken to be.
UNREPORTED = {"host": "", "state": "unknown", "hypervisor": "", "pid": 0, "status": None, "paused_ms": 0, "name": ""}


def is_ready(agent_seen_ms: int, now_ms: int, policy: Policy) -> bool:
    """Whether an agent that last spoke then has spoken within its last three beats."""
    return agent_seen_ms > now_ms - 3000 * policy.beat_s


def sight(tx: Tx, sightings: Sequence[Sighting]) -> dict[str, Guest]:
    """Write down that guests have spoken and give what is known of each after it.

    The generation is the highest ever said; requests of lower ones are forgotten. What a lower one offers is ignored.
    """
    names = sorted({seen.vm for seen in sightings})
    before = {row.vm: Guest._make(row) for some in portions(names) for row in tx.execute(_SELECT, {"vms": some})}
    keys = {id(seen): classes.offer_key(seen.machine) for seen in sightings if seen.machine}
    numbers = classes.offer_numbers(tx, keys.values())
    after = dict(before)
    for seen in sightings:
        offer = numbers[keys[id(seen)]] if seen.machine else None
        after[seen.vm] = _merge(after.get(seen.vm), seen, offer, tx.now_ms, tx.policy)
    _save(tx, [after[vm] for vm in names if _is_news(before.get(vm), after[vm])])
    raised = [g for vm, g in after.items() if vm in before and g.generation > before[vm].generation]
    forget_outdated(tx, [(guest.vm, guest.generation) for guest in raised])
    return after


def forget_outdated(tx: Tx, raised: Sequence[tuple[str, int]]) -> None:
    """Forget the requests of VMs that are from before these generations."""
    tx.each(_OUTDATED, [{"of_vm": vm, "below": generation} for vm, generation in raised])


def _merge(known: Guest | None, seen: Sighting, offer: int | None, now_ms: int, policy: Policy) -> Guest:
    if known is None:
        return Guest(seen.vm, seen.generation, offer, now_ms, now_ms)
    if seen.generation < known.generation:
        return known
    again = seen.generation > known.generation or not is_ready(known.agent_seen_ms, now_ms, policy)
    return Guest(
        seen.vm,
        seen.generation,
        known.offer if offer is None else offer,
        now_ms,
        now_ms if again else known.agent_since_ms,
    )


def _is_news(before: Guest | None, after: Guest) -> bool:
    if before is None:
        return True
    said = after._replace(agent_seen_ms=before.agent_seen_ms)
    return said != before or after.agent_seen_ms >= before.agent_seen_ms + SEEN_STEP_MS


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
        },
    )


def _save(tx: Tx, guests: Sequence[Guest]) -> None:
    tx.each(_upsert(tx.is_sqlite), [guest._asdict() | UNREPORTED | {"hello_id": ""} for guest in guests])
