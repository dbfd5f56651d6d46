"""Which VM may have which file of the store: the one that holds an attempt whose job names it. Reads alone."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, select

from adapters.ledger import tables
from adapters.ledger.transaction import Tx

_attempts, _jobs, _inputs = tables.attempts, tables.jobs, tables.inputs

_HELD = (
    select(_attempts.c.job)
    .join(_jobs, _jobs.c.number == _attempts.c.job)
    .join(_inputs, and_(_inputs.c.submission == _jobs.c.submission, _inputs.c.sha256 == bindparam("of_sha256")))
    .where(_attempts.c.vm == bindparam("of_vm"), tables.IS_OPEN)
    .limit(1)
)


def may_have(tx: Tx, vm: str, sha256: str) -> bool:
    """Say whether a VM holds an attempt, one that has not ended, whose job names that input."""
    return tx.execute(_HELD, {"of_vm": vm, "of_sha256": sha256}).first() is not None
