"""Orders of people and sites: cancel and retry, on one job or on a whole array.

An order changes at once what only the ledger holds; what a guest runs ends by the guest's own completion. Whether the
sender may order is the caller's to know: it passes the owner that the sender is confined to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct
from sqlalchemy import ColumnElement, bindparam, false, select, update

from adapters.errors import Ambiguous, NotFound
from adapters.ledger import attempts, events, outbox, tables, tallies
from adapters.ledger.attempts import Held
from adapters.ledger.events import Note
from adapters.ledger.transaction import Tx, portions
from broker.routes import down
from schemas.ids import JobRef, job_ref
from schemas.jobs import JobStop
from schemas.ledger import JobCancel, JobRetry, JobState

_jobs, _submissions = tables.jobs, tables.submissions

#: Jobs that an order changes in one transaction: some 20 ms, after which others write.
PORTION = 1000

_NOT_STARTED = (JobState.SUBMITTED, JobState.HELD)
_ENDED_BADLY = (JobState.HELD, JobState.FAILED)
_RUNS = (JobState.ASSIGNED, JobState.STAGE_IN, JobState.RUNNING, JobState.VALIDATING, JobState.STAGE_OUT)

_INDEX = re.compile(r"[1-9][0-9]{0,6}")
_FIND = select(_submissions.c.number, _submissions.c.owner).where(_submissions.c.id == bindparam("of_id"))
_IS_THERE = select(_jobs.c.number).where(_jobs.c.ref == bindparam("ref"))
_REQUEST_CANCEL = (
    update(_jobs).where(_jobs.c.number.in_(bindparam("numbers", expanding=True))).values(cancel_requested=True)
)


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
    #: Once it was the last: jobs that will change when their guest has answered.
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
        raise NotFound(f"job = {text!r}: that array has no job {index}")
    return found


def cancel(tx: Tx, message: JobCancel, owner: str = "") -> Portion:
    """Cancel jobs: those that wait or are held at once; running ones are told to stop and counted as pending.

    Takes ``PORTION`` jobs at most, those first that would be assigned next; the caller goes on while there is more, in
    transactions of their own. ``owner`` confines a site to its own jobs; empty for a console. Ended jobs are left
    alone; idempotent. Raises NotFound, Ambiguous.
    """
    found = select_jobs(tx, message.job, owner or message.owner)
    noticed_by = owner or message.owner or tx.instance
    waiting = portion_of(tx, found, _NOT_STARTED)
    _change(tx, waiting, state=JobState.CANCELLED, ended_ms=tx.now_ms, reason="cancelled")
    events.note_all(tx, [Note(job.number, job.attempt, "cancelled", noticed_by) for job in waiting])
    new = portion_of(tx, found, _RUNS, _jobs.c.cancel_requested == false()) if len(waiting) < PORTION else []
    running = [held for held in attempts.latest_of(tx, [job.number for job in new]) if held.is_open]
    _tell_to_stop(tx, running)
    events.note_all(tx, [Note(held.number, held.attempt, "cancel requested", noticed_by) for held in running])
    tx.counts["jobs_cancelled"] += len(waiting)
    is_last = max(len(waiting), len(new)) < PORTION
    return Portion(len(waiting), _pending(tx, found) if is_last else 0, is_last)


def retry(tx: Tx, message: JobRetry, owner: str = "") -> Portion:
    """Release held and failed jobs with their counts at zero; ``match`` is the caller's. Else as ``cancel``."""
    found = select_jobs(tx, message.job, owner or message.owner)
    ended = portion_of(tx, found, _ENDED_BADLY)
    clean = {"failures": 0, "losses": 0, "lost_on": "", "reason": "", "cancel_requested": False, "ended_ms": 0}
    _change(tx, ended, state=JobState.SUBMITTED, **clean)
    noticed_by = owner or message.owner or tx.instance
    events.note_all(tx, [Note(job.number, job.attempt, "retried", noticed_by) for job in ended])
    tx.fresh_shapes |= {job.shape for job in ended}
    tx.counts["jobs_retried"] += len(ended)
    return Portion(len(ended), 0, len(ended) < PORTION)


def portion_of(tx: Tx, found: Selected, states: Sequence[JobState], *conditions: ColumnElement[bool]) -> list[Chosen]:
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


def _pending(tx: Tx, found: Selected) -> int:
    """Count those of the jobs that run and have been told to stop."""
    if found.index:
        return len(portion_of(tx, found, _RUNS))
    tallied = tallies.of_submissions(tx, [found.submission])
    return sum(tallied.get(state, 0) for state in _RUNS)


def _tell_to_stop(tx: Tx, running: Sequence[Held]) -> None:
    for some in portions([held.number for held in running]):
        tx.execute(_REQUEST_CANCEL, {"numbers": some})
    outbox.put_all(
        tx,
        [
            (
                down(h.vm),
                JobStop(target=h.vm, generation=h.generation, job=h.ref, attempt=h.attempt, reason="cancelled"),
            )
            for h in running
        ],
    )
