"""Which output of a job is meant by a name: of its last attempt, as that said at its end. Reads alone."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import and_, bindparam, select

from adapters.errors import NotFound
from adapters.ledger import tables
from adapters.ledger.attempt_work import Work
from adapters.ledger.transaction import Tx
from schemas.codec import clip
from schemas.ids import JobRef
from schemas.jobs import OutputEntry

_jobs, _attempts = tables.jobs, tables.attempts

_LAST = (
    select(_jobs.c.owner, _jobs.c.state, _jobs.c.attempt, _attempts.c.work)
    .select_from(
        _jobs.outerjoin(_attempts, and_(_attempts.c.job == _jobs.c.number, _attempts.c.attempt == _jobs.c.attempt))
    )
    .where(_jobs.c.ref == bindparam("of_ref"))
)
#: Names that an error tells.
_MOST_NAMES = 20


class LeftOutput(NamedTuple):
    """An output, and the attempt that left it."""

    attempt: int
    entry: OutputEntry


def find(tx: Tx, job: JobRef, name: str, owner: str) -> LeftOutput:
    """Find an output of an owner's job. Raises NotFound, which does not tell another's job from none."""
    row = tx.execute(_LAST, {"of_ref": job}).first()
    if row is None or row.owner != owner:
        raise NotFound(f"job = {job!r}: no such job of {owner}")
    outputs = Work.read(row.work).outputs
    for entry in outputs:
        if entry.name == name:
            return LeftOutput(row.attempt, entry)
    there = ", ".join(sorted(entry.name for entry in outputs)[:_MOST_NAMES])
    says = f"its outputs are {clip(there)}" if there else f"it is {row.state} and has left none"
    raise NotFound(f"name = {clip(name)!r}: {job} has no such output; {says}")
