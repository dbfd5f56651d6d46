"""What time alone changes, by the lease clock: leases run out, agents fall silent, rests and waits end, requests age.

An adapter keeps it every few seconds. Each step is cheap when nothing is due, and two adapters may keep it at once.
"""

from __future__ import annotations

from sqlalchemy import bindparam, update

from adapters.ledger import leases, readiness, requests, tables
from adapters.ledger.transaction import Tx

_jobs = tables.jobs

_DUE = update(_jobs).where(tables.IS_DELAYED, _jobs.c.not_before_ms <= bindparam("now_ms")).values(not_before_ms=0)


def keep(tx: Tx) -> None:
    """Do all that is due; ``match`` is the caller's."""
    readiness.fall_silent(tx)
    leases.expire(tx)
    readiness.end_rests(tx)
    end_waits(tx)
    requests.forget(tx, tx.lease_now_ms - int(tx.policy.request_life_s * 1000))


def end_waits(tx: Tx) -> None:
    """Let jobs that have waited long enough be tried again."""
    tx.execute(_DUE, {"now_ms": tx.lease_now_ms})
