"""Requests for work and hellos of guest agents: free slots become rows, and what a guest no longer has is lost.

What a guest must keep to: ``holding`` names every attempt that it has journalled and whose completion has not been
answered. Even so a message may cross an assignment, or come twice, so what is missing in ``holding`` is lost only if

* the attempt is of an older boot generation: its guest refuses that assignment, should it still be under way; or
* a *hello* leaves it out (an agent starts from its journal) and an earlier message showed that the agent had it. An
  assignment that no message has shown may still lie in the VM's durable queue; should it not, its lease runs out.

Earlier and later are told by the messages' UUIDv7, which the same guest has made: no clock is compared with another.

What a guest says of how many slots it has, and how soon it would begin, is put right by ``lanes``; of two requests for
one slot that would both begin first, the later one is behind all that stand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Integer, bindparam, case, delete, exists, func, select, tuple_, update

from adapters.ledger import attempts, guests, tables
from adapters.ledger.attempts import AttemptState, Held
from adapters.ledger.guests import Guest, Sighting
from adapters.ledger.lanes import Lanes
from adapters.ledger.readiness import BLOCKED, READY
from adapters.ledger.transaction import PORTION, Insert, Tx, insert_into
from schemas.ids import JobRef
from schemas.jobs import AgentHello, AttemptRef, JobRequest, JobWithdraw

_requests, _vms, _attempts = tables.requests, tables.vms, tables.attempts

_HELLO = select(_vms.c.hello_id).where(_vms.c.vm == bindparam("of_vm"))
_SET_HELLO = update(_vms).where(_vms.c.vm == bindparam("of_vm")).values(hello_id=bindparam("hello"))
_SEEN = (
    update(_attempts)
    .where(_attempts.c.job == bindparam("of_job"), _attempts.c.attempt == bindparam("of_attempt"))
    .values(seen_id=bindparam("seen"), generation=bindparam("now_of"))
)
_WITHDRAW = delete(_requests).where(
    _requests.c.vm == bindparam("of_vm"),
    _requests.c.slot == bindparam("of_slot"),
    _requests.c.request_id < bindparam("id"),
)
_IS_OLD = _requests.c.repeated_ms < bindparam("before_ms")
_OLD = select(_requests.c.vm, _requests.c.slot).where(_IS_OLD).limit(PORTION)
# Said twice: one that is repeated meanwhile is judged anew by the outer condition alone.
_FORGET = delete(_requests).where(tuple_(_requests.c.vm, _requests.c.slot).in_(_OLD), _IS_OLD)


#: Attempts that a guest names, by job and number.
Named = frozenset[tuple[JobRef, int]]


class Ask(NamedTuple):
    """A free slot of a VM, and the request that says so."""

    vm: str
    slot: int
    #: Jobs that one given to it would wait for.
    ahead: int
    message: JobRequest
    #: What its guest holds.
    named: Named


def ask(tx: Tx, vm: str, message: JobRequest) -> None:
    """Take one request; see ``ask_all``."""
    ask_all(tx, [(vm, message)])


def ask_all(tx: Tx, messages: Sequence[tuple[str, JobRequest]]) -> None:
    """Take requests, each from the VM that the broker vouches for, for all slots it names; a slot's newest stands.

    Nothing happens for a stale generation, for a request that has already been served (a repetition), for a slot whose
    assignment is still on its way, and for more than such a VM may have. ``match`` is the caller's.
    """
    known = guests.sight(tx, [Sighting(vm, m.generation, m.machine) for vm, m in messages])
    current = [(vm, m) for vm, m in messages if _is_current(tx, known[vm], m.generation)]
    held = _held(tx, {vm for vm, _ in current})
    _note_held(tx, held, [(vm, m.id, m.generation, m.holding) for vm, m in current])
    gone = {(lost.number, lost.attempt): lost for vm, m in current for lost in _outlived(held[vm], m)}
    _lose(tx, gone)
    held = {vm: [one for one in has if (one.number, one.attempt) not in gone] for vm, has in held.items()}
    on_slots = _by_slot(held)
    newest = {(ask.vm, ask.slot): ask for ask in sorted(_asked(current), key=_order)}
    free = [ask for ask in newest.values() if _is_free(tx, on_slots[ask.vm, ask.slot], ask)]
    _save(tx, _admitted(tx, free, held, known), known)


def withdraw_all(tx: Tx, messages: Sequence[tuple[str, JobWithdraw]]) -> None:
    """Forget requests that a guest does not stand by any more; one that it has said since then stays. Idempotent."""
    tx.each(
        _WITHDRAW,
        [{"of_vm": vm, "of_slot": slot, "id": m.id} for vm, m in messages for slot in sorted(set(m.slots))],
    )


def hello(tx: Tx, vm: str, message: AgentHello) -> None:
    """Take a guest agent's start: what it should have and does not is lost. Idempotent; an overtaken one is ignored."""
    known = guests.sight(tx, [Sighting(vm, message.generation, message.machine)])[vm]
    if not _is_current(tx, known, message.generation):
        return
    if message.id <= (tx.execute(_HELLO, {"of_vm": vm}).scalar() or ""):
        tx.counts["stale_hello"] += 1
        return
    tx.execute(_SET_HELLO, {"of_vm": vm, "hello": message.id})
    held = _held(tx, {vm})
    _note_held(tx, held, [(vm, message.id, message.generation, message.holding)])
    named = _named(message.holding)
    gone = [
        lost for lost in held[vm] if is_outlived(lost, message.generation, named) or is_dropped(lost, message.id, named)
    ]
    _lose(tx, {(lost.number, lost.attempt): lost for lost in gone})


def forget(tx: Tx, before_ms: int) -> int:
    """Forget requests that have not been repeated since then: their guests are gone. Gives how many, of a portion."""
    forgotten = tx.execute(_FORGET, {"before_ms": before_ms}).rowcount
    tx.counts["requests_forgotten"] += forgotten
    return forgotten


def is_outlived(held: Held, generation: int, named: Named) -> bool:
    """Whether an attempt is of an older boot of its VM, which the guest did not carry over."""
    return held.generation < generation and (held.ref, held.attempt) not in named


def is_dropped(held: Held, hello_id: str, named: Named) -> bool:
    """Whether a starting agent has lost an attempt that it once had."""
    return "" < held.seen_id < hello_id and (held.ref, held.attempt) not in named


def is_served(held: Held, request: JobRequest) -> bool:
    """Whether a request for the slot was answered by this very assignment, or by one that was asked for later."""
    return request.id <= held.request_id


def is_on_its_way(held: Held, request: JobRequest, named: Named) -> bool:
    """Whether an assignment to the slot has been sent to this boot, and no message has shown its arrival yet."""
    return held.generation == request.generation and not held.seen_id and (held.ref, held.attempt) not in named


def _outlived(held: Sequence[Held], message: JobRequest) -> list[Held]:
    named = _named(message.holding) if held else frozenset()
    return [one for one in held if is_outlived(one, message.generation, named)]


def _named(holding: Iterable[AttemptRef]) -> Named:
    """Look each name up once: a guest decides how many there are, and they are compared with all that it holds."""
    return frozenset((ref.job, ref.attempt) for ref in holding)


def _is_current(tx: Tx, known: Guest, generation: int) -> bool:
    if generation < known.generation:
        tx.counts["stale_generation"] += 1
    return generation >= known.generation


def _asked(messages: Iterable[tuple[str, JobRequest]]) -> Iterator[Ask]:
    for vm, message in messages:
        named = _named(message.holding)
        for nth, slot in enumerate((message.slot, *message.more)):
            yield Ask(vm, slot, message.ahead + nth, message, named)


def _admitted(tx: Tx, asked: Iterable[Ask], held: Mapping[str, list[Held]], known: Mapping[str, Guest]) -> list[Ask]:
    """Leave out what is more than a VM may have, and put right how many jobs each would wait for."""
    lanes: dict[str, Lanes] = {}
    admitted = []
    for ask in sorted(asked, key=_turn):
        if ask.vm not in lanes:
            taken = [one.slot for one in held.get(ask.vm, [])]
            lanes[ask.vm] = Lanes(ask.message.machine, known[ask.vm].cpus, taken)
        ahead = lanes[ask.vm].admit(ask.slot, ask.ahead)
        if ahead is None:
            tx.counts["request_beyond"] += 1
        else:
            admitted.append(ask._replace(ahead=ahead))
    return admitted


def _turn(ask: Ask) -> tuple[str, int, int]:
    return ask.vm, ask.ahead, ask.slot


def _order(ask: Ask) -> tuple[str, int, str]:
    return ask.vm, ask.slot, ask.message.id


def _by_slot(held: Mapping[str, Iterable[Held]]) -> Mapping[tuple[str, int], list[Held]]:
    by_slot: defaultdict[tuple[str, int], list[Held]] = defaultdict(list)
    for vm, attempts_of_vm in held.items():
        for one in attempts_of_vm:
            by_slot[vm, one.slot].append(one)
    return by_slot


def _is_free(tx: Tx, held: Iterable[Held], ask: Ask) -> bool:
    """Say whether the slot, of which ``held`` is what the ledger thinks it has, may be given a job for this request."""
    if any(is_served(one, ask.message) for one in held):
        tx.counts["request_served"] += 1
        return False
    if any(is_on_its_way(one, ask.message, ask.named) for one in held):
        tx.counts["assignment_on_its_way"] += 1
        return False
    return True


def _held(tx: Tx, vms: set[str]) -> Mapping[str, list[Held]]:
    by_vm: defaultdict[str, list[Held]] = defaultdict(list)
    for held in attempts.open_on(tx, sorted(vms)):
        by_vm[held.vm].append(held)
    return by_vm


def _note_held(tx: Tx, held: Mapping[str, list[Held]], said: Iterable[tuple[str, str, int, list[AttemptRef]]]) -> None:
    """Write down which assignments have arrived, and that those carried over a restore are of the new boot."""
    tx.each(
        _SEEN,
        [
            {
                "of_job": one.number,
                "of_attempt": one.attempt,
                "seen": one.seen_id or message_id,
                "now_of": max(one.generation, generation),
            }
            for vm, message_id, generation, holding in said
            if (named := {(ref.job, ref.attempt) for ref in holding})
            for one in held[vm]
            if (not one.seen_id or one.generation < generation) and (one.ref, one.attempt) in named
        ],
    )


def _lose(tx: Tx, gone: Mapping[tuple[int, int], Held]) -> None:
    """Give up attempts that were read unlocked: those that ended or were carried over meanwhile are left alone."""
    locked = attempts.latest_of(tx, [number for number, _ in gone]) if gone else []
    by_vm: defaultdict[str, list[tuple[Held, str]]] = defaultdict(list)
    for held in locked:
        before = gone.get((held.number, held.attempt))
        if before and held.is_open and held.generation == before.generation:
            by_vm[held.vm].append((held, f"the guest of {held.vm} came up without it"))
    for vm, lost in by_vm.items():
        attempts.give_up(tx, lost, AttemptState.LOST, f"{vm} (guest agent)")


_others = _requests.alias("others")
#: The VM's other requests for the same slot.
_STANDING = (
    (_others.c.vm == bindparam("vm"))
    & (_others.c.slot != bindparam("slot"))
    & (_others.c.slot % bindparam("slots", type_=Integer) == bindparam("place", type_=Integer))
)
_SAID = bindparam("ahead", type_=Integer)
_BEHIND = case(
    (
        exists().where(_STANDING, _others.c.ahead == _SAID),
        select(func.max(_others.c.ahead) + 1).where(_STANDING).scalar_subquery(),
    ),
    else_=_SAID,
)


@cache
def _upsert(is_sqlite: bool) -> Insert:
    plain = ("vm", "slot", "request_id", "generation", "offer", "state", "asked_ms", "repeated_ms")
    statement = insert_into(_requests, is_sqlite).values(
        {name: bindparam(name, type_=_requests.c[name].type) for name in plain} | {"ahead": _BEHIND}
    )
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["vm", "slot"],
        set_={name: new[name] for name in ("request_id", "generation", "offer", "state", "repeated_ms", "ahead")}
        | {"asked_ms": case((new.generation > _requests.c.generation, new.asked_ms), else_=_requests.c.asked_ms)},
    )


def _save(tx: Tx, asked: Sequence[Ask], known: Mapping[str, Guest]) -> None:
    rows = [_row(tx, ask, known[ask.vm]) for ask in asked]
    tx.each(_upsert(tx.is_sqlite), rows)
    tx.fresh_offers |= {row["offer"] for row in rows}


def _row(tx: Tx, ask: Ask, known: Guest) -> dict[str, Any]:
    return {
        "vm": ask.vm,
        "slot": ask.slot,
        "request_id": ask.message.id,
        "generation": ask.message.generation,
        "offer": known.offer,
        "state": BLOCKED if known.rest_until_ms else READY,
        "asked_ms": tx.now_ms,
        "repeated_ms": tx.lease_now_ms,
        "ahead": ask.ahead,
        "slots": ask.message.machine.slots,
        "place": ask.slot % ask.message.machine.slots,
    }
