"""A job of DIRAC as the ledger is given it, with what is kept to answer for it, and whether it is still ours. Pure."""

from __future__ import annotations

import logging

import msgspec
from msgspec import Struct

from adapters.errors import JdlError
from adapters.sources.contract import Acquired, GridJob
from adapters.sources.dirac.client import DiracRow
from adapters.sources.dirac.jdl import read_jdl
from adapters.sources.dirac.states import FINAL, TAKEN
from adapters.sources.dirac.work import USUAL_STDERR, USUAL_STDOUT, JdlWork, read_work
from schemas.codec import clip
from schemas.plain_text import plain

log = logging.getLogger(__name__)

#: How a line of a job's history ends that was asked for and not done.
_NOT_DONE = "(SM)"


class Kept(Struct, frozen=True, kw_only=True):
    """What is kept with a job until its end has been told."""

    stdout: str = USUAL_STDOUT
    stderr: str = USUAL_STDERR
    #: The site that it was for before it was ours.
    site: str = "ANY"
    #: When it was rescheduled last at the time, in DIRAC's words; empty = not known.
    rescheduled: str = ""
    #: What it bears at the grid if it is as it was taken, where it is to be given back only then.
    mark: str = ""


def attempt_of(row: DiracRow) -> int:
    """Count how often a job has come to wait: its history holds that for good, as all adapters see it."""
    before, count = "", 0
    for step in row.logging_info:
        if step.source.endswith(_NOT_DONE):
            continue
        count += step.status == "Waiting" != before
        before = step.status
    return max(count, 1)


def understood(jdl: str, job: int, cpu_factor: float) -> JdlWork | JdlError:
    """Read a description; what is wrong with it is given, not raised, whatever that is: it is its owner's word."""
    try:
        return read_work(read_jdl(jdl), str(job), cpu_factor)
    except JdlError as flaw:
        return flaw
    except Exception as error:
        log.exception("a description that cannot be read", extra={"job": job})
        return JdlError(0, "", f"it cannot be read here: {type(error).__name__}")


def given(asked: JdlWork | JdlError, job: int, attempt: int, kept: Kept) -> Acquired:
    """Make of a description what the ledger is given."""
    if isinstance(asked, JdlError):
        return Acquired(job=named(job, attempt, kept), work=None, flaw=f"JDL: {asked}")
    kept = msgspec.structs.replace(kept, stdout=asked.stdout, stderr=asked.stderr)
    return Acquired(job=named(job, attempt, kept), work=asked.work)


def kept_of(job: GridJob) -> Kept:
    """Read what was kept with a job."""
    return msgspec.msgpack.decode(job.data, type=Kept) if job.data else Kept()


def why_not_ours(row: DiracRow, site: str) -> str:
    """Say why a job is not, or no more, to be done here; empty where it is."""
    if row.status in FINAL:
        minor = plain(clip(row.minor_status, 200))
        return f"it is {row.status} at the grid: {minor}"
    if row.status not in TAKEN:
        return f"it was rescheduled at the grid, and is {plain(clip(row.status, 40))}"
    return "" if row.site == site else f"it is at another site: {plain(clip(row.site, 100))}"


def named(job: int, attempt: int, kept: Kept) -> GridJob:
    """Name a job and a try of it to the ledger."""
    return GridJob(id=str(job), attempt=min(attempt, 1_000_000), data=msgspec.msgpack.encode(kept))
