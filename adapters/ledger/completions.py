"""Completions: the end of an attempt, counted once, fenced by attempt and VM, answered always.

The storage adapter has put inline outputs into its store and passes entries without content; the commit of this
transaction is the one act that makes an output final.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import bindparam, update

from adapters.ledger import attempts, events, outbox, repute, requests, tables
from adapters.ledger.attempt_work import Work
from adapters.ledger.attempts import AttemptState, Held
from adapters.ledger.events import Note, readable
from adapters.ledger.outcomes import Standing, after_completion
from adapters.ledger.transaction import Tx
from broker.routes import down
from schemas.ids import JobRef
from schemas.jobs import JobCompletion, JobCompletionAnswer, Outcome
from schemas.ledger import JobState

_attempts = tables.attempts

_COMPLETE = (
    update(_attempts)
    .where(_attempts.c.job == bindparam("of_job"), _attempts.c.attempt == bindparam("of_attempt"))
    .values(
        {
            _attempts.c[name]: bindparam(f"new_{name}")
            for name in (
                *("state", "completion_id", "started_ms", "ended_ms", "exit_status"),
                *("cause", "noticed_by", "boot_id", "work"),
            )
        }
    )
)


class Ending(NamedTuple):
    """A completion that counts, and where it leaves the job."""

    held: Held
    message: JobCompletion
    outcome: Outcome
    cause: str
    job: Standing

    @property
    def is_heeded(self) -> bool:
        """It moves the job; else the ledger has taken the job back already, and where it stands says more than this."""
        return self.held.is_open or self.outcome in (Outcome.DONE, Outcome.FAILED)


def refusal(held: Held | None, vm: str) -> str:
    """Say why a completion does not count; empty when it does, or did when it came first."""
    if held is None:
        return "unknown_attempt"
    if held.vm != vm:
        return "foreign_attempt"
    if held.completion_id or held.can_finish:
        return ""
    return "cancelled" if held.is_latest and held.state == JobState.CANCELLED else "superseded"


def complete(tx: Tx, vm: str, message: JobCompletion) -> JobCompletionAnswer:
    """Take one completion; see ``complete_all``."""
    return complete_all(tx, [(vm, message)])[0]


def complete_all(tx: Tx, messages: Sequence[tuple[str, JobCompletion]]) -> list[JobCompletionAnswer]:
    """End attempts, each by the VM that the broker vouches for; the answers, in order, are in the outbox as well.

    A repeated completion changes nothing and is answered as the first was. Requests that ride along are taken
    whatever becomes of the completion; ``match`` is the caller's.
    """
    held = attempts.by_ref(tx, [(m.job, m.attempt) for _, m in messages])
    endings: dict[tuple[JobRef, int], Ending] = {}
    answers = []
    for vm, message in messages:
        key = message.job, message.attempt
        one = held.get(key)
        reason = refusal(one, vm)
        answers.append(_answer(message, reason))
        tx.counts[reason or "completions"] += 1
        if one and not reason and not one.completion_id and key not in endings:
            endings[key] = _ending(tx, one, message)
    _write(tx, list(endings.values()))
    outbox.put_all(tx, [(down(vm), a) for (vm, _), a in zip(messages, answers, strict=True)])
    requests.ask_all(tx, [(vm, m.request) for vm, m in messages if m.request])
    return answers


def _answer(message: JobCompletion, reason: str) -> JobCompletionAnswer:
    return JobCompletionAnswer(
        call=message.id, job=message.job, attempt=message.attempt, counted=not reason, reason=reason
    )


def judge(held: Held, message: JobCompletion) -> tuple[Outcome, str]:
    """Say how an attempt ended and why: as its guest says, but for what only the ledger can know.

    Nobody has cancelled it, or it would not count: a guest that stopped it all the same had another reason. Only what
    has not begun can be given back, by all that its guest has said of it until now. And what ran in another boot of its
    VM than it was given to may have run twice.
    """
    cause = readable(message.cause)
    has_begun = held.has_begun or message.steps.run_s > 0 or message.exit_status >= 0
    if message.outcome is Outcome.CANCELLED:
        outcome = Outcome.LOST if has_begun else Outcome.RETURNED
        return outcome, f"its guest stopped it, though nobody had cancelled it: {cause or 'no reason given'}"
    if message.outcome is Outcome.RETURNED and has_begun:
        return Outcome.LOST, f"its guest gave it back, though it had begun: {cause or 'no reason given'}"
    is_elsewhere = held.boot_id and message.boot_id and held.boot_id != message.boot_id
    if is_elsewhere and message.outcome in (Outcome.DONE, Outcome.FAILED):
        return Outcome.LOST, f"it ended ({message.outcome}) in another boot of {held.vm} than it was given to"
    return message.outcome, cause


def _ending(tx: Tx, held: Held, message: JobCompletion) -> Ending:
    outcome, cause = judge(held, message)
    if outcome in (Outcome.LOST, Outcome.RETURNED) and not held.is_open:
        return Ending(held, message, outcome, cause, held.standing)
    words = cause or f"{outcome} with exit status {message.exit_status}"
    job = after_completion(held.standing, outcome, held.place, limit=held.limit, cause=words, policy=tx.policy)
    return Ending(held, message, outcome, cause, job)


def _write(tx: Tx, endings: Sequence[Ending]) -> None:
    suspects = _suspects(tx, endings)
    tx.each(_COMPLETE, [_row(tx, ending) for ending in endings])
    attempts.stand(tx, [(ending.held, ending.job) for ending in endings if ending.is_heeded])
    events.note_all(tx, [note for ending in endings for note in _notes(ending)])
    repute.note_returns(tx, Counter(e.held.vm for e in endings if _is_given_back(e)))
    repute.praise(tx, {e.held.vm: e.held.host for e in endings if e.outcome is Outcome.DONE})
    repute.strike(tx, suspects)
    for ending in endings:
        _measure(tx, ending)


def _suspects(tx: Tx, endings: Sequence[Ending]) -> dict[str, str]:
    """Name the VMs, with their hosts, that lose jobs, fail what others finish, or give back what they could begin."""
    returned = {
        e.held.vm: e.held.host for e in endings if _is_given_back(e) and e.held.returns_of_vm >= repute.FREE_RETURNS
    }
    lost = {e.held.vm: e.held.host for e in endings if e.outcome is Outcome.LOST and e.held.is_open}
    failed = {
        e.held.vm: e.held.host
        for e in endings
        if e.outcome is Outcome.FAILED and repute.fails_alone(tx, e.held.submission, e.held.vm)
    }
    finished = [e.held for e in endings if e.outcome is Outcome.DONE and e.held.failures and e.held.array == 1]
    return returned | lost | failed | repute.failed_on(tx, [(held.number, held.vm) for held in finished])


def _is_given_back(ending: Ending) -> bool:
    return ending.outcome is Outcome.RETURNED and ending.held.is_open


def _row(tx: Tx, ending: Ending) -> dict[str, object]:
    held, message = ending.held, ending.message
    steps = message.steps
    return {
        "of_job": held.number,
        "of_attempt": held.attempt,
        "new_state": AttemptState(ending.outcome.value).value,
        "new_completion_id": message.id,
        "new_started_ms": _started_ms(tx, held, message),
        "new_ended_ms": tx.now_ms,
        "new_exit_status": message.exit_status,
        "new_cause": ending.cause,
        "new_noticed_by": f"{held.vm} (guest agent)",
        "new_boot_id": message.boot_id.replace("\0", "")[:64],
        "new_work": msgspec.msgpack.encode(Work(usage=message.usage, steps=steps, outputs=message.outputs)),
    }


def _started_ms(tx: Tx, held: Held, message: JobCompletion) -> int:
    """Say when its payload began: beats notice that late, its guest knows for how long it ran. 0 = it never did."""
    never_ran = message.exit_status < 0 and not message.steps.run_s and message.outcome is not Outcome.DONE
    if never_ran or message.outcome is Outcome.RETURNED:
        return 0
    steps = message.steps
    ran_ms = int((steps.run_s + steps.validate_s + steps.stage_out_s) * 1000)
    began_ms = max(held.assigned_ms, tx.now_ms - ran_ms)
    return min(held.started_ms or began_ms, began_ms)


def _notes(ending: Ending) -> list[Note]:
    held, job = ending.held, ending.job
    if job.state is JobState.HELD and ending.is_heeded:
        return [Note(held.number, held.attempt, "held", f"{held.vm} (guest agent)", job.reason)]
    if not held.is_open:
        return [Note(held.number, held.attempt, "finished late", f"{held.vm} (guest agent)", "after its lease")]
    return []


def _measure(tx: Tx, ending: Ending) -> None:
    held, message, job = ending.held, ending.message, ending.job
    if ending.outcome is not Outcome.RETURNED and ending.is_heeded:
        tx.counts["jobs_requeued" if job.state is JobState.SUBMITTED else f"jobs_{job.state}"] += 1
    tx.counts[f"attempts_{ending.outcome}"] += 1
    if ending.outcome is Outcome.DONE:
        tx.observations += [
            ("stage_in", message.steps.stage_in_s),
            ("run", message.steps.run_s),
            ("stage_out", message.steps.stage_out_s),
            *([("validate", message.steps.validate_s)] if message.steps.validate_s else []),
            ("turnaround", max(0, tx.now_ms - held.submitted_ms) / 1000),
        ]
