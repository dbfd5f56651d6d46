"""Matching on the database: reads waiting jobs and free slots, and writes assignments with their leases.

Why no pair is missed and none is made twice. Whoever adds a job or a request calls ``match`` in the same transaction,
after its inserts. SQLite has one writer at a time. On PostgreSQL ``match`` first takes an advisory lock that is held to
the commit, and under READ COMMITTED each later statement sees all that was committed before the lock was had: of two
transactions that add a job and a request at once, the one that gets the lock second sees the other's row. Rows that
another transaction holds are skipped (it will match them itself), so matching waits for nobody but matchers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Column, ColumnElement, Select, bindparam, delete, insert, select, tuple_, update

from adapters.ledger import classes, outbox, tables, tallies
from adapters.ledger.known import Fits
from adapters.ledger.matching import Free, Waiting, assignment, pair, unmet
from adapters.ledger.transaction import Tx, portions
from broker.routes import down
from schemas.description import JobDescription
from schemas.jobs import Phase
from schemas.ledger import JobState

#: Rows read at a time; a batch seldom needs more.
PAGE = 64

_jobs, _requests, _vms = tables.jobs, tables.requests, tables.vms


def _distinct(column: Column[Any], condition: ColumnElement[bool]) -> Select[Any]:
    """List the values of an index's first column by one probe each, however many rows have them."""
    first = select(column).where(condition).order_by(column).limit(1).scalar_subquery()
    found = select(first.label("value")).cte("found", recursive=True)
    after = select(column).where(condition, column > found.c.value).order_by(column).limit(1)
    step = select(after.correlate(found).scalar_subquery()).where(found.c.value.is_not(None))
    return select(found.union_all(step).c.value)


def _columns_of_waiting() -> list[Column[Any]]:
    return [_jobs.c[name] for name in Waiting._fields]


_SHAPES = _distinct(_jobs.c.shape, tables.IS_WAITING)
_OFFERS = _distinct(_requests.c.offer, tables.IS_READY)
_FIRST = (
    select(*_columns_of_waiting())
    .where(tables.IS_WAITING, _jobs.c.shape == bindparam("shape"))
    .order_by(_jobs.c.rank, _jobs.c.number)
    .limit(PAGE)
)
_NEXT = _FIRST.where(tuple_(_jobs.c.rank, _jobs.c.number) > tuple_(bindparam("rank"), bindparam("number")))
_FREE = (
    select(
        *(_requests.c[name] for name in ("vm", "slot", "offer", "request_id", "generation", "ahead", "asked_ms")),
        *(_vms.c[name] for name in ("host", "hypervisor", "pid")),
    )
    .join_from(_requests, _vms, _vms.c.vm == _requests.c.vm)
    .where(tables.IS_READY, _requests.c.offer.in_(bindparam("offers", expanding=True)))
    .order_by(_requests.c.ahead, _requests.c.asked_ms, _requests.c.vm, _requests.c.slot)
    .limit(PAGE)
    .with_for_update(of=_requests, skip_locked=True)
)
_FREE_NEXT = _FREE.where(
    tuple_(_requests.c.ahead, _requests.c.asked_ms, _requests.c.vm, _requests.c.slot)
    > tuple_(bindparam("ahead"), bindparam("asked_ms"), bindparam("after_vm"), bindparam("after_slot"))
)
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
_SERVED = delete(_requests).where(_requests.c.vm == bindparam("of_vm"), _requests.c.slot == bindparam("of_slot"))
_DESCRIPTIONS = select(tables.submissions.c.number, tables.submissions.c.description).where(
    tables.submissions.c.number.in_(bindparam("numbers", expanding=True))
)


def match(tx: Tx) -> int:
    """Assign every waiting job that a free slot can take; gives how many.

    The job's attempt grows, the attempt's row holds its lease, the request is gone and the assignment is in the
    outbox. Call it last in each transaction that added a job, a request, or unblocked one; calling it again is cheap.
    Never in ``write_lightly``: an assignment that was sent must not be undone by a power cut.
    """
    tx.serialise_matching()
    pairs = _still_waiting(tx, list(_pairs(tx)))
    if not pairs:
        return 0
    _write_attempts(tx, pairs)
    _write_assignments(tx, pairs)
    tx.counts["jobs_assigned"] += len(pairs)
    tx.observations += [("wait", max(0, tx.now_ms - job.submitted_ms) / 1000) for job, _ in pairs]
    return len(pairs)


def _pairs(tx: Tx) -> Iterator[tuple[Waiting, Free]]:
    shapes = _values(tx, _SHAPES)
    offers = _values(tx, _OFFERS) if shapes else []
    fits = _fits(tx, shapes, frozenset(offers))
    wanted = sorted(frozenset().union(*fits.values()))
    if not wanted:
        return iter(())
    queues = {shape: _queue(tx, shape) for shape, meeting in fits.items() if meeting}
    return pair(_free(tx, wanted), queues, lambda shape, offer: offer in fits[shape])


def _values(tx: Tx, distinct: Select[Any]) -> list[int]:
    return [value for (value,) in tx.execute(distinct) if value is not None]


def _fits(tx: Tx, shapes: Sequence[int], offers: frozenset[int]) -> dict[int, frozenset[int]]:
    """Give for each shape those of the offers that meet it; each pair of classes is compared once, then known."""
    known = tx.known.fits
    for shape in shapes if offers else ():
        judged, meeting = known.get(shape, Fits())
        new = offers - judged
        if new:
            asked, offered = classes.shapes(tx, [shape])[shape], classes.offers(tx, sorted(new))
            met = {offer for offer in new if not unmet(asked, offered[offer])}
            known[shape] = Fits(judged | new, meeting | met)
    return {shape: known[shape].meeting & offers for shape in shapes} if offers else {}


def _queue(tx: Tx, shape: int) -> Iterator[Waiting]:
    """Read the waiting jobs of a shape in order of service, page by page."""
    page = [Waiting._make(row) for row in tx.execute(_FIRST, {"shape": shape})]
    while page:
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1]
        after = {"shape": shape, "rank": last.rank, "number": last.number}
        page = [Waiting._make(row) for row in tx.execute(_NEXT, after)]


def _free(tx: Tx, offers: Sequence[int]) -> Iterator[Free]:
    """Read the free slots of these offers, those that begin first and then oldest request first, page by page."""
    page = [Free._make(row) for row in tx.execute(_FREE, {"offers": offers})]
    while page:
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1]
        place = {"ahead": last.ahead, "asked_ms": last.asked_ms, "after_vm": last.vm, "after_slot": last.slot}
        after = {"offers": offers, **place}
        page = [Free._make(row) for row in tx.execute(_FREE_NEXT, after)]


def _still_waiting(tx: Tx, pairs: list[tuple[Waiting, Free]]) -> list[tuple[Waiting, Free]]:
    """Lock the paired jobs and keep those that nobody else is changing; SQLite's write lock has them all."""
    if tx.is_sqlite or not pairs:
        return pairs
    numbers = sorted(job.number for job, _ in pairs)
    still = {n for some in portions(numbers) for n in tx.execute(_STILL, {"numbers": some}).scalars()}
    return [(job, free) for job, free in pairs if job.number in still]


def _write_attempts(tx: Tx, pairs: Sequence[tuple[Waiting, Free]]) -> None:
    for some in portions([job.number for job, _ in pairs]):
        tx.execute(_ASSIGN, {"numbers": some})
    tx.each(_ATTEMPT, [_attempt(tx, job, free) for job, free in pairs])
    for job, _ in pairs:
        tallies.move(tx, job.submission, job.owner, JobState.SUBMITTED, JobState.ASSIGNED)
    tx.each(_SERVED, [{"of_vm": free.vm, "of_slot": free.slot} for _, free in pairs])


def _attempt(tx: Tx, job: Waiting, free: Free) -> dict[str, Any]:
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
        "lease_expires_ms": tx.now_ms + tx.policy.lease_ms,
        "exit_status": -1,
        "cause": "",
        "noticed_by": "",
        "boot_id": "",
        "work": None,
    }


def _write_assignments(tx: Tx, pairs: Sequence[tuple[Waiting, Free]]) -> None:
    described = descriptions(tx, {job.submission for job, _ in pairs})
    outbox.put_all(tx, [(down(free.vm), assignment(job, free, described[job.submission])) for job, free in pairs])


def descriptions(tx: Tx, submissions: set[int]) -> dict[int, JobDescription]:
    """Read the descriptions of submissions by number."""
    known = tx.known.descriptions
    for some in portions([number for number in submissions if number not in known]):
        for number, body in tx.execute(_DESCRIPTIONS, {"numbers": some}):
            known[number] = msgspec.msgpack.decode(body, type=JobDescription)
    return {number: known[number] for number in submissions}
