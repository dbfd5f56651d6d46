"""What the edge that brought a job is to tell its source about it: rows of the ledger until that has been done.

A row is made in the transaction that ends or holds the job, and worked like the outbox: ``take`` claims a portion, and
what is then neither ``done`` nor ``failed`` is due again, so that a source hears of a job at least once. What has
several steps goes on, after any kill, at the one after the last that is written down. What fails is tried again after
growing waits; after ``MOST_TRIES`` of a step it is held, with its last error, for a person. Until then its job is not
deleted for its age or for room; whoever deletes a job deletes what was to be told of it. A job that was held may be
released until it has been told: then it has not ended, nothing is told until it ends again, and then all of it, from
the first step.

Of some grids what they were told may be undone by a word from before that comes late: then it is looked once more,
later, whether it stands (``affirm``). To all others the job's source has been told by then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from msgspec import Struct
from sqlalchemy import BigInteger, Integer, bindparam, delete, func, literal, select, tuple_, update

from adapters.errors import AlreadyTold
from adapters.ledger import tables
from adapters.ledger.events import readable
from adapters.ledger.transaction import Insert, Tx, insert_into, portions
from broker.backoff import backoff
from schemas.ids import JobRef
from schemas.ledger import SETTLED

_table, _jobs, _submissions = tables.deliveries, tables.jobs, tables.submissions

#: What there is to tell; and what has been told, and is to be looked at once more.
ENDED, AFFIRM = "ended", "affirm"
#: Deliveries that are taken at once.
PORTION = 100
#: How long whoever has taken some has for them, ms; then they are due again.
CLAIM_MS = 300_000
#: Bounds of the wait before the next try, seconds; and tries until a delivery is held: some four days.
FIRST_S, LONGEST_S = 10.0, 6 * 3600.0
MOST_TRIES = 30
#: The error of one that nobody ever said anything of.
UNANSWERED = "taken as often as may be, and never said to be done"


class Key(NamedTuple):
    """A delivery's name in the ledger."""

    job: int
    what: str
    #: Which taking of it this is: what another has taken since, or what was put anew, is not touched.
    claim: int = 0


class DueDelivery(Struct, frozen=True, kw_only=True):
    """What is to be told about a job, and what its edge has kept for that."""

    key: Key
    job: JobRef
    state: str
    source_data: bytes
    #: Of this step, this one included.
    tries: int
    #: The step that was done last, empty = none; and what the steps have given.
    step: str = ""
    kept: bytes = b""


#: Of a job: nothing waits to be told of it.
_IS_UNTOLD = _table.c.what == ENDED
IS_TOLD = ~select(_table.c.job).where(_table.c.job == _jobs.c.number, tables.IS_DUE, _IS_UNTOLD).exists()
_IS_NAMED = (_table.c.job == bindparam("of_job")) & (_table.c.what == bindparam("of_what"))
_IS_KEY = _IS_NAMED & (_table.c.claim == bindparam("of_claim"))
_DUE = (
    select(*(_table.c[name] for name in ("job", "what", "claim", "tries", "step", "kept")))
    .where(tables.IS_DUE, _table.c.source == bindparam("of_source"), _table.c.due_ms <= bindparam("now_ms"))
    .order_by(_table.c.due_ms, _table.c.job)
    .limit(PORTION)
    .with_for_update(skip_locked=True)
)
_COUNT = select(func.count()).select_from(_table).where(_table.c.source == bindparam("of_source"))
_IS_ANY = (
    select(_table.c.job)
    .where(tables.IS_DUE, _table.c.source == bindparam("of_source"), _table.c.due_ms <= bindparam("now_ms"))
    .limit(1)
)
_CLAIM = (
    update(_table)
    .where(_IS_KEY)
    .values(
        due_ms=bindparam("until_ms", type_=BigInteger),
        tries=_table.c.tries + 1,
        taken_by=bindparam("by"),
        claim=_table.c.claim + 1,
    )
)
_TOLD = (
    select(_jobs.c.number, _jobs.c.ref, _jobs.c.state, _submissions.c.source_data)
    .join_from(_jobs, _submissions, _submissions.c.number == _jobs.c.submission)
    .where(_jobs.c.number.in_(bindparam("numbers", expanding=True)))
)
_BROUGHT = (
    select(_jobs.c.number, _jobs.c.ref, _submissions.c.source)
    .join_from(_jobs, _submissions, _submissions.c.number == _jobs.c.submission)
    .where(_jobs.c.number.in_(bindparam("numbers", expanding=True)), _submissions.c.source_data.is_not(None))
)
_UNTOLD = (
    select(_table.c.job, _table.c.taken_by)
    .where(_table.c.job.in_(bindparam("numbers", expanding=True)), _IS_UNTOLD)
    .with_for_update()
)
_OWED = select(_table).where(_table.c.job == bindparam("of_job"), _IS_UNTOLD | (_table.c.error != "")).limit(1)
_AFFIRM = (
    update(_table)
    .where(_IS_KEY)
    .values(
        what=AFFIRM,
        due_ms=bindparam("until_ms", type_=BigInteger),
        tries=0,
        error="",
        taken_by="",
        claim=_table.c.claim + 1,
    )
)
_AFFIRMED_BEFORE = delete(_table).where(_table.c.job == bindparam("of_job"), _table.c.what == AFFIRM)
_DONE = delete(_table).where(_IS_KEY)
_STEP = (
    update(_table)
    .where(_IS_KEY, tables.IS_DUE)
    .values(step=bindparam("to_step"), kept=bindparam("to_keep"), tries=0, error="")
)
_TRIES = select(_table.c.job, _table.c.what, _table.c.claim, _table.c.tries).where(
    tables.IS_DUE, _table.c.job.in_(bindparam("numbers", expanding=True))
)
_RENEW = (
    update(_table)
    .where(_IS_KEY, _table.c.taken_by == bindparam("by"), tables.IS_DUE)
    .values(due_ms=bindparam("until_ms", type_=BigInteger))
)
_TAKEN = select(_table.c.job, _table.c.what, _table.c.claim).where(
    tables.IS_DUE, _table.c.source == bindparam("of_source"), _table.c.taken_by == bindparam("by")
)
_GIVE_BACK = (
    update(_table)
    .where(_IS_KEY, tables.IS_DUE)
    .values(
        due_ms=bindparam("until_ms", type_=BigInteger),
        tries=_table.c.tries - bindparam("not_tried", type_=Integer),
        taken_by="",
    )
)
_AGAIN = (
    update(_table)
    .where(_IS_KEY, tables.IS_DUE)
    .values(
        state=bindparam("to_state"), due_ms=bindparam("until_ms", type_=BigInteger), error=bindparam("why"), taken_by=""
    )
)


def put(tx: Tx, numbers: Sequence[int]) -> None:
    """Have the end of these jobs told, of those that an edge brought. Idempotent."""
    statement = _insert(tx.is_sqlite)
    for some in portions(numbers):
        tx.execute(statement, {"numbers": some, "now_ms": tx.lease_now_ms})


@cache
def _insert(is_sqlite: bool) -> Insert:
    ended = (
        select(
            *(_jobs.c.number, literal(ENDED), _submissions.c.source, literal("due")),
            *(bindparam("now_ms", type_=BigInteger), literal(0), literal("")),
        )
        .join_from(_jobs, _submissions, _submissions.c.number == _jobs.c.submission)
        .where(_jobs.c.number.in_(bindparam("numbers", expanding=True)), _submissions.c.source_data.is_not(None))
    )
    columns = ["job", "what", "source", "state", "due_ms", "tries", "error"]
    statement = insert_into(_table, is_sqlite).from_select(columns, ended)
    anew: dict[str, Any] = {name: statement.excluded[name] for name in columns[3:]}
    anew |= {"step": "", "kept": None, "taken_by": "", "claim": _table.c.claim + 1}
    return statement.on_conflict_do_update(index_elements=["job", "what"], set_=anew)


def is_any_due(tx: Tx, source: str) -> bool:
    """Say whether something is due to a source."""
    return tx.execute(_IS_ANY, {"of_source": source, "now_ms": tx.lease_now_ms}).first() is not None


def take(tx: Tx, source: str) -> list[DueDelivery]:
    """Claim a portion of what is due to a source, what has been due for longest first."""
    due = tx.execute(_DUE, {"of_source": source, "now_ms": tx.lease_now_ms}).all()
    _again(tx, {Key(row.job, row.what, row.claim): UNANSWERED for row in due if row.tries >= MOST_TRIES})
    taken = {Key(row.job, row.what, row.claim): row for row in due if row.tries < MOST_TRIES}
    told = {row.number: row for row in tx.execute(_TOLD, {"numbers": sorted({key.job for key in taken})})}
    done(tx, [key for key in taken if told[key.job].state not in SETTLED])
    ended = {key: row for key, row in taken.items() if told[key.job].state in SETTLED}
    until_ms = tx.lease_now_ms + CLAIM_MS
    tx.each(_CLAIM, [{**_named(key), "until_ms": until_ms, "by": tx.instance} for key in ended])
    return [
        DueDelivery(
            key=key._replace(claim=key.claim + 1),
            job=told[key.job].ref,
            state=told[key.job].state,
            source_data=told[key.job].source_data,
            tries=row.tries + 1,
            step=row.step,
            kept=row.kept or b"",
        )
        for key, row in ended.items()
    ]


def renew(tx: Tx, source: str, keys: Collection[Key], *, has_ended: bool = False) -> None:
    """Keep what this adapter has taken and is still at, and have due at once what else it has taken, untried; unknown
    keys are no error. One that is started anew is at nothing: what it had when it ``has_ended`` counts as tried."""
    taken = {Key(row.job, row.what, row.claim) for row in tx.execute(_TAKEN, {"of_source": source, "by": tx.instance})}
    until_ms = tx.lease_now_ms + CLAIM_MS
    kept = [{**_named(key), "until_ms": until_ms, "by": tx.instance} for key in sorted(taken & set(keys))]
    tx.each(_RENEW, kept)
    back = {"until_ms": tx.lease_now_ms, "not_tried": int(not has_ended)}
    tx.each(_GIVE_BACK, [{**_named(key), **back} for key in sorted(taken - set(keys))])


def source_of(tx: Tx, job: int) -> str:
    """Name the source that brought a job, empty = none did."""
    row = tx.execute(_BROUGHT, {"numbers": [job]}).first()
    return "" if row is None else str(row.source)


def owed(tx: Tx, job: int) -> tuple[str, bool]:
    """Say what a job's source has not been told yet of its end, empty = nothing; and whether a person must look."""
    row = tx.execute(_OWED, {"of_job": job}).first()
    if row is None:
        return "", False
    if not row.error:
        return f"{row.source} is being told", False
    doing = f"telling {row.source}" if row.what == ENDED else f"looking whether {row.source} still knows it"
    if row.state == "held":
        return f"{doing} was given up: {row.error}", True
    wait_s = max(0, row.due_ms - tx.lease_now_ms) / 1000
    return f"{doing} failed, try {row.tries}: {row.error}; again in {wait_s:.0f} s", False


def demand_untold(tx: Tx, numbers: Sequence[int]) -> None:
    """Raise AlreadyTold if the end of one of these jobs, which have ended, was told to its source, or is being told."""
    for some in portions(numbers):
        brought = tx.execute(_BROUGHT, {"numbers": some}).all()
        untold = {row.job: row.taken_by for row in tx.execute(_UNTOLD, {"numbers": some})} if brought else {}
        for row in brought:
            if row.number not in untold:
                words = f"{row.source} was told that it has failed: submit it there again"
                raise AlreadyTold(f"job = {row.ref}: {words}", f"submit it to {row.source} under a new name")
            if untold[row.number]:
                words, why = f"{row.source} is just being told that it has failed", f"`volcloud job why {row.ref}`"
                raise AlreadyTold(f"job = {row.ref}: {words}", f"wait: {why} says whether it could be told")


def stepped(tx: Tx, key: Key, step: str, kept: bytes) -> None:
    """Write down that a step has been done, and what the steps until now have given; an unknown key is no error."""
    tx.each(_STEP, [{**_named(key), "to_step": step, "to_keep": kept}])


def done(tx: Tx, keys: Sequence[Key]) -> None:
    """Forget what has been told; unknown keys are no error."""
    tx.each(_DONE, [_named(key) for key in keys])


def affirm(tx: Tx, keys: Sequence[Key], after_s: float) -> None:
    """Have it looked later whether what has been told stands, after so many seconds; unknown keys are no error. Of a
    job that has ended twice, as one that was lost and came back, it is the later word."""
    tx.each(_AFFIRMED_BEFORE, [{"of_job": key.job} for key in keys])
    until_ms = tx.lease_now_ms + int(after_s * 1000)
    tx.each(_AFFIRM, [{**_named(key), "until_ms": until_ms} for key in keys])


def hold(tx: Tx, errors: Mapping[Key, str]) -> None:
    """Have a person look at what its source will never take so, see ``release``; unknown keys are no error."""
    rows = [{**_named(key), "to_state": "held", "until_ms": 0, "why": readable(why)} for key, why in errors.items()]
    tx.each(_AGAIN, rows)


def count(tx: Tx, source: str) -> int:
    """Count what a source is still to be told, and what is to be looked at once more."""
    return int(tx.execute(_COUNT, {"of_source": source}).scalar_one())


def drop(tx: Tx, source: str, most: int) -> None:
    """Forget so many that a source would be told."""
    some = select(_table.c.job, _table.c.what).where(_table.c.source == source).limit(most)
    tx.execute(delete(_table).where(tuple_(_table.c.job, _table.c.what).in_(some)))


def release(tx: Tx, source: str) -> int:
    """Have all tried again at once that is held of a source, or has failed and waits, as if for the first time; says
    how many. What an adapter is at stays."""
    waits = tables.IS_DUE & (_table.c.error != "") & (_table.c.taken_by == "") & (_table.c.due_ms > tx.lease_now_ms)
    statement = update(_table).where(_table.c.source == source, (_table.c.state == "held") | waits)
    return tx.execute(statement.values(state="due", due_ms=tx.lease_now_ms, tries=0)).rowcount


def failed(tx: Tx, errors: Mapping[Key, str]) -> None:
    """Have what could not be told tried again later, or hold it once it was tried too often; unknown keys are none."""
    _again(tx, errors)


def _again(tx: Tx, errors: Mapping[Key, str]) -> None:
    rows = tx.execute(_TRIES, {"numbers": sorted({key.job for key in errors})}).all() if errors else []
    found = {Key(row.job, row.what, row.claim): row.tries for row in rows}
    tx.each(_AGAIN, [_next(tx, key, found[key], error) for key, error in errors.items() if key in found])


def _next(tx: Tx, key: Key, tries: int, error: str) -> dict[str, Any]:
    is_over = tries >= MOST_TRIES
    wait_s = next(islice(backoff(FIRST_S, LONGEST_S), max(0, tries - 1), None))
    state, until_ms = ("held", 0) if is_over else ("due", tx.lease_now_ms + int(wait_s * 1000))
    return {**_named(key), "to_state": state, "until_ms": until_ms, "why": readable(error)}


def _named(key: Key) -> dict[str, Any]:
    return {"of_job": key.job, "of_what": key.what, "of_claim": key.claim}
