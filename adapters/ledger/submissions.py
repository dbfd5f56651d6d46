"""Submissions: a site's or a person's description becomes rows of jobs that wait.

Idempotent by owner and id: the same description again is answered as before, another one under the same id is
refused. A refusal leaves no row, so the mended description may come under the same id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Any

import msgspec
from sqlalchemy import Text, bindparam, cast, func, insert, literal, select, true, tuple_

from adapters.ledger import classes, tables, tallies
from adapters.ledger.transaction import Tx, portions
from schemas.description import JobDescription, check_description
from schemas.envelope import MAX_BODY_BYTES
from schemas.ledger import JobState, JobSubmit, JobVerdict

#: Says of a digest whether the store has that file.
KnownInputs = Callable[[str], bool]
Key = tuple[str, str]

#: Room is left for what an assignment says beside its description; one that did not fit would block all matching.
MOST_DESCRIPTION_BYTES = MAX_BODY_BYTES - 8192

_table = tables.submissions
_encoder = msgspec.msgpack.Encoder(order="deterministic")
#: A job of a name that was deleted begins after the deleted one's attempts.
_FIRST_ATTEMPT = (
    select(func.coalesce(func.max(tables.deleted.c.attempt), 0))
    .where(tables.deleted.c.owner == _table.c.owner, tables.deleted.c.id == _table.c.id)
    .correlate(_table)
    .scalar_subquery()
)
_DIGESTS = select(_table.c.owner, _table.c.id, _table.c.digest).where(
    tuple_(_table.c.owner, _table.c.id).in_(bindparam("keys", expanding=True))
)


def submit(tx: Tx, owner: str, message: JobSubmit, known_inputs: KnownInputs) -> JobVerdict:
    """Take one submission; see ``submit_all``."""
    return submit_all(tx, [(owner, message)], known_inputs)[0]


def submit_all(tx: Tx, messages: Sequence[tuple[str, JobSubmit]], known_inputs: KnownInputs) -> list[JobVerdict]:
    """Take submissions, each with its owner, and give a verdict for each, in order.

    Accepted jobs wait; ``match`` is the caller's, and so is sending the verdicts. ``known_inputs`` is asked once for
    each digest, within the transaction.
    """
    before = _digests(tx, {(owner, message.job.id) for owner, message in messages})
    new: dict[Key, JobDescription] = {}
    verdicts: list[JobVerdict] = []
    is_known = cache(known_inputs)
    for owner, message in messages:
        key, digest = (owner, message.job.id), _digest(message.job)
        reasons = _refusal(message.job, digest, before.get(key), is_known)
        if not reasons and key not in before:
            new[key], before[key] = message.job, digest
        verdicts.append(_verdict(tx, message, reasons))
    lost = _insert(tx, new, before)
    return [_second_look(v, m, lost.get((o, m.job.id))) for v, (o, m) in zip(verdicts, messages, strict=True)]


def _refusal(job: JobDescription, digest: str, before: str | None, known_inputs: KnownInputs) -> list[str]:
    """Say why a submission is refused; empty when it is accepted, now or before."""
    if before is not None:
        return [] if before == digest else [_taken(job)]
    size = len(_encoder.encode(job))
    if size > MOST_DESCRIPTION_BYTES:
        return [f"the description has {size} bytes: at most {MOST_DESCRIPTION_BYTES} fit a message; upload its inputs"]
    missing = [i for i in job.inputs if i.sha256 is not None and not known_inputs(i.sha256)]
    return check_description(job) + [
        f"input {i.name!r}: the store has no file {i.sha256}: upload it first (`volcloud job submit` does), "
        "then submit again under the same id"
        for i in missing
    ]


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


def _second_look(verdict: JobVerdict, message: JobSubmit, lost_to: str | None) -> JobVerdict:
    """Refuse what another adapter took under the same id, with another description, while we were looking."""
    if lost_to is None or lost_to == _digest(message.job) or not verdict.accepted:
        return verdict
    return msgspec.structs.replace(verdict, accepted=False, count=0, reasons=[_taken(message.job)])


def _digest(job: JobDescription) -> str:
    return sha256(_encoder.encode(job)).hexdigest()


def _digests(tx: Tx, keys: set[Key]) -> dict[Key, str]:
    found = [row for some in portions(sorted(keys)) for row in tx.execute(_DIGESTS, {"keys": some})]
    return {(owner, job_id): digest for owner, job_id, digest in found}


def _insert(tx: Tx, new: Mapping[Key, JobDescription], digests: Mapping[Key, str]) -> dict[Key, str]:
    """Write submissions and their jobs; gives the digests of those that another transaction wrote first."""
    if not new:
        return {}
    numbers = classes.shape_numbers(tx, [classes.shape_key(job.requirements) for job in new.values()])
    rows = [_row(tx, key, new[key], digests[key], numbers) for key in sorted(new)]
    statement = tx.insert(_table).on_conflict_do_nothing(index_elements=["id", "owner"])
    written = tx.connection.execute(
        statement.returning(_table.c.number, _table.c.count, _table.c.owner, _table.c.id), rows
    ).all()
    by_count: defaultdict[int, list[int]] = defaultdict(list)
    tx.fresh_shapes |= {row["shape"] for row in rows}
    _note_inputs(tx, {number: new[owner, job_id] for number, _, owner, job_id in written})
    for number, count, owner, _ in written:
        by_count[count].append(number)
        tallies.add(tx, number, owner, JobState.SUBMITTED, count)
    for count, submissions in by_count.items():
        _insert_jobs(tx, submissions, count)
        tx.counts["jobs_submitted"] += count * len(submissions)
    return _digests(tx, set(new) - {(owner, job_id) for _, _, owner, job_id in written})


def _note_inputs(tx: Tx, written: Mapping[int, JobDescription]) -> None:
    """Note which files of the store are needed, so that they are kept."""
    needed = [
        {"sha256": digest, "submission": number}
        for number, job in written.items()
        for digest in sorted({one.sha256 for one in job.inputs if one.sha256})
    ]
    tx.each(insert(tables.inputs), needed)


def _row(tx: Tx, key: Key, job: JobDescription, digest: str, shapes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "owner": key[0],
        "id": key[1],
        "digest": digest,
        "description": _encoder.encode(job),
        "count": job.array,
        "attempts": job.attempts,
        "shape": shapes[classes.shape_key(job.requirements)],
        "rank": -job.priority,
        "submitted_ms": tx.now_ms,
    }


def _insert_jobs(tx: Tx, submissions: Iterable[int], count: int) -> None:
    """Make the jobs of submissions of one size inside the database: 100,000 rows never pass through here."""
    first = select(literal(1).label("value")).cte("indices", recursive=True)
    indices = first.union_all(select(first.c.value + 1).where(first.c.value < count))
    values = {
        "submission": _table.c.number,
        "idx": indices.c.value,
        "ref": _table.c.owner + "/" + _table.c.id + "." + cast(indices.c.value, Text),
        "shape": _table.c.shape,
        "rank": _table.c.rank,
        "state": literal(JobState.SUBMITTED.value),
        "attempt": _FIRST_ATTEMPT,
        "failures": literal(0),
        "losses": literal(0),
        "lost_on": literal(""),
        "reason": literal(""),
        "cancel_requested": literal(False),
        "submitted_ms": _table.c.submitted_ms,
        "ended_ms": literal(0),
        "owner": _table.c.owner,
    }
    chosen = _table.c.number.in_(bindparam("numbers", expanding=True))
    each = _table.join(indices, true())
    rows = select(*values.values()).select_from(each).where(chosen).order_by(_table.c.number, indices.c.value)
    statement = insert(tables.jobs).from_select(list(values), rows)
    for some in portions(sorted(submissions)):
        tx.execute(statement, {"numbers": some})
