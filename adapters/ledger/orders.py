"""Orders of people and sites: cancel and retry, on one job or on a whole array.

An order changes at once what only the ledger holds; what a guest runs ends by the guest's own completion. Whether the
sender may order is the caller's to know: it passes the owner that the sender is confined to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import ColumnElement, bindparam, func, select, update

from adapters.errors import Ambiguous, NotFound
from adapters.ledger import attempts, events, outbox, tables
from adapters.ledger.attempts import Held
from adapters.ledger.events import Note
from adapters.ledger.transaction import Tx, portions
from broker.routes import down
from schemas.jobs import JobStop
from schemas.ledger import JobCancel, JobRetry, JobsChanged, JobState

_jobs, _submissions = tables.jobs, tables.submissions

_NOT_STARTED = (JobState.SUBMITTED, JobState.HELD)
_ENDED_BADLY = (JobState.HELD, JobState.FAILED)
_RUNS = (JobState.ASSIGNED, JobState.STAGE_IN, JobState.RUNNING, JobState.VALIDATING, JobState.STAGE_OUT)

_INDEX = re.compile(r"[1-9][0-9]{0,6}")
_FIND = select(_submissions.c.number, _submissions.c.owner).where(_submissions.c.id == bindparam("of_id"))
_REQUEST_CANCEL = (
    update(_jobs).where(_jobs.c.number.in_(bindparam("numbers", expanding=True))).values(cancel_requested=True)
)


class Selected(Struct, frozen=True):
    """A submission, and the one job of it that is meant; ``index`` 0 = all of them."""

    submission: int
    owner: str
    index: int


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
    return Selected(rows[0].number, rows[0].owner, index)


def cancel(tx: Tx, message: JobCancel, owner: str = "") -> JobsChanged:
    """Cancel jobs: those that wait or are held at once; running ones are told to stop and counted as pending.

    ``owner`` confines a site to its own jobs; empty for a console. Ended jobs are left alone; idempotent. Raises
    NotFound, Ambiguous.
    """
    chosen = _chosen(tx, message.job, owner or message.owner)
    changed = _change(tx, chosen, _NOT_STARTED, state=JobState.CANCELLED, ended_ms=tx.now_ms, reason="cancelled")
    noticed_by = owner or message.owner or tx.instance
    events.note_all(tx, [Note(number, attempt, "cancelled", noticed_by) for number, attempt in changed])
    running = _running(tx, chosen)
    new = [held for held in running if not held.cancel_requested]
    _tell_to_stop(tx, new)
    events.note_all(tx, [Note(held.number, held.attempt, "cancel requested", noticed_by) for held in new])
    tx.counts["jobs_cancelled"] += len(changed)
    return JobsChanged(call=message.id, changed=len(changed), pending=len(running))


def retry(tx: Tx, message: JobRetry, owner: str = "") -> JobsChanged:
    """Release held and failed jobs with their counts at zero; ``match`` is the caller's. Else as ``cancel``."""
    chosen = _chosen(tx, message.job, owner or message.owner)
    clean = {"failures": 0, "losses": 0, "lost_on": "", "reason": "", "cancel_requested": False, "ended_ms": 0}
    changed = _change(tx, chosen, _ENDED_BADLY, state=JobState.SUBMITTED, **clean)
    noticed_by = owner or message.owner or tx.instance
    events.note_all(tx, [Note(number, attempt, "retried", noticed_by) for number, attempt in changed])
    tx.counts["jobs_retried"] += len(changed)
    return JobsChanged(call=message.id, changed=len(changed))


def _chosen(tx: Tx, text: str, owner: str) -> list[ColumnElement[bool]]:
    found = select_jobs(tx, text, owner)
    conditions: list[ColumnElement[bool]] = [_jobs.c.submission == found.submission]
    if found.index:
        conditions.append(_jobs.c.idx == found.index)
        known = select(func.count()).select_from(_jobs).where(*conditions)
        if not tx.execute(known).scalar_one():
            raise NotFound(f"job = {text!r}: that array has no job {found.index}")
    return conditions


def _change(
    tx: Tx, chosen: Sequence[ColumnElement[bool]], states: Sequence[JobState], **values: object
) -> list[tuple[int, int]]:
    """Set ``values`` on those of the chosen jobs that are in ``states``; gives their numbers and attempts."""
    statement = update(_jobs).where(*chosen, _jobs.c.state.in_(states)).values(**values)
    return [(n, attempt) for n, attempt in tx.execute(statement.returning(_jobs.c.number, _jobs.c.attempt))]


def _running(tx: Tx, chosen: Sequence[ColumnElement[bool]]) -> list[Held]:
    numbers = tx.execute(select(_jobs.c.number).where(*chosen, _jobs.c.state.in_(_RUNS))).scalars()
    return [held for held in attempts.latest_of(tx, list(numbers)) if held.is_open]


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
