"""Matching on the database: reads waiting jobs and free slots, and writes assignments with their leases.

Why no pair is missed and none is made twice. Whoever adds a job or a request calls ``match`` in the same transaction,
after its inserts. SQLite has one writer at a time. On PostgreSQL ``match`` first takes an advisory lock that is held to
the commit, and under READ COMMITTED each later statement sees all that was committed before the lock was had: of two
transactions that add a job and a request at once, the one that gets the lock second sees the other's row. Rows that
another transaction holds are skipped (it will match them itself), so matching waits for nobody but matchers.

Since all that could be paired has been, a transaction can make pairs of what it added itself alone: it looks at the
slots that it freed, and at those that meet what it let wait. ``match_all`` looks at everything, from time to time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any

import msgspec
from sqlalchemy import (
    bindparam,
    delete,
    insert,
    select,
    update,
)

from adapters.ledger import accounts, arrays, outbox, tables, tallies, terms
from adapters.ledger.deferred import Deferred
from adapters.ledger.idle import Idle
from adapters.ledger.matching import Free, Pair, Waiting, assignment, pair
from adapters.ledger.transaction import Tx, portions
from adapters.ledger.vm_pool import VmPool
from adapters.ledger.waiting_lines import OFFERS, WaitingLines, judged, values
from broker.routes import down
from schemas.description import JobDescription
from schemas.jobs import Phase
from schemas.ledger import JobState

#: Jobs that one transaction assigns, some 100 ms of work, and bytes of their descriptions; others go to
#: ``tx.deferred``.
MOST_PAIRS, MOST_BYTES = 400, 8 << 20
#: Classes of free slots that one sweep looks at; the next takes others.
MOST_OFFERS = 20
#: Attempts of one job whose rows are kept: the last.
MOST_HISTORY = 100

_jobs, _requests, _attempts = tables.jobs, tables.requests, tables.attempts

#: Descriptions by the number of their submission.
Described = dict[int, JobDescription]


_STILL = (
    select(_jobs.c.number)
    .where(tables.IS_WAITING, _jobs.c.number.in_(bindparam("numbers", expanding=True)))
    .with_for_update(skip_locked=True)
)
_ASSIGN = (
    update(_jobs)
    .where(_jobs.c.number.in_(bindparam("numbers", expanding=True)))
    .values(state=JobState.ASSIGNED, attempt=_jobs.c.attempt + 1, reason="", ended_ms=0)
)
_ATTEMPT = insert(tables.attempts)
_OLD_ATTEMPTS = delete(_attempts).where(
    _attempts.c.job == bindparam("of_job"), _attempts.c.attempt <= bindparam("last")
)
_OLD_EVENTS = delete(tables.events).where(
    tables.events.c.job == bindparam("of_job"), tables.events.c.attempt <= bindparam("last")
)
_SERVED = delete(_requests).where(_requests.c.vm == bindparam("of_vm"), _requests.c.slot == bindparam("of_slot"))
_DESCRIPTIONS = select(tables.submissions.c.number, tables.submissions.c.description).where(
    tables.submissions.c.number.in_(bindparam("numbers", expanding=True))
)


def match(tx: Tx) -> int:
    """Assign waiting jobs that a free slot can take, as far as this transaction changed either; gives how many. What
    would be too many at once is left to ``go_on``.

    The job's attempt grows, the attempt's row holds its lease, the request is gone and the assignment is in the
    outbox. Call it last in each transaction that added a job, a request, or unblocked one; calling it again is cheap.
    Never in ``write_lightly``: an assignment that was sent must not be undone by a power cut.
    """
    offers, shapes = tx.fresh_offers, tx.fresh_shapes
    if not offers and not shapes:
        return 0
    tx.serialise_matching()
    tx.fresh_offers, tx.fresh_shapes = set(), set()
    # Where no slot is new, what has waited fits none: what came now alone is looked at.
    made, is_whole = _assign(tx, Idle(tx, offers | _offers_for(tx, shapes)), None if offers else shapes)
    if not is_whole:
        tx.deferred.take_over(Deferred(offers, shapes))
    return made


def go_on(tx: Tx, deferred: Deferred) -> None:
    """Do a portion of what another transaction has left; ``tx.deferred`` has what is left of it."""
    if deferred.is_making:
        arrays.make_more(tx)
    tx.fresh_offers |= deferred.offers
    tx.fresh_shapes |= deferred.shapes
    match(tx)


def match_all(tx: Tx) -> int:
    """As ``match``, whatever changed when: for what became possible by time, or in a transaction that did not match.

    Of very many classes of free slots each call takes some, in turns.
    """
    tx.serialise_matching()
    accounts.count(tx)
    offers = values(tx, OFFERS)
    start = tx.now_ms // 1000 * MOST_OFFERS % max(1, len(offers))
    turn = [*offers[start:], *offers[:start]][:MOST_OFFERS]
    made, is_whole = _assign(tx, Idle(tx, turn))
    if not is_whole:
        tx.deferred.offers |= set(turn)
    return made


def _offers_for(tx: Tx, shapes: Collection[int]) -> set[int]:
    """Give the offers of free slots that meet any of these shapes."""
    offers = values(tx, OFFERS) if shapes else []
    return {offer for (_, offer), meets in judged(tx, shapes, offers).items() if meets}


def _assign(tx: Tx, idle: Idle, only: Collection[int] | None = None) -> tuple[int, bool]:
    """Give how many pairs were made, of all that waits or of some shapes alone, and whether these are all that could
    be."""
    pool = VmPool(tx)
    jobs = WaitingLines(tx, pool, only)
    found = list(islice(pair(idle, jobs.backlogs, pool), MOST_PAIRS))
    pool.close()
    still = _still_waiting(tx, found)
    if not still:
        return 0, len(found) < MOST_PAIRS
    described = descriptions(tx, {job.submission for job, _ in still})
    pairs = _within_bytes(still, described)
    jobs.close(pairs)
    _write_attempts(tx, pairs, pool, described)
    _write_assignments(tx, pairs, pool, described)
    tx.counts["jobs_assigned"] += len(pairs)
    tx.observations += [("wait", max(0, tx.now_ms - job.submitted_ms) / 1000) for job, _ in pairs]
    return len(pairs), len(found) < MOST_PAIRS and len(pairs) == len(still)


def _within_bytes(pairs: Sequence[Pair], described: Mapping[int, JobDescription]) -> Sequence[Pair]:
    """Cut the pairs where their messages would be too much to hold at once; the first stays."""
    sizes = {number: len(msgspec.msgpack.encode(description)) for number, description in described.items()}
    sums = accumulate(sizes[job.submission] for job, _ in pairs)
    return pairs[: max(1, sum(size <= MOST_BYTES for size in sums))]


def _still_waiting(tx: Tx, pairs: list[Pair]) -> list[Pair]:
    """Lock the paired jobs and keep those that nobody else is changing; SQLite's write lock has them all."""
    if tx.is_sqlite or not pairs:
        return pairs
    numbers = sorted(job.number for job, _ in pairs)
    still = {n for some in portions(numbers) for n in tx.execute(_STILL, {"numbers": some}).scalars()}
    return [(job, free) for job, free in pairs if job.number in still]


def _write_attempts(tx: Tx, pairs: Sequence[Pair], pool: VmPool, described: Described) -> None:
    for some in portions([job.number for job, _ in pairs]):
        tx.execute(_ASSIGN, {"numbers": some})
    may_take_ms = {number: terms.may_take_ms(job, tx.policy) for number, job in described.items()}
    tx.each(_ATTEMPT, [_attempt(tx, job, free, pool, may_take_ms[job.submission]) for job, free in pairs])
    old = [{"of_job": job.number, "last": job.attempt + 1 - MOST_HISTORY} for job, _ in pairs]
    for statement in (_OLD_ATTEMPTS, _OLD_EVENTS):
        tx.each(statement, [row for row in old if row["last"] > 0])
    for job, _ in pairs:
        tallies.move(tx, job.submission, job.owner, JobState.SUBMITTED, JobState.ASSIGNED)
    tx.each(_SERVED, [{"of_vm": free.vm, "of_slot": free.slot} for _, free in pairs])


def _attempt(tx: Tx, job: Waiting, free: Free, pool: VmPool, may_take_ms: int) -> dict[str, Any]:
    may_have = pool.need(job.shape, free.offer)
    return {
        "job": job.number,
        "attempt": job.attempt + 1,
        "vm": free.vm,
        "slot": free.slot,
        "generation": free.generation,
        "host": free.host,
        "hypervisor": free.hypervisor,
        "hypervisor_pid": free.pid,
        "request_id": free.request_id,
        "assigned_by": tx.instance,
        "state": Phase.ASSIGNED,
        "seen_id": "",
        "completion_id": "",
        "assigned_ms": tx.now_ms,
        "started_ms": 0,
        "ended_ms": 0,
        "lease_expires_ms": tx.lease_now_ms + tx.policy.lease_ms,
        "exit_status": -1,
        "cause": "",
        "noticed_by": "",
        "boot_id": free.boot_id,
        "work": None,
        **may_have._asdict(),
        "place": pool.place(free),
        "large": int(pool.is_large(job.shape, free.offer)),
        "returns": free.returns,
        **terms.given(may_take_ms, tx.lease_now_ms, tx.policy)._asdict(),
    }


def _write_assignments(tx: Tx, pairs: Sequence[Pair], pool: VmPool, described: Described) -> None:
    made = (
        (down(free.vm), assignment(job, free, described[job.submission], pool.need(job.shape, free.offer)))
        for job, free in pairs
    )
    outbox.put_all(tx, made)


def descriptions(tx: Tx, submissions: set[int]) -> Described:
    """Read the descriptions of submissions by number."""
    known = tx.known.descriptions
    for some in portions([number for number in submissions if number not in known]):
        for number, body in tx.execute(_DESCRIPTIONS, {"numbers": some}):
            known[number] = msgspec.msgpack.decode(body, type=JobDescription)
    return {number: known[number] for number in submissions}
