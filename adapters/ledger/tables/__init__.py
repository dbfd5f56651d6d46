"""The ledger's tables, as the migrations leave them, but for those of ``clock``; a test compares the two.

Times are ms since 1970 of the database's clock, 0 = not yet, and are for people. What is judged by its age, a lease,
a beat, a wait, a rest, or what has been kept for long enough, has a time of the lease clock (see ``clock``), as
``Tx.lease_now_ms`` gives it. ``rank`` is minus the priority: lower goes first. Rows of
``shapes``, ``offers`` and ``submissions`` never change once written, so they may be cached. The row of ``jobs`` is the
lock of all that concerns that job.
"""

from __future__ import annotations

from adapters.ledger.tables.base import metadata
from adapters.ledger.tables.files import identity, inputs, removals
from adapters.ledger.tables.grids import acquisitions, sources, takings
from adapters.ledger.tables.happenings import happening_budgets, happening_numbers, happenings
from adapters.ledger.tables.machines import (
    IS_ABSENT,
    IS_KEPT,
    IS_READY,
    IS_RESTING,
    IS_SPEAKING,
    IS_THERE,
    hosts,
    offers,
    requests,
    vms,
)
from adapters.ledger.tables.messages import IS_DUE, deliveries, outbox
from adapters.ledger.tables.work import (
    HAS_ENDED,
    IS_DELAYED,
    IS_HELD,
    IS_MADE_AT_ONCE,
    IS_OPEN,
    IS_OPEN_AND_LARGE,
    IS_SUBMITTED,
    IS_UNMADE,
    IS_WAITING,
    attempts,
    deleted,
    events,
    jobs,
    kinds,
    owners,
    shapes,
    submissions,
    tallies,
)

__all__ = [
    "HAS_ENDED",
    "IS_ABSENT",
    "IS_DELAYED",
    "IS_DUE",
    "IS_HELD",
    "IS_KEPT",
    "IS_MADE_AT_ONCE",
    "IS_OPEN",
    "IS_OPEN_AND_LARGE",
    "IS_READY",
    "IS_RESTING",
    "IS_SPEAKING",
    "IS_SUBMITTED",
    "IS_THERE",
    "IS_UNMADE",
    "IS_WAITING",
    "acquisitions",
    "attempts",
    "deleted",
    "deliveries",
    "events",
    "happening_budgets",
    "happening_numbers",
    "happenings",
    "hosts",
    "identity",
    "inputs",
    "jobs",
    "kinds",
    "metadata",
    "offers",
    "outbox",
    "owners",
    "removals",
    "requests",
    "shapes",
    "sources",
    "submissions",
    "takings",
    "tallies",
    "vms",
]
