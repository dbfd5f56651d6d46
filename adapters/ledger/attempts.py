"""Attempts in the tables: read together with their job, under the job's lock, and written back.

Who asks about an attempt always asks about its job as well: an attempt counts only while it is the job's latest.
Decisions are in ``outcomes`` and ``leases``; this module moves values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Select, bindparam, func, select, update

from adapters.ledger import deliveries, endings, events, repute, tables, tallies
from adapters.ledger.events import Note
from adapters.ledger.outcomes import AttemptPlace, Standing, after_loss, after_return
from adapters.ledger.terms import Term
from adapters.ledger.transaction import Tx, portions
from schemas.ids import JobRef
from schemas.jobs import Phase
from schemas.ledger import FINAL, SETTLED, UNASSIGNED, JobState

_jobs, _attempts, _submissions = tables.jobs, tables.attempts, tables.submissions


class AttemptState(StrEnum):
    """How an attempt ended; while it runs, its state is a ``schemas.jobs.Phase``."""

    #: Its lease ran out. It may come back until the job is assigned again.
    EXPIRED = "expired"
    #: Its guest does not have it any more.
    LOST = "lost"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: Its guest never began it, and gave it back.
    RETURNED = "returned"


#: States that do not say that it has begun: it waits for its turn, or has ended.
_NOT_BEGUN = frozenset({Phase.ASSIGNED, *AttemptState})


class Held(NamedTuple):
    """An attempt and its job, as the ledger has them."""

    number: int
    submission: int
    shape: int
    ref: JobRef
    state: str
    latest: int
    failures: int
    losses: int
    lost_on: str
    reason: str
    submitted_ms: int
    limit: int
    array: int
    attempt: int
    vm: str
    host: str
    slot: int
    generation: int
    request_id: str
    attempt_state: str
    seen_id: str
    completion_id: str
    assigned_ms: int
    started_ms: int
    ended_ms: int
    lease_expires_ms: int
    #: Of the boot that it was given to; empty where the guest has not told.
    boot_id: str
    may_take_ms: int = 0
    over_ms: int = 0
    stretched_ms: int = 0
    #: How often the job was given back, and how many jobs its VM had given back when it was given this.
    returns: int = 0
    returns_of_vm: int = 0
    #: The slot that runs it, of which ``slot`` may be a lane.
    runs_in: int = 0
    #: What keeps it from going on, by its guest's last beat; how it ended once it has.
    cause: str = ""
    #: An edge has brought its job, and its source is told of the end.
    has_edge: bool = False

    @property
    def owner(self) -> str:
        """Whose job it is."""
        return self.ref.partition("/")[0]

    @property
    def is_latest(self) -> bool:
        """No later attempt has been made."""
        return self.attempt == self.latest

    @property
    def is_open(self) -> bool:
        """It has not ended, as far as anybody knows."""
        return self.ended_ms == 0

    @property
    def can_return(self) -> bool:
        """Its lease ran out, but nobody else has its job: it may beat again and live."""
        return self.is_latest and self.state in UNASSIGNED and self.attempt_state == AttemptState.EXPIRED

    @property
    def can_finish(self) -> bool:
        """Its completion counts: it runs, or was given up by us and nobody else has its job."""
        given_up = self.attempt_state in (AttemptState.EXPIRED, AttemptState.LOST) and not self.completion_id
        return self.is_latest and (self.is_open or (given_up and self.state in UNASSIGNED))

    @property
    def has_begun(self) -> bool:
        """Its guest has said that it is beyond waiting for its turn."""
        return self.started_ms > 0 or self.attempt_state not in _NOT_BEGUN

    @property
    def term(self) -> Term:
        """Until when its guest may keep it."""
        return Term(self.may_take_ms, self.over_ms, self.stretched_ms)

    @property
    def standing(self) -> Standing:
        """The job's part, for ``outcomes``."""
        return Standing(
            JobState(self.state),
            self.failures,
            self.losses,
            frozenset(self.lost_on.split()),
            self.reason,
            self.returns,
        )

    @property
    def place(self) -> AttemptPlace:
        """The attempt's part, for ``outcomes``."""
        return AttemptPlace(self.vm, self.host)


class Given(NamedTuple):
    """An attempt that the ledger ends, why, and where that leaves its job."""

    held: Held
    cause: str
    job: Standing


_SELECT = (
    select(
        *(_jobs.c[name] for name in ("number", "submission", "shape", "ref", "state")),
        _jobs.c.attempt.label("latest"),
        *(_jobs.c[name] for name in ("failures", "losses", "lost_on", "reason", "submitted_ms")),
        _submissions.c.attempts.label("limit"),
        _submissions.c.count.label("array"),
        *(_attempts.c[name] for name in ("attempt", "vm", "host", "slot", "generation", "request_id")),
        _attempts.c.state.label("attempt_state"),
        *(_attempts.c[name] for name in ("seen_id", "completion_id", "assigned_ms", "started_ms", "ended_ms")),
        *(_attempts.c[name] for name in ("lease_expires_ms", "boot_id", "may_take_ms", "over_ms", "stretched_ms")),
        _jobs.c.returns,
        _attempts.c.returns.label("returns_of_vm"),
        _attempts.c.place.label("runs_in"),
        _attempts.c.cause,
        _submissions.c.source_data.is_not(None).label("has_edge"),
    )
    .join_from(_jobs, _attempts, _attempts.c.job == _jobs.c.number)
    .join(_submissions, _submissions.c.number == _jobs.c.submission)
    .order_by(_jobs.c.number)
)
_BY_REF = _SELECT.where(
    _jobs.c.ref.in_(bindparam("refs", expanding=True)), _attempts.c.attempt.in_(bindparam("attempts", expanding=True))
)
_BY_REF_LOCKED = _BY_REF.with_for_update(of=(_jobs, _attempts))
_BY_NUMBER = _SELECT.where(
    _jobs.c.number.in_(bindparam("numbers", expanding=True)), _attempts.c.attempt == _jobs.c.attempt
)
_OF_VMS = _SELECT.where(tables.IS_OPEN, _attempts.c.vm.in_(bindparam("vms", expanding=True)))

_STAND = (
    update(_jobs)
    .where(_jobs.c.number == bindparam("of_job"))
    .values(
        **{
            name: bindparam(name)
            for name in (
                *("state", "failures", "losses", "lost_on", "reason", "ended_ms"),
                *("not_before_ms", "avoid_vm", "avoid_until_ms", "returns"),
            )
        },
        since_ms=func.coalesce(bindparam("settled_ms", type_=BigInteger), _jobs.c.since_ms),
    )
)
_END = (
    update(_attempts)
    .where(_attempts.c.job == bindparam("of_job"), _attempts.c.attempt == bindparam("of_attempt"))
    .values(**{name: bindparam(name) for name in ("state", "ended_ms", "cause", "noticed_by")})
)


def by_ref(tx: Tx, named: Iterable[tuple[JobRef, int]]) -> dict[tuple[JobRef, int], Held]:
    """Read attempts by job and number, locked; those that the ledger does not know are missing.

    Of a job that had many attempts, those of these numbers are read and no others.
    """
    return _named(tx, _BY_REF_LOCKED, set(named))


def look_up(tx: Tx, named: Iterable[tuple[JobRef, int]]) -> dict[tuple[JobRef, int], Held]:
    """As ``by_ref``, but for who changes nothing: waits for no writer and holds none up."""
    return _named(tx, _BY_REF, set(named))


def _named(tx: Tx, statement: Select[Any], wanted: set[tuple[JobRef, int]]) -> dict[tuple[JobRef, int], Held]:
    refs, numbers = sorted({ref for ref, _ in wanted}), sorted({number for _, number in wanted})
    rows = [
        Held._make(row)
        for some in portions(refs)
        for these in portions(numbers)
        for row in tx.execute(statement, {"refs": some, "attempts": these})
    ]
    return {(row.ref, row.attempt): row for row in rows if (row.ref, row.attempt) in wanted}


def latest_of(tx: Tx, numbers: Sequence[int], *, skip_locked: bool = False) -> list[Held]:
    """Read the latest attempt of each of these jobs, locked; ``skip_locked`` leaves out what others hold."""
    statement = _BY_NUMBER.with_for_update(of=(_jobs, _attempts), skip_locked=skip_locked)
    chosen = sorted(numbers)
    return [Held._make(row) for some in portions(chosen) for row in tx.execute(statement, {"numbers": some})]


def open_on(tx: Tx, vms: Sequence[str]) -> list[Held]:
    """Read what these VMs hold as far as the ledger knows, not locked."""
    return [Held._make(row) for some in portions(vms) for row in tx.execute(_OF_VMS, {"vms": some})]


def stand(tx: Tx, standings: Sequence[tuple[Held, Standing]]) -> None:
    """Write where jobs stand, each once; ``Held`` is what was read under the job's lock."""
    tx.each(_STAND, [_standing_row(tx, held.number, job) for held, job in standings])
    for held, job in standings:
        tallies.move(tx, held.submission, held.owner, held.state, job.state)
    deliveries.put(tx, [held.number for held, job in standings if held.has_edge and job.state in SETTLED])
    settled = [held for held, job in standings if job.state in SETTLED and job.state != held.state]
    endings.put(tx, [held.number for held in settled if endings.is_told(held.owner)])
    tx.fresh_shapes |= {held.shape for held, job in standings if job.state is JobState.SUBMITTED}


def _standing_row(tx: Tx, number: int, job: Standing) -> dict[str, object]:
    until_ms = tx.lease_now_ms + int(job.wait_s * 1000)
    return {
        "of_job": number,
        "state": job.state,
        "failures": job.failures,
        "losses": job.losses,
        "lost_on": " ".join(sorted(job.lost_on)),
        "reason": job.reason,
        "ended_ms": tx.now_ms if job.state in FINAL else 0,
        "settled_ms": tx.lease_now_ms if job.state in SETTLED else None,
        "not_before_ms": until_ms if job.wait_s else 0,
        "avoid_vm": job.avoid_vm,
        "avoid_until_ms": until_ms + int(job.avoid_s * 1000) if job.avoid_vm else 0,
        "returns": job.returns,
    }


def give_up(tx: Tx, lost: Sequence[tuple[Held, str]], state: AttemptState, noticed_by: str) -> None:
    """End attempts whose VM is lost, each with its cause; their jobs wait or are held, their VMs and hosts are struck.

    ``lost`` must have been read locked. Open attempts that are their job's latest only.
    """
    after = [Given(held, cause, after_loss(held.standing, held.place, cause, tx.policy)) for held, cause in lost]
    end_all(tx, after, state, noticed_by)
    repute.strike(tx, {held.vm: held.host for held, _ in lost})


def take_back(tx: Tx, unbegun: Sequence[tuple[Held, str]], noticed_by: str) -> None:
    """End attempts that their guests have not begun and will not soon, as if they were given back; else as above."""
    after = [Given(held, cause, after_return(held.standing, held.place, tx.policy)) for held, cause in unbegun]
    end_all(tx, after, AttemptState.RETURNED, noticed_by)


def end_all(tx: Tx, ended: Sequence[Given], state: AttemptState, noticed_by: str) -> None:
    """End attempts on the ledger's own word, and leave their jobs where ``ended`` says."""
    tx.each(_END, [_end_row(tx, one, state, noticed_by) for one in ended])
    stand(tx, [(one.held, one.job) for one in ended])
    events.note_all(tx, (note for one in ended for note in _notes(one, state, noticed_by)))
    tx.counts[f"attempts_{state}"] += len(ended)
    for one in ended:
        tx.counts["jobs_requeued" if one.job.state is JobState.SUBMITTED else f"jobs_{one.job.state}"] += 1


def _end_row(tx: Tx, ended: Given, state: AttemptState, noticed_by: str) -> dict[str, object]:
    return {
        "of_job": ended.held.number,
        "of_attempt": ended.held.attempt,
        "state": state,
        "ended_ms": tx.now_ms,
        "cause": ended.cause,
        "noticed_by": noticed_by,
    }


def _notes(ended: Given, state: AttemptState, noticed_by: str) -> Iterable[Note]:
    held, cause, job = ended
    yield Note(held.number, held.attempt, state, noticed_by, cause)
    if job.state is JobState.HELD:
        yield Note(held.number, held.attempt, "held", noticed_by, job.reason)
