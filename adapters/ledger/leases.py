"""Leases: an assignment lives while its guest beats, or while its own host says that its VM is paused or saved.

``renew`` and ``expire`` write what the pure functions here decide. The caller runs ``expire`` only while beats are
consumed: after a start, a reconnect or a backlog not before one full lease has passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import bindparam, select, update

from adapters.ledger import attempts, events, guests, requests, tables, tallies
from adapters.ledger.attempts import AttemptState, Held, Work
from adapters.ledger.events import Note, readable
from adapters.ledger.guests import Sighting
from adapters.ledger.outcomes import Standing, after_revival
from adapters.ledger.transaction import Policy, Tx
from schemas.ids import JobRef
from schemas.jobs import AttemptRef, Holding, JobBeat, JobBeatAnswer, Phase
from schemas.ledger import JobState

#: Attempts that one call of ``expire`` gives up at most; the next call takes the rest.
MOST_EXPIRED = 1000

_PHASES = list(Phase)
_attempts, _vms = tables.attempts, tables.vms


class Lease(NamedTuple):
    """A lease, and since when the VM's own host calls it paused or saved (0: it does not)."""

    job: int
    lease_expires_ms: int
    paused_ms: int


class Word(NamedTuple):
    """What the ledger makes of one attempt that a beat names; one that is to be cancelled lives until it has ended."""

    #: Why the guest is to stop it; empty when it is not.
    stop: str = ""
    renews: bool = False


_RUN_OUT = (
    select(_attempts.c.job, _attempts.c.lease_expires_ms, _vms.c.paused_ms)
    .join_from(_attempts, _vms, _vms.c.vm == _attempts.c.vm)
    .where(tables.IS_OPEN, _attempts.c.lease_expires_ms < bindparam("now_ms"))
    .order_by(_attempts.c.lease_expires_ms)
)
_RENEW = (
    update(_attempts)
    .where(_attempts.c.job == bindparam("of_job"), _attempts.c.attempt == bindparam("of_attempt"))
    .values(
        {
            _attempts.c[name]: bindparam(f"new_{name}")
            for name in (
                "state",
                "generation",
                "seen_id",
                "started_ms",
                "ended_ms",
                "lease_expires_ms",
                "cause",
                "work",
            )
        }
    )
)
_MOVE = update(tables.jobs).where(tables.jobs.c.number == bindparam("of_job")).values(state=bindparam("now_in"))


def has_expired(lease: Lease, now_ms: int, policy: Policy) -> bool:
    """Whether a lease has run out: nobody beats, and no pause within its limit excuses it."""
    excused = lease.paused_ms > 0 and now_ms - lease.paused_ms <= policy.pause_limit_ms
    return lease.lease_expires_ms < now_ms and not excused


def word_on(held: Held | None, vm: str) -> Word:
    """Judge one attempt that ``vm`` says it holds.

    An attempt whose completion has counted is neither stopped nor renewed: the answer is on its way.
    """
    if held is None:
        return Word(stop="unknown_attempt")
    if held.vm != vm:
        return Word(stop="foreign_attempt")
    if held.completion_id:
        return Word()
    if not held.is_latest:
        return Word(stop="superseded")
    if held.cancel_requested or held.state == JobState.CANCELLED:
        return Word(stop="cancelled", renews=held.is_open)
    if held.is_open or held.can_return:
        return Word(renews=True)
    return Word(stop="superseded")


def further(now: str, said: Phase) -> Phase:
    """Give the later of two phases: a beat that was overtaken takes nothing back."""
    return max(Phase(now), said, key=_PHASES.index) if now in _PHASES else said


def renew(tx: Tx, vm: str, message: JobBeat) -> JobBeatAnswer:
    """Take one beat; see ``renew_all``."""
    return renew_all(tx, [(vm, message)])[0]


def renew_all(tx: Tx, messages: Sequence[tuple[str, JobBeat]]) -> list[JobBeatAnswer]:
    """Renew the leases of what these guests hold, follow their phases, and say which attempts are to stop.

    An attempt whose lease has run out lives on if its job has not been assigned again. A beat of an older generation
    renews nothing. All of it is said again with the next beat, so ``Ledger.write_lightly`` is enough.
    """
    known = guests.sight(tx, [Sighting(vm, beat.generation) for vm, beat in messages])
    current = [(vm, beat) for vm, beat in messages if beat.generation >= known[vm].generation]
    tx.counts["stale_generation"] += len(messages) - len(current)
    held = attempts.by_ref(tx, [(h.job, h.attempt) for _, beat in current for h in beat.holding])
    renewals: dict[tuple[JobRef, int], tuple[Held, Holding, JobBeat]] = {}
    stops: dict[str, list[AttemptRef]] = {}
    for vm, beat in current:
        for holding in beat.holding:
            one = held.get((holding.job, holding.attempt))
            word = word_on(one, vm)
            if word.stop:
                tx.counts[word.stop] += 1
                stops.setdefault(beat.id, []).append(AttemptRef(job=holding.job, attempt=holding.attempt))
            if one and word.renews:
                renewals[one.ref, one.attempt] = (one, holding, beat)
    _write(tx, list(renewals.values()))
    return [JobBeatAnswer(call=m.id, server_time_ms=tx.now_ms, stop=stops.get(m.id, [])) for _, m in messages]


def _write(tx: Tx, renewals: Sequence[tuple[Held, Holding, JobBeat]]) -> None:
    phases = [further(held.attempt_state, holding.phase) for held, holding, _ in renewals]
    tx.each(_RENEW, [_row(tx, *renewal, phase) for renewal, phase in zip(renewals, phases, strict=True)])
    back = [
        (h, after_revival(h.standing, JobState(p)))
        for (h, _, _), p in zip(renewals, phases, strict=True)
        if h.can_return
    ]
    _revive(tx, back)
    moved = [(h, p) for (h, _, _), p in zip(renewals, phases, strict=True) if h.is_open and h.state != p]
    tx.each(_MOVE, [{"of_job": held.number, "now_in": phase.value} for held, phase in moved])
    for held, phase in moved:
        tallies.move(tx, held.submission, held.owner, held.state, phase)
    tx.counts["leases_renewed"] += len(renewals)


def _row(tx: Tx, held: Held, holding: Holding, beat: JobBeat, phase: Phase) -> dict[str, object]:
    runs = _PHASES.index(phase) >= _PHASES.index(Phase.RUNNING)
    return {
        "of_job": held.number,
        "of_attempt": held.attempt,
        "new_state": phase.value,
        "new_generation": max(held.generation, beat.generation),
        "new_seen_id": held.seen_id or beat.id,
        "new_started_ms": held.started_ms or (tx.now_ms if runs else 0),
        "new_ended_ms": 0,
        "new_lease_expires_ms": tx.now_ms + tx.policy.lease_ms,
        "new_cause": readable(holding.trouble),
        "new_work": msgspec.msgpack.encode(Work(usage=holding.usage)),
    }


def _revive(tx: Tx, back: Sequence[tuple[Held, Standing]]) -> None:
    attempts.stand(tx, back)
    events.note_all(
        tx, [Note(h.number, h.attempt, "revived", f"{h.vm} (guest agent)", "beat after its lease") for h, _ in back]
    )
    tx.counts["attempts_revived"] += len(back)


def expire(tx: Tx) -> int:
    """Give up the attempts whose leases have run out, and forget requests of guests that are gone; gives how many.

    Their jobs wait again, are held when that happened too often, or are cancelled when that was asked. ``match`` is
    the caller's. Two adapters may do it at once.
    """
    requests.forget(tx, tx.now_ms - int(tx.policy.request_life_s * 1000))
    leases = (Lease._make(row) for row in tx.execute(_RUN_OUT, {"now_ms": tx.now_ms}))
    numbers = [lease.job for lease in leases if has_expired(lease, tx.now_ms, tx.policy)][:MOST_EXPIRED]
    lost = [(held, _silence(held, tx.now_ms)) for held in _still_expired(tx, numbers)]
    attempts.give_up(tx, lost, AttemptState.EXPIRED, f"{tx.instance} (lease)")
    return len(lost)


def _still_expired(tx: Tx, numbers: Sequence[int]) -> Iterable[Held]:
    """Lock them, leaving out what others are changing: it is alive."""
    locked = attempts.latest_of(tx, numbers, skip_locked=True) if numbers else []
    return [held for held in locked if held.is_open and held.lease_expires_ms < tx.now_ms]


def _silence(held: Held, now_ms: int) -> str:
    silent_s = (now_ms - held.lease_expires_ms) / 1000
    return f"no beat of {held.vm} on {held.host or 'an unknown host'}: its lease ran out {silent_s:.0f} s ago"
