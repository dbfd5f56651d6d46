"""Orders of people and sites: cancel and retry, on one job or on a whole array.

An order is final at once: an attempt that a guest has is ended here, and the guest is told; what it says of it later
does not count. Whether the sender may order is the caller's to know: it passes the owner that he is confined to.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from msgspec import Struct
from sqlalchemy import ColumnElement, bindparam, select, update

from adapters.errors import Ambiguous, NotFound
from adapters.ledger import arrays, attempts, deliveries, endings, events, leases, outbox, tables, tallies
from adapters.ledger.attempts import AttemptState, Given, Held
from adapters.ledger.events import Note
from adapters.ledger.transaction import PORTION, Tx, portions
from broker.routes import down
from schemas.ids import JobRef, job_ref
from schemas.ledger import AT_WORK, UNASSIGNED, JobCancel, JobRetry, JobState

_jobs, _submissions = tables.jobs, tables.submissions

_INDEX = re.compile(r"[1-9][0-9]{0,6}")
_FIND = select(_submissions.c.number, _submissions.c.owner).where(_submissions.c.id == bindparam("of_id"))
_IS_THERE = select(_jobs.c.number).where(_jobs.c.ref == bindparam("ref"))


class Selected(Struct, frozen=True):
    """A submission, and the one job of it that is meant; ``index`` 0 = all of them."""

    submission: int
    owner: str
    id: str
    index: int

    @property
    def ref(self) -> JobRef:
        """The name of the one job."""
        return job_ref(self.owner, self.id, self.index)


class Chosen(NamedTuple):
    """A job that an order is about, as it was before."""

    number: int
    submission: int
    shape: int
    owner: str
    attempt: int
    state: str


class Portion(NamedTuple):
    """What one transaction of an order did."""

    changed: int
    #: How many of them a guest had, which is told to stop.
    pending: int
    is_last: bool


def selector(text: str) -> tuple[str, str, int]:
    """Take ``[owner/]id[.index]`` apart into owner (empty: not said), id and index (0: not said)."""
    owner, _, name = text.rpartition("/")
    job_id, _, index = name.rpartition(".")
    if job_id and _INDEX.fullmatch(index):
        return owner, job_id, int(index)
    return owner, name, 0


def select_jobs(tx: Tx, text: str, owner: str) -> Selected:
    """Find the jobs that ``[owner/]id[.index]`` names; ``owner`` (empty: any) is used where the text has none.

    Raises NotFound, also for another owner's job when both are given; Ambiguous when several owners have that id.
    """
    named, job_id, index = selector(text)
    wanted = {named, owner} - {""}
    rows = [row for row in tx.execute(_FIND, {"of_id": job_id}) if wanted <= {row.owner}]
    if not rows:
        raise NotFound(f"job = {text!r}: no such job" + (f" of {owner}" if owner else ""))
    if len(rows) > 1:
        owners = ", ".join(sorted(row.owner for row in rows))
        raise Ambiguous(f"job = {text!r}: {owners} each have one of that id: write owner/{job_id}")
    found = Selected(rows[0].number, rows[0].owner, job_id, index)
    if index and tx.execute(_IS_THERE, {"ref": found.ref}).first() is None:
        raise NotFound(arrays.is_to_come(tx, found.ref) or f"job = {text!r}: that array has no job {index}")
    return found


def cancel(tx: Tx, message: JobCancel, owner: str = "", by: str = "") -> Portion:
    """Cancel jobs, for good and at once; the guests that have some of them are told to stop.

    Jobs of an array that have no rows yet are given theirs first. Takes ``PORTION`` jobs at most, those first that
    would be assigned next; the caller goes on while there is more, in transactions of their own. ``owner`` confines a
    site to its own jobs; empty for a console. ``by`` is who ordered it, for the diary. Ended jobs are left alone;
    idempotent. Raises NotFound, Ambiguous.
    """
    found = select_jobs(tx, message.job, owner or message.owner)
    who = by or owner or message.owner or tx.instance
    reason = f"cancelled by {who}"
    is_growing = not found.index and arrays.make_more_of(tx, found.submission)
    waiting = portion_of(tx, found, UNASSIGNED)
    _change(tx, waiting, state=JobState.CANCELLED, ended_ms=tx.now_ms, since_ms=tx.lease_now_ms, reason=reason)
    events.note_all(tx, [Note(job.number, job.attempt, "cancelled", who) for job in waiting])
    deliveries.put(tx, [job.number for job in waiting])
    endings.put(tx, [job.number for job in waiting if endings.is_told(job.owner)])
    tx.counts["jobs_cancelled"] += len(waiting)
    at_work = portion_of(tx, found, AT_WORK) if len(waiting) < PORTION else []
    running = [held for held in attempts.latest_of(tx, [job.number for job in at_work]) if held.is_open]
    _end(tx, running, who, reason)
    is_last = max(len(waiting), len(at_work)) < PORTION and not is_growing
    return Portion(len(waiting) + len(running), len(running), is_last)


def retry(tx: Tx, message: JobRetry, owner: str = "", by: str = "") -> Portion:
    """Release held jobs with their counts at zero; ``match`` is the caller's. Else as ``cancel``.

    Raises AlreadyTold for one whose source knows that it has failed.
    """
    found = select_jobs(tx, message.job, owner or message.owner)
    ended = portion_of(tx, found, [JobState.HELD])
    deliveries.demand_untold(tx, [job.number for job in ended])
    counts = {"failures": 0, "losses": 0, "returns": 0, "lost_on": ""}
    clean = {**counts, "reason": "", "ended_ms": 0, "since_ms": tx.lease_now_ms}
    no_wait = {"not_before_ms": 0, "avoid_until_ms": 0, "avoid_vm": ""}
    _change(tx, ended, state=JobState.SUBMITTED, **clean, **no_wait)
    noticed_by = by or owner or message.owner or tx.instance
    events.note_all(tx, [Note(job.number, job.attempt, "retried", noticed_by) for job in ended])
    tx.fresh_shapes |= {job.shape for job in ended}
    tx.counts["jobs_retried"] += len(ended)
    return Portion(len(ended), 0, len(ended) < PORTION)


def portion_of(tx: Tx, found: Selected, states: Collection[JobState], *conditions: ColumnElement[bool]) -> list[Chosen]:
    """Read and lock those of the jobs that are in these states, the next to be assigned first, a portion at most."""
    named = [_jobs.c.ref == found.ref] if found.index else []
    statement = (
        select(*(_jobs.c[name] for name in Chosen._fields))
        .where(_jobs.c.submission == found.submission, _jobs.c.state.in_(states), *named, *conditions)
        .order_by(_jobs.c.number)
        .limit(PORTION)
        .with_for_update()
    )
    return [Chosen._make(row) for row in tx.execute(statement)]


def _change(tx: Tx, chosen: Sequence[Chosen], *, state: JobState, **values: object) -> None:
    for some in portions([job.number for job in chosen]):
        tx.execute(update(_jobs).where(_jobs.c.number.in_(some)).values(state=state, **values))
    for job in chosen:
        tallies.move(tx, job.submission, job.owner, job.state, state)


def _end(tx: Tx, running: Sequence[Held], who: str, reason: str) -> None:
    after = [Given(h, reason, h.standing._replace(state=JobState.CANCELLED, reason=reason)) for h in running]
    attempts.end_all(tx, after, AttemptState.CANCELLED, who)
    outbox.put_all(tx, [(down(held.vm), leases.stop_of(held, reason)) for held in running])
