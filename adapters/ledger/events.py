"""The diary of jobs: what befell them beside the plain course (assigned, started, ended), which their rows tell.

Kept for ``job why``; nothing is decided by it. A job that runs through at once leaves no event.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import insert, select

from adapters.ledger import tables
from adapters.ledger.transaction import Tx
from schemas.ledger import JobEvent

_INSERT = insert(tables.events)
_OF_JOB = select(
    tables.events.c.at_ms,
    tables.events.c.attempt,
    tables.events.c.event,
    tables.events.c.noticed_by,
    tables.events.c.detail,
).order_by(tables.events.c.number)


#: Characters of a guest's words that are kept.
MOST_CAUSE = 4000


class Note(NamedTuple):
    """Something to remember of a job, by its number."""

    job: int
    attempt: int
    event: str
    noticed_by: str
    detail: str = ""


def note_all(tx: Tx, notes: Iterable[Note]) -> None:
    """Write the notes down at the transaction's time."""
    tx.each(_INSERT, [note._asdict() | {"at_ms": tx.now_ms} for note in notes])


def of_job(tx: Tx, number: int) -> list[JobEvent]:
    """Read a job's notes, oldest first."""
    rows = tx.execute(_OF_JOB.where(tables.events.c.job == number))
    return [JobEvent(at_ms=r[0], attempt=r[1], event=r[2], noticed_by=r[3], detail=r[4]) for r in rows]


def readable(words: str) -> str:
    """Give a guest's words as PostgreSQL can hold them (no NUL) and a person can read them."""
    return words.replace("\0", "\N{REPLACEMENT CHARACTER}")[:MOST_CAUSE]
