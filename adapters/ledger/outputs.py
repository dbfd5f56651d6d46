"""Which output of a job is meant by a name: of its last attempt, as that said at its end. Reads alone."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import bindparam, select

from adapters.errors import NotFound
from adapters.ledger import tables
from adapters.ledger.attempt_work import Work
from adapters.ledger.transaction import Tx
from schemas.codec import clip
from schemas.ids import JobRef
from schemas.jobs import OutputEntry

_jobs, _attempts = tables.jobs, tables.attempts

_JOB = select(_jobs.c.number, _jobs.c.owner, _jobs.c.state, _jobs.c.attempt).where(_jobs.c.ref == bindparam("of_ref"))
_WORK = select(_attempts.c.work).where(
    _attempts.c.job == bindparam("of_job"), _attempts.c.attempt == bindparam("of_attempt")
)
#: Names that an error tells.
_MOST_NAMES = 20


class LastAttempt(NamedTuple):
    """A job's last attempt, to which its outputs belong."""

    job: int
    attempt: int
    state: str


def last_of(tx: Tx, job: JobRef, owner: str) -> LastAttempt:
    """Find the last attempt of an owner's job. Raises NotFound, which does not tell another's job from none."""
    row = tx.execute(_JOB, {"of_ref": job}).first()
    if row is None or row.owner != owner:
        raise NotFound(f"job = {job!r}: no such job of {owner}")
    return LastAttempt(row.number, row.attempt, row.state)


def find(tx: Tx, last: LastAttempt, name: str) -> OutputEntry:
    """Find an output of an attempt. Raises NotFound, naming some that there are."""
    outputs = Work.read(tx.execute(_WORK, {"of_job": last.job, "of_attempt": last.attempt}).scalar()).readable()
    for entry in outputs:
        if entry.name == name:
            return entry
    there = ", ".join(sorted(entry.name for entry in outputs)[:_MOST_NAMES])
    says = f"its outputs are {clip(there)}" if there else f"it is {last.state} and has left none"
    raise NotFound(f"name = {clip(name)!r}: it has no such output; {says}")
