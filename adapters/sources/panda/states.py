"""A job's states here and at PanDA, and its error codes: tables, and what an update says. Pure.

PanDA has no way back: from ``transferring`` to ``running`` is passed over, and from ``holding`` to anything.
``finished`` and ``failed`` make a job ``holding`` until PanDA's own daemon has looked at the report of its outputs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from adapters.sources.contract import GridEnding, GridJob
from adapters.sources.panda.reports import output_report
from adapters.sources.panda.work import attempt_nr_of
from schemas.codec import clip
from schemas.ledger import JobState
from schemas.plain_text import plain

#: What such a job is there changes no more, or is no business of ours.
FINAL = frozenset({"finished", "failed", "cancelled", "closed", "merging"})
#: What one is that has ended here, until PanDA's daemon has seen to it.
ENDING = frozenset({"holding", "transferring"})
#: Longest diagnosis that PanDA keeps, characters.
MOST_DIAG = 500
#: Who says so: PanDA's ``modificationHost``.
MOST_NODE = 128

#: What a job is there while it waits or is at work here.
WHILE: Mapping[JobState, str] = {
    JobState.SUBMITTED: "starting",
    JobState.ASSIGNED: "starting",
    JobState.STAGE_IN: "starting",
    JobState.RUNNING: "running",
    JobState.VALIDATING: "running",
    JobState.STAGE_OUT: "transferring",
}


class PilotCode(NamedTuple):
    """A code that PanDA's pilots give, by which its retry rules and its monitor tell failures apart."""

    number: int
    meaning: str


#: The program ran and failed; it left too little or what it left was no good; it could not run at all.
PAYLOAD, OUTPUT, NOT_RUN = PilotCode(1305, "the program failed"), PilotCode(1220, "unknown"), PilotCode(1344, "no room")
#: It was stopped; it was given back by those that had not begun it.
KILLED, GIVEN_BACK = PilotCode(1144, "killed by PanDA"), PilotCode(1379, "given back")
#: How a job is said to have ended for which nothing was done: PanDA makes another of it that counts as no try.
CLOSED = "pilot_closed"

#: What a job is there once it has ended here.
ENDED: Mapping[JobState, str] = {JobState.DONE: "finished", JobState.HELD: "failed", JobState.CANCELLED: "failed"}

#: Commands that say that a job is not to go on. ``debug`` and all others are no business of ours.
STOPS = frozenset({"tobekilled", "softkill", "badattemptnr"})
#: PanDA has the job as ended: in the answer to a final status it was set before, in any other it failed there.
ALREADY = "alreadydone"

_MOST_COMMANDS = 20


def commands_of(text: str | None) -> frozenset[str]:
    """Read a command, which may be several with commas between."""
    said = (text or "").split(",", _MOST_COMMANDS)
    return frozenset(one.strip() for one in said) - {"", "NULL"}


def code_of(ending: GridEnding) -> PilotCode | None:
    """Give the pilot's code of how a job has ended; None where it is done."""
    if ending.state == JobState.DONE:
        return None
    if ending.state == JobState.CANCELLED:
        return KILLED
    if ending.exit_status > 0:
        return PAYLOAD
    return NOT_RUN if ending.exit_status < 0 else OUTPUT


def told_of(ending: GridEnding, log_file: str, log_guid: str) -> dict[str, Any]:
    """Say how a job has ended: the fields of an update."""
    status, code = ENDED.get(ending.state, "failed"), code_of(ending)
    report = output_report(ending, log_file, log_guid)
    told: dict[str, Any] = {**named(ending.job, status), "job_output_report": msgspec.json.encode(report).decode()}
    if ending.started_ms:
        told["start_time"] = _at(ending.started_ms)
    if ending.ended_ms:
        told["end_time"] = _at(ending.ended_ms)
    if code is None:
        return {**told, "trans_exit_code": 0}
    diag = clip(plain(clip(ending.cause, MOST_DIAG)), MOST_DIAG) or code.meaning
    told |= {"pilot_error_code": code.number, "pilot_error_diag": diag}
    if code is PAYLOAD:
        exits = {"trans_exit_code": ending.exit_status, "exe_error_code": ending.exit_status, "exe_error_diag": diag}
        return {**told, **exits}
    return told


def given_back(job: GridJob, why: str) -> dict[str, Any]:
    """Say that nobody has begun a job: the fields of an update."""
    diag = clip(plain(clip(f"Given back: {why}", MOST_DIAG)), MOST_DIAG)
    told = {"pilot_error_code": GIVEN_BACK.number, "pilot_error_diag": diag, "job_sub_status": CLOSED}
    return {**named(job, "failed"), **told, "job_output_report": ""}


def named(job: GridJob, status: str) -> dict[str, Any]:
    """Name a job and its try, and say what it is: the fields that every update has."""
    return {"job_id": int(job.id), "attempt_nr": attempt_nr_of(job), "job_status": status}


def progress(job: GridJob, status: str, started_ms: int) -> dict[str, Any]:
    """Say how far a job is: the fields of an update."""
    began = {"start_time": _at(started_ms)} if started_ms and status != "starting" else {}
    return {**named(job, status), **began}


def _at(when_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(min(max(when_ms, 0), 1 << 42) / 1000))
