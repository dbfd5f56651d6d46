"""A job's states here and at DIRAC: which stands for which, and by which steps one leads to another. Pure.

A step that DIRAC's state machine does not allow is answered with success and changes the minor status alone, so none is
asked for but these, and whoever has asked reads again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from adapters.sources.contract import GridEnding
from schemas.codec import clip
from schemas.ledger import JobState
from schemas.plain_text import plain

#: What such a job is there changes no more, or is no business of ours.
FINAL = frozenset({"Done", "Failed", "Killed", "Deleted"})
#: Such a job is at a site; one of any other status is not, or not yet.
TAKEN = frozenset({"Matched", "Running", "Stalled", "Completing", "Completed"})
#: Longest minor and application status that DIRAC keeps, characters.
MOST_MINOR, MOST_APPLICATION = 128, 255


class Told(NamedTuple):
    """What DIRAC is told of a job: its status, and words beside it."""

    status: str
    minor: str
    application: str = "Unknown"


#: What a job is there while it waits or is at work here. DIRAC has no way back from Running: one that has lost its
#: machine stays so, and waits.
WHILE: Mapping[JobState, Told] = {
    JobState.SUBMITTED: Told("Matched", "Waiting for a volunteer's machine"),
    JobState.ASSIGNED: Told("Running", "Job Initialization"),
    JobState.STAGE_IN: Told("Running", "Downloading InputSandbox"),
    JobState.RUNNING: Told("Running", "Application"),
    JobState.VALIDATING: Told("Running", "Application"),
    JobState.STAGE_OUT: Told("Running", "Uploading OutputSandbox"),
}
#: What a job is there once it has ended here.
ENDED: Mapping[JobState, str] = {JobState.DONE: "Done", JobState.HELD: "Failed", JobState.CANCELLED: "Killed"}

#: The next step from a status on the way to another.
STEPS: Mapping[str, Mapping[str, str]] = {
    "Running": {"Matched": "Running"},
    "Done": {
        "Matched": "Running",
        "Running": "Completing",
        "Stalled": "Completing",
        "Completing": "Done",
        "Completed": "Done",
    },
    "Failed": dict.fromkeys(("Matched", "Running", "Stalled", "Completing", "Completed"), "Failed"),
    "Killed": dict.fromkeys(("Matched", "Running", "Stalled", "Completing"), "Killed"),
    "Waiting": {
        "Matched": "Rescheduled",
        "Running": "Rescheduled",
        "Stalled": "Rescheduled",
        "Rescheduled": "Waiting",
    },
    "Matched": {"Waiting": "Matched"},
}


def way(status: str, target: str) -> tuple[str, ...]:
    """Give the steps from a status to another; none where it is there, or where there is no way."""
    steps: list[str] = []
    while status != target and (status := STEPS[target].get(status, "")):
        steps.append(status)
    return tuple(steps) if steps and steps[-1] == target else ()


def told_of(ending: GridEnding) -> Told:
    """Say how a job has ended, in DIRAC's words and the machine's."""
    status = ENDED.get(ending.state, "Failed")
    cause = clip(plain(clip(ending.cause, MOST_APPLICATION)), MOST_APPLICATION)
    if status == "Done":
        return Told(status, "Execution Complete", "Application Finished Successfully")
    if status == "Killed":
        return Told(status, "Marked for termination", cause or "Cancelled at the site")
    if ending.exit_status > 0:
        words = f"exit status {ending.exit_status}" + (f": {cause}" if cause else "")
        return Told(status, "Application Finished With Errors", clip(words, MOST_APPLICATION))
    return Told(status, "Job cannot be run here" if ending.exit_status < 0 else "Failed", cause or "Unknown")
