"""Leases: an assignment lives while its guest beats, or while its own host says that its VM is paused or saved.

A pause excuses what a payload has begun; what has not begun goes elsewhere. ``renew`` and ``expire`` write what the
pure functions here decide, by the lease clock (see ``clock``), which stands still while beats wait to be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace
from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, or_, select, update

from adapters.ledger import attempts, events, guests, outages, outbox, repute, tables, tallies, terms
from adapters.ledger.attempt_work import Work
from adapters.ledger.attempts import AttemptState, Held
from adapters.ledger.events import Note, readable
from adapters.ledger.guests import Guest, Sighting
from adapters.ledger.outcomes import Standing, after_revival
from adapters.ledger.policy import Policy
from adapters.ledger.terms import Term
from adapters.ledger.transaction import Tx
from broker.routes import down
from schemas.ids import JobRef
from schemas.jobs import AttemptRef, Holding, JobBeat, JobBeatAnswer, JobStop, Phase
from schemas.ledger import JobState

#: Attempts that one call of ``expire`` gives up at most, some 100 ms of work; the next call takes the rest.
MOST_EXPIRED = 500

_PHASES = list(Phase)
#: Phases in which a payload has run.
_BEGUN = frozenset({Phase.RUNNING, Phase.VALIDATING, Phase.STAGE_OUT})
#: Phases in which a slot is at work on one attempt and on no other.
_AT_WORK = frozenset({Phase.STAGE_IN, Phase.RUNNING, Phase.VALIDATING})
_attempts, _vms = tables.attempts, tables.vms


class Lease(NamedTuple):
    """A lease, and since when the VM's own host calls it paused or saved (0: it does not)."""

    job: int
    lease_expires_ms: int
    paused_ms: int
    #: What the attempt was last heard to be at.
    phase: str = Phase.RUNNING
    #: When its term ends; 0 = not said.
    over_ms: int = 0

    @property
    def has_begun(self) -> bool:
        """Its payload has been started, as far as its guest has told."""
        return self.phase in _BEGUN


class BeatVerdict(NamedTuple):
    """What the ledger makes of one attempt that a beat names."""

    #: Why the guest is to stop it; empty when it is not.
    stop: str = ""
    renews: bool = False


def _is_due() -> ColumnElement[bool]:
    """``has_expired`` or ``terms.is_over``: what a pause or an outage excuses takes nobody's place among the first."""
    now_ms: BindParameter[int] = bindparam("now_ms")
    is_paused = and_(_vms.c.paused_ms > 0, _vms.c.paused_ms >= bindparam("excused_ms"))
    is_silent = and_(_attempts.c.lease_expires_ms < now_ms, or_(~is_paused, _attempts.c.state.not_in(_BEGUN)))
    goes_on = _attempts.c.state.not_in(bindparam("held_up", expanding=True))
    return or_(is_silent, and_(_attempts.c.over_ms > 0, _attempts.c.over_ms < now_ms, ~is_paused, goes_on))


_RUN_OUT = (
    select(_attempts.c.job, _attempts.c.lease_expires_ms, _vms.c.paused_ms, _attempts.c.state, _attempts.c.over_ms)
    .join_from(_attempts, _vms, _vms.c.vm == _attempts.c.vm)
    .where(tables.IS_OPEN, _is_due())
    .order_by(_attempts.c.lease_expires_ms)
    .limit(bindparam("most"))
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
                *Term._fields,
            )
        }
    )
)
_MOVE = update(tables.jobs).where(tables.jobs.c.number == bindparam("of_job")).values(state=bindparam("now_in"))


def has_expired(lease: Lease, now_ms: int, policy: Policy) -> bool:
    """Whether a lease has run out: nobody beats, and no pause within its limit excuses it, once it has begun."""
    excused = lease.has_begun and lease.paused_ms > 0 and now_ms - lease.paused_ms <= policy.pause_limit_ms
    return lease.lease_expires_ms < now_ms and not excused


def word_on(held: Held | None, vm: str) -> BeatVerdict:
    """Judge one attempt that ``vm`` says it holds.

    An attempt whose completion has counted is neither stopped nor renewed: the answer is on its way.
    """
    if held is None:
        return BeatVerdict(stop="unknown_attempt")
    if held.vm != vm:
        return BeatVerdict(stop="foreign_attempt")
    if held.completion_id:
        return BeatVerdict()
    if not held.is_latest:
        return BeatVerdict(stop="superseded")
    if held.state == JobState.CANCELLED:
        return BeatVerdict(stop="cancelled")
    if held.is_open or held.can_return:
        return BeatVerdict(renews=True)
    return BeatVerdict(stop="superseded")


def is_of_dead_boot(held: Held, guest: Guest, phase: Phase) -> bool:
    """Whether an attempt was given to an earlier boot of its VM and is not at its end: what had begun went with it.

    What its agent of then had finished is only being delivered, and that is well.
    """
    is_other = bool(held.boot_id and guest.boot_id and held.boot_id != guest.boot_id)
    return is_other and phase is not Phase.STAGE_OUT


def further(now: str, said: Phase) -> Phase:
    """Give the later of two phases: a beat that was overtaken takes nothing back."""
    return max(Phase(now), said, key=_PHASES.index) if now in _PHASES else said


def beyond_slots(said: Iterable[tuple[Held, Phase]]) -> set[tuple[JobRef, int]]:
    """Name the attempts that cannot be at work as their guest says: another one is, in the same slot.

    Who was at work before is believed first.
    """
    busy = [(held, phase) for held, phase in said if phase in _AT_WORK or held.attempt_state in _AT_WORK]
    at_work: dict[int, Held] = {}
    for held, phase in sorted(busy, key=lambda pair: pair[0].attempt_state not in _AT_WORK):
        if phase is not Phase.STAGE_OUT:
            at_work.setdefault(held.runs_in, held)
    return {
        (held.ref, held.attempt)
        for held, phase in busy
        if phase in _AT_WORK and held.attempt_state not in _AT_WORK and at_work[held.runs_in] is not held
    }


def renew(tx: Tx, vm: str, message: JobBeat) -> JobBeatAnswer:
    """Take one beat; see ``renew_all``."""
    return renew_all(tx, [(vm, message)])[0]


def renew_all(tx: Tx, messages: Sequence[tuple[str, JobBeat]]) -> list[JobBeatAnswer]:
    """Renew the leases of what these guests hold, follow their phases, and say which attempts are to stop.

    An attempt whose lease has run out lives on if its job has not been assigned again; one that was given to an earlier
    boot of its VM does not. A beat of an older generation renews nothing. All of it is said again with the next beat,
    so ``Ledger.write_lightly`` is enough.
    """
    known = guests.sight(tx, [Sighting(vm, beat.generation) for vm, beat in messages])
    current = [(vm, beat) for vm, beat in messages if beat.generation >= known[vm].generation]
    tx.counts["stale_generation"] += len(messages) - len(current)
    held = attempts.by_ref(tx, [(h.job, h.attempt) for _, beat in current for h in beat.holding])
    heard = _Heard()
    for vm, beat in current:
        for holding in _possible(beat.holding, held):
            one = held.get((holding.job, holding.attempt))
            _hear(tx, heard, one, holding, beat, known[vm])
    _write(tx, list(heard.renewals.values()))
    attempts.give_up(tx, list(heard.dead.values()), AttemptState.LOST, f"{tx.instance} (boot)")
    return [JobBeatAnswer(call=m.id, server_time_ms=tx.now_ms, stop=heard.stops.get(m.id, [])) for _, m in messages]


def _possible(holding: Sequence[Holding], held: Mapping[tuple[JobRef, int], Held]) -> Sequence[Holding]:
    """Put right what a guest says of more attempts than it has slots: they wait for their turn."""
    if len(holding) < 2:
        return holding
    beyond = beyond_slots((held[h.job, h.attempt], h.phase) for h in holding if (h.job, h.attempt) in held)
    if not beyond:
        return holding
    return [replace(h, phase=Phase.ASSIGNED) if (h.job, h.attempt) in beyond else h for h in holding]


class _Heard:
    """What a batch of beats comes to: leases to renew, attempts that went with their boot, and what guests are told."""

    def __init__(self) -> None:
        self.renewals: dict[tuple[JobRef, int], tuple[Held, Holding, JobBeat]] = {}
        self.dead: dict[tuple[JobRef, int], tuple[Held, str]] = {}
        self.stops: dict[str, list[AttemptRef]] = {}


def _hear(tx: Tx, heard: _Heard, held: Held | None, holding: Holding, beat: JobBeat, guest: Guest) -> None:
    word = word_on(held, guest.vm)
    key = holding.job, holding.attempt
    if held and word.renews and is_of_dead_boot(held, guest, holding.phase):
        word = BeatVerdict(stop="dead_boot")
        if held.is_open:
            heard.dead[key] = held, f"{held.vm} was booted anew while it had it"
    if word.stop:
        tx.counts[word.stop] += 1
        heard.stops.setdefault(beat.id, []).append(AttemptRef(job=holding.job, attempt=holding.attempt))
    if held and word.renews:
        heard.renewals[key] = (held, holding, beat)


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
    term = _term(tx, held, phase)
    return {
        "of_job": held.number,
        "of_attempt": held.attempt,
        "new_state": phase.value,
        "new_generation": max(held.generation, beat.generation),
        "new_seen_id": held.seen_id or beat.id,
        "new_started_ms": held.started_ms or (tx.now_ms if runs else 0),
        "new_ended_ms": 0,
        "new_lease_expires_ms": tx.lease_now_ms + tx.policy.lease_ms,
        "new_cause": readable(holding.trouble),
        "new_work": msgspec.msgpack.encode(Work(usage=holding.usage)),
        "new_may_take_ms": term.may_take_ms,
        "new_over_ms": term.over_ms,
        "new_stretched_ms": term.stretched_ms,
    }


def _term(tx: Tx, held: Held, phase: Phase) -> Term:
    """Say until when a guest may keep an attempt that lives: what has begun has begun once."""
    term = held.term
    if held.can_return:
        term = terms.stretched(term, tx.lease_now_ms - held.lease_expires_ms, tx.policy)
    if phase is not Phase.ASSIGNED and not held.has_begun:
        term = terms.begun(term, tx.lease_now_ms)
    is_storing = phase is Phase.STAGE_OUT and held.attempt_state != Phase.STAGE_OUT
    return terms.storing(term, tx.lease_now_ms, tx.policy) if is_storing else term


def _revive(tx: Tx, back: Sequence[tuple[Held, Standing]]) -> None:
    attempts.stand(tx, back)
    events.note_all(
        tx, [Note(h.number, h.attempt, "revived", f"{h.vm} (guest agent)", "beat after its lease") for h, _ in back]
    )
    tx.counts["attempts_revived"] += len(back)


def expire(tx: Tx) -> int:
    """Give up attempts whose leases have run out, or whose terms, however much they beat; gives how many.

    ``MOST_EXPIRED`` at a time: it is called until nothing is due.

    Their jobs wait again, or are held when that happened too often. What a paused VM has not begun is taken back
    without blame, and its guest told, for when it goes on. ``match`` is the caller's. Two adapters may do it at once.
    """
    times = {"now_ms": tx.lease_now_ms, "excused_ms": tx.lease_now_ms - tx.policy.pause_limit_ms}
    held_up = outages.held_up(tx)
    found = tx.execute(_RUN_OUT, {**times, "held_up": sorted(held_up), "most": MOST_EXPIRED})
    leases = [Lease._make(row) for row in found]
    silent = [lease for lease in leases if has_expired(lease, tx.lease_now_ms, tx.policy)]
    over = [lease for lease in leases if terms.is_over(lease.over_ms, lease.paused_ms, tx.lease_now_ms, tx.policy)]
    return _expire_silent(tx, silent) + _end_terms(tx, over, held_up)


def _expire_silent(tx: Tx, over: Sequence[Lease]) -> int:
    paused = {lease.job for lease in over if lease.paused_ms}
    locked = _still_expired(tx, [lease.job for lease in over])
    unheard = "was paused before it had said that this began"
    aside = [(held, f"{held.vm} {unheard}") for held in locked if _is_set_aside(held, paused)]
    lost = [(held, _silence(tx, held)) for held in locked if not _is_set_aside(held, paused)]
    attempts.give_up(tx, lost, AttemptState.EXPIRED, f"{tx.instance} (lease)")
    attempts.take_back(tx, aside, f"{tx.instance} (pause)")
    outbox.put_all(tx, [(down(held.vm), stop_of(held, "superseded")) for held, _ in aside])
    return len(locked)


def _end_terms(tx: Tx, over: Sequence[Lease], held_up: Container[str]) -> int:
    """Take attempts from guests that keep them: a loss if they have begun, else as if given back, but for the blame.

    A guest that has said what keeps it from beginning, as a short disk, has no more blame than if it had given it back.
    """
    read = attempts.latest_of(tx, [lease.job for lease in over], skip_locked=True) if over else []
    locked = [held for held in read if _is_late(tx, held) and held.attempt_state not in held_up]
    late = [(held, terms.why(held.vm, held.attempt_state, held.cause, tx.policy)) for held in locked]
    unbegun = [(held, cause) for held, cause in late if not held.has_begun]
    attempts.give_up(
        tx, [(held, cause) for held, cause in late if held.has_begun], AttemptState.LOST, f"{tx.instance} (term)"
    )
    attempts.take_back(tx, unbegun, f"{tx.instance} (term)")
    troubled = [held for held, _ in unbegun if held.cause]
    repute.note_returns(tx, Counter(held.vm for held in troubled))
    blamed = [held for held, _ in unbegun if not held.cause or held.returns_of_vm >= repute.FREE_RETURNS]
    repute.strike(tx, {held.vm: held.host for held in blamed})
    outbox.put_all(tx, [(down(held.vm), stop_of(held, "superseded")) for held, _ in late])
    return len(late)


def _is_late(tx: Tx, held: Held) -> bool:
    return held.is_open and 0 < held.over_ms < tx.lease_now_ms


def stop_of(held: Held, reason: str) -> JobStop:
    """Write what tells a guest to end an attempt."""
    return JobStop(target=held.vm, generation=held.generation, job=held.ref, attempt=held.attempt, reason=reason)


def _is_set_aside(held: Held, paused: Container[int]) -> bool:
    return held.number in paused and held.attempt_state not in _BEGUN


def _still_expired(tx: Tx, numbers: Sequence[int]) -> list[Held]:
    """Lock them, leaving out what others are changing: it is alive."""
    locked = attempts.latest_of(tx, numbers, skip_locked=True) if numbers else []
    return [held for held in locked if held.is_open and held.lease_expires_ms < tx.lease_now_ms]


def _silence(tx: Tx, held: Held) -> str:
    silent_s = (tx.lease_now_ms - held.lease_expires_ms) / 1000
    return f"no beat of {held.vm} on {held.host or 'an unknown host'}: its lease ran out {silent_s:.0f} s ago"
