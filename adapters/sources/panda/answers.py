"""PanDA's answers: what they mean, whatever their status says. Pure.

Nearly all are HTTP 200: ``success`` tells whether the question was understood, and below it ``StatusCode`` whether it
was done. A token that has expired is a 403, with words of its own.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from adapters.errors import SourceDenied, SourceError, SourceRefused, SourceUnavailable
from adapters.sources.http import HttpAnswer, shown
from adapters.sources.panda.record import PandaId, PandaJob, read_job, read_query
from schemas.codec import UNREADABLE

#: What a server says that has no job for us.
NO_JOBS = "No jobs in PanDA"
#: ``StatusCode`` of what was done, and of an old server that has no job.
_DONE, _NO_JOBS = 0, 20
#: ``StatusCode`` of what the same question will not change: an invalid status; and of roles, rights, keys.
_FOR_GOOD_CODES, _OF_US_CODES = frozenset({50}), frozenset({60, 70, 80})
#: How messages begin, or what is in them, that the same question will not change; and that refuse us.
_FOR_GOOD = ("Argument error", "Type error", "Invalid job status", "expecting ", "Exceeded size limit")
_OF_US = ("SSL secure connection", "pilot role")
#: How the page of a refused token begins, which is a 403 as any other.
_REFUSED_TOKEN = b"ERROR : Token authentication failed"
#: Longest command, characters, and the most jobs of one answer: no more are ever asked for.
_MOST_COMMAND, _MOST_JOBS = 10_000, 1000

_Text = Annotated[str, Meta(max_length=100_000)]


class PandaStatus(Struct, frozen=True):
    """How a job is at PanDA."""

    job: PandaId = field(name="job_id")
    status: Annotated[str, Meta(max_length=100)]
    attempt_nr: int = field(name="attempt_number", default=0)


class UpdateData(Struct, frozen=True):
    """What was done with an update. Of what else is in it nothing is decoded."""

    code: int = field(name="StatusCode", default=0)
    command: Annotated[str, Meta(max_length=_MOST_COMMAND)] | None = None


class UpdateAnswer(Struct, frozen=True):
    """The answer to the update of one job."""

    success: bool
    message: _Text = ""
    data: UpdateData | None = None

    def error(self) -> SourceError | None:
        """Give what is to be raised for it; None where it was done."""
        code = _DONE if self.data is None else self.data.code
        if self.success and code == _DONE:
            return None
        return failure(self.message, code)


class _Answer(Struct, frozen=True):
    success: bool
    message: _Text = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Jobs(Struct, frozen=True):
    code: int = field(name="StatusCode", default=0)
    jobs: Annotated[list[msgspec.Raw], Meta(max_length=_MOST_JOBS)] = []


def failure(message: str, code: int = _DONE) -> SourceError:
    """Give what is to be raised for what PanDA says."""
    words = f"PanDA: {shown(message) or 'no reason is said'}" + (f" (StatusCode {code})" if code else "")
    if code in _OF_US_CODES or any(part in message[:1000] for part in _OF_US):
        return SourceDenied(words)
    is_final = code in _FOR_GOOD_CODES or any(part in message[:1000] for part in _FOR_GOOD)
    return SourceRefused(words) if is_final else SourceUnavailable(words)


def is_refused_token(answer: HttpAnswer) -> bool:
    """Say whether an answer refuses the token, and not what was asked."""
    return answer.status == 401 or (answer.status == 403 and answer.body.startswith(_REFUSED_TOKEN))


def data_of(answer: HttpAnswer) -> bytes:
    """Give the data of an answer of success. Raises SourceError for any other."""
    said = answer.decoded(_Answer)
    if not said.success:
        raise failure(said.message)
    return bytes(said.data)


def jobs_of(answer: HttpAnswer) -> tuple[list[PandaJob], int]:
    """Give the jobs of an answer, and how many cannot be named; none where PanDA has none. Raises SourceError."""
    if answer.body.startswith(b"StatusCode="):
        return _jobs_of_query(answer.body)
    said = answer.decoded(_Answer)
    if not said.success:
        if said.message == NO_JOBS:
            return [], 0
        raise failure(said.message)
    try:
        data = msgspec.json.decode(said.data, type=_Jobs)
    except UNREADABLE as error:
        raise SourceUnavailable(f"PanDA: an answer with no list of jobs: {shown(str(error))}") from None
    if data.code == _NO_JOBS:
        return [], 0
    if data.code != _DONE:
        raise failure(said.message, data.code)
    return _each(read_job(bytes(raw)) for raw in data.jobs)


def updates_of(answer: HttpAnswer, count: int) -> list[UpdateAnswer]:
    """Give the answers to so many updates, in their order. Raises SourceError."""
    try:
        found = msgspec.json.decode(data_of(answer), type=list[UpdateAnswer])
    except UNREADABLE as error:
        raise SourceUnavailable(f"PanDA: an answer to updates that makes no sense: {shown(str(error))}") from None
    if len(found) != count:
        raise SourceUnavailable(f"PanDA: {len(found)} answers to {count} updates")
    return found


def statuses_of(answer: HttpAnswer) -> dict[int, PandaStatus]:
    """Give how jobs are, by number; those that are not known are left out. Raises SourceError."""
    try:
        found = msgspec.json.decode(data_of(answer), type=list[PandaStatus])
    except UNREADABLE as error:
        raise SourceUnavailable(f"PanDA: statuses that make no sense: {shown(str(error))}") from None
    return {one.job: one for one in found if one.status != "not found"}


def _jobs_of_query(body: bytes) -> tuple[list[PandaJob], int]:
    text = body.decode("utf-8", "replace")
    code = text.partition("&")[0].partition("=")[2]
    if code == str(_NO_JOBS):
        return [], 0
    if code != str(_DONE):
        raise failure(text, int(code) if code.isascii() and code.isdigit() and len(code) < 9 else 30)
    return _each([read_query(text)])


def _each(found: object) -> tuple[list[PandaJob], int]:
    jobs: dict[tuple[int, int], PandaJob] = {}
    unnamed = 0
    for job in found:  # type: ignore[attr-defined]
        if job is None:
            unnamed += 1
        else:
            jobs.setdefault((job.id, job.attempt_nr), job)
    return list(jobs.values()), unnamed
