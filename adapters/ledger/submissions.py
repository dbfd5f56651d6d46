"""Submissions: a site's or a person's description becomes rows of jobs that wait.

Idempotent by owner and id: the same description again is answered as before, another one under the same id is
refused. A refusal leaves no row, so the mended description may come under the same id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from sqlalchemy import bindparam, insert, select, tuple_

from adapters.ledger import accounts, arrays, classes, tables, tallies
from adapters.ledger.transaction import Tx, portions
from schemas.description import JobDescription, check_description
from schemas.envelope import MAX_BODY_BYTES
from schemas.ids import kind_of
from schemas.ledger import JobState, JobSubmit, JobVerdict

#: Says of a digest whether the store has that file.
KnownInputs = Callable[[str], bool]
Key = tuple[str, str]

#: Longest name of a source, characters, and what an edge may keep with a submission, bytes.
MOST_SOURCE, MOST_SOURCE_BYTES = 42, 64 << 10
#: Room is left for what an assignment says beside its description; one that did not fit would block all matching.
MOST_DESCRIPTION_BYTES = MAX_BODY_BYTES - 8192

_table = tables.submissions
_encoder = msgspec.msgpack.Encoder(order="deterministic")
_DIGESTS = select(_table.c.owner, _table.c.id, _table.c.digest).where(
    tuple_(_table.c.owner, _table.c.id).in_(bindparam("keys", expanding=True))
)


class Origin(NamedTuple):
    """Where an edge had a submission from, and what the edge needs to answer for its jobs."""

    source: str
    data: bytes


class CheckedSubmission(Struct, frozen=True):
    """A submission that was looked at before any transaction: all in it that its submitter's size decides."""

    message: JobSubmit
    body: bytes
    digest: str
    shape: str
    #: Why it is refused, if it was not submitted before; empty when it is sound.
    reasons: list[str]
    #: The edge that brought it, and what it keeps with it; None: its owner did.
    origin: Origin | None = None


def check(message: JobSubmit, known_inputs: KnownInputs, origin: Origin | None = None) -> CheckedSubmission:
    """Judge a submission by itself. Asks ``known_inputs`` once for each digest; raises what that raises."""
    job = message.job
    body = _encoder.encode(job)
    reasons = _flaws(job, len(body), cache(known_inputs)) + _flaws_of_origin(origin)
    return CheckedSubmission(
        message, body, sha256(body).hexdigest(), classes.shape_key(job.requirements), reasons, origin
    )


def submit(tx: Tx, owner: str, checked: CheckedSubmission) -> JobVerdict:
    """Take one submission; see ``submit_all``."""
    return submit_all(tx, [(owner, checked)])[0]


def submit_all(tx: Tx, checked: Sequence[tuple[str, CheckedSubmission]]) -> list[JobVerdict]:
    """Take submissions, each with its owner, and give a verdict for each, in order.

    Accepted jobs wait; ``match`` is the caller's, and so is sending the verdicts.
    """
    before = _digests(tx, {(owner, one.message.job.id) for owner, one in checked})
    new: dict[Key, CheckedSubmission] = {}
    refusals: list[list[str]] = []
    for owner, one in checked:
        key = (owner, one.message.job.id)
        refusals.append(_refusal(one, before.get(key)))
        if not refusals[-1] and key not in before:
            new[key], before[key] = one, one.digest
    written = _insert(tx, new)
    both = zip(refusals, checked, strict=True)
    return [_verdict(tx, one.message, why or written.objection(owner, one)) for why, (owner, one) in both]


class _Written(NamedTuple):
    """What stood in the way of new submissions: another transaction wrote some first, of others there is one kind too
    many."""

    lost: Mapping[Key, str]
    full: Mapping[Key, str]

    def objection(self, owner: str, checked: CheckedSubmission) -> list[str]:
        """Say why a submission is refused that looked sound; empty when it is accepted."""
        key = (owner, checked.message.job.id)
        if key in self.full:
            return [self.full[key]]
        is_other = self.lost.get(key, checked.digest) != checked.digest
        return [_taken(checked.message.job)] if is_other else []


def _refusal(checked: CheckedSubmission, before: str | None) -> list[str]:
    """Say why a submission is refused; empty when it is accepted, now or before."""
    if before is None:
        return checked.reasons
    return [] if before == checked.digest else [_taken(checked.message.job)]


def _flaws(job: JobDescription, size: int, known_inputs: KnownInputs) -> list[str]:
    if size > MOST_DESCRIPTION_BYTES:
        return [f"the description has {size} bytes: at most {MOST_DESCRIPTION_BYTES} fit a message; upload its inputs"]
    missing = [i for i in job.inputs if i.sha256 is not None and not known_inputs(i.sha256)]
    return check_description(job) + [
        f"input {i.name!r}: the store has no file {i.sha256}: upload it first (`volcloud job submit` does), "
        "then submit again under the same id"
        for i in missing
    ]


def _flaws_of_origin(origin: Origin | None) -> list[str]:
    if origin is None:
        return []
    name = f"its source must have 1 to {MOST_SOURCE} characters"
    size = f"its source's data has {len(origin.data)} bytes: at most {MOST_SOURCE_BYTES} are kept"
    is_long = len(origin.data) > MOST_SOURCE_BYTES
    return [name] * (not 0 < len(origin.source) <= MOST_SOURCE) + [size] * is_long


def _taken(job: JobDescription) -> str:
    return (
        f"id = {job.id!r}: was submitted before with another description: "
        "choose another id, or submit the very same description"
    )


def _verdict(tx: Tx, message: JobSubmit, reasons: list[str]) -> JobVerdict:
    accepted = not reasons
    tx.counts["submissions_accepted" if accepted else "submissions_refused"] += 1
    count = message.job.array if accepted else 0
    return JobVerdict(call=message.id, accepted=accepted, job=message.job.id, count=count, reasons=reasons)


def _digests(tx: Tx, keys: set[Key]) -> dict[Key, str]:
    found = [row for some in portions(sorted(keys)) for row in tx.execute(_DIGESTS, {"keys": some})]
    return {(owner, job_id): digest for owner, job_id, digest in found}


def _insert(tx: Tx, new: Mapping[Key, CheckedSubmission]) -> _Written:
    """Write submissions and their jobs."""
    numbers = classes.shape_numbers(tx, [classes.Brought(one.shape, owner) for (owner, _), one in new.items()])
    full = {key: _too_many(key[0]) for key, one in new.items() if one.shape not in numbers}
    tx.counts["too_many_kinds"] += len(full)
    full |= _beyond_waiting(tx, {key: one for key, one in new.items() if key not in full})
    rows = [_row(tx, key, new[key], numbers) for key in sorted(new) if key not in full]
    return _Written(_write(tx, new, rows) if rows else {}, full)


def _beyond_waiting(tx: Tx, new: Mapping[Key, CheckedSubmission]) -> dict[Key, str]:
    """Say why those are refused with which their owner would have more jobs waiting than it may. Two adapters at once
    may let it have as many more as one transaction brings. What it has cancelled counts until it is deleted: who
    submits and cancels in turn would fill the ledger."""
    most_of = accounts.most_waiting(tx, sorted({owner for owner, _ in new}))
    waiting = {owner: _wait_or_are_left(tx, owner) for owner in most_of}
    beyond: dict[Key, str] = {}
    for (owner, name), one in new.items():
        count, most = one.message.job.array, most_of[owner]
        if waiting[owner] + count > most:
            beyond[owner, name] = _too_long(owner, waiting[owner], count, most)
        else:
            waiting[owner] += count
    return beyond


def _wait_or_are_left(tx: Tx, owner: str) -> int:
    counts = tallies.of_owner(tx, owner)
    return counts.get(JobState.SUBMITTED, 0) + counts.get(JobState.CANCELLED, 0)


def _too_long(owner: str, waiting: int, count: int, most: int) -> str:
    if not most:
        return f"array = {count}: {owner} may let no job wait: an operator has said so, ask him"
    if count > most:
        return f"array = {count}: of one owner {most} jobs may wait at once: submit several smaller ones"
    has = f"{owner} has {waiting} jobs that wait or were cancelled, and may have {most}"
    return f"array = {count}: {has}: delete what was cancelled, or submit this again once others have begun"


def _too_many(owner: str) -> str:
    return "requirements: " + classes.too_many(owner, classes.MOST_OF_OWNER, "job")


def _write(tx: Tx, new: Mapping[Key, CheckedSubmission], rows: Sequence[dict[str, Any]]) -> dict[Key, str]:
    """Gives the digests of those that another transaction wrote first."""
    _note_kinds(tx, rows)
    statement = tx.insert(_table).on_conflict_do_nothing(index_elements=["id", "owner"])
    written = tx.connection.execute(
        statement.returning(_table.c.number, _table.c.count, _table.c.owner, _table.c.id), rows
    ).all()
    by_count: defaultdict[int, list[int]] = defaultdict(list)
    tx.fresh_shapes |= {row["shape"] for row in rows}
    _note_inputs(tx, {number: new[owner, job_id].message.job for number, _, owner, job_id in written})
    for number, count, owner, _ in written:
        by_count[count].append(number)
        tallies.add(tx, number, owner, JobState.SUBMITTED, count)
        tx.counts["jobs_submitted"] += count
    arrays.begin(tx, by_count)
    return _digests(tx, {(row["owner"], row["id"]) for row in rows} - {(owner, name) for _, _, owner, name in written})


def _note_kinds(tx: Tx, rows: Sequence[dict[str, Any]]) -> None:
    """Note of which shapes an owner has jobs: matching asks that first."""
    # Sorted: two writers lock new rows in one order.
    kinds = sorted({(row["owner"], row["shape"]) for row in rows})
    statement = tx.insert(tables.kinds).on_conflict_do_nothing(index_elements=["owner", "shape"])
    tx.each(statement, [{"owner": owner, "shape": shape} for owner, shape in kinds])


def _note_inputs(tx: Tx, written: Mapping[int, JobDescription]) -> None:
    """Note which files of the store are needed, so that they are kept."""
    needed = [
        {"sha256": digest, "submission": number}
        for number, job in written.items()
        for digest in sorted({one.sha256 for one in job.inputs if one.sha256})
    ]
    tx.each(insert(tables.inputs), needed)


def _row(tx: Tx, key: Key, checked: CheckedSubmission, shapes: Mapping[str, int]) -> dict[str, Any]:
    job, origin = checked.message.job, checked.origin
    return {
        "owner": key[0],
        "id": key[1],
        "digest": checked.digest,
        "description": checked.body,
        "count": job.array,
        "made": arrays.first_portion(job.array),
        "attempts": job.attempts,
        "shape": shapes[checked.shape],
        "rank": -job.priority,
        "submitted_ms": tx.now_ms,
        "source": origin.source if origin else kind_of(key[0]) or "",
        "source_data": origin.data if origin else None,
    }
