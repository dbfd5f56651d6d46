"""What the server that plays PanDA does with updates of jobs: PanDA's state machine, as it was read and seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: What an update may set.
STATES = ("running", "failed", "finished", "holding", "starting", "transferring")
#: What an update may say beside the job, with its type.
FIELDS: Mapping[str, type] = {
    "job_output_report": str,
    "node": str,
    "site_name": str,
    "trans_exit_code": int,
    "pilot_error_code": int,
    "pilot_error_diag": str,
    "exe_error_code": int,
    "exe_error_diag": str,
    "start_time": str,
    "end_time": str,
    "attempt_nr": int,
    "job_sub_status": str,
    "core_count": int,
    "job_metrics": str,
    "stdout": str,
    "pilot_log": str,
    "meta_data": str,
}


@dataclass
class StandInJob:
    """A job at the server."""

    number: int
    facts: dict[str, Any]
    files: list[dict[str, Any]]
    status: str = "activated"
    command: str = "NULL"
    #: What else is in its record.
    more: dict[str, Any] = field(default_factory=dict)
    #: The final statuses that were set, each with its report and codes.
    finals: list[dict[str, Any]] = field(default_factory=list)
    #: Of the last update that was taken.
    told: dict[str, Any] = field(default_factory=dict)
    updates: int = 0

    @property
    def attempt_nr(self) -> int:
        return int(self.facts["attemptNr"])

    @property
    def is_active(self) -> bool:
        return self.status not in ("finished", "failed", "cancelled", "closed")

    def kill(self) -> None:
        """As its owner does: one that runs is ordered to end, any other has ended."""
        if self.status == "running":
            self.command = "tobekilled"
        elif self.is_active:
            self.status = "cancelled"

    def settle(self) -> None:
        """What PanDA's daemon makes of a report."""
        if self.status != "holding" or not self.finals:
            return
        is_given_back = self.finals[-1].get("job_sub_status") == "pilot_closed"
        if is_given_back and self.facts["prodSourceLabel"] not in ("user", "panda"):
            self.status = "closed"
        else:
            self.status = "cancelled" if self.command == "tobekilled" else self.finals[-1]["job_status"]

    def try_again(self) -> None:
        """Wait again if it was given back."""
        if not self.is_active and self.finals and self.finals[-1].get("job_sub_status") == "pilot_closed":
            self.finals.pop()
            self.status, self.command = "activated", "NULL"
            self.facts["attemptNr"] += 1


def told(data: Any) -> dict[str, Any]:
    return {"success": True, "message": "", "data": data}


def failed(message: str, data: Any = None) -> dict[str, Any]:
    return {"success": False, "message": message, "data": data}


def update(jobs: Mapping[int, StandInJob], wanted: dict[str, Any]) -> dict[str, Any]:
    """Answer to an update."""
    number, status = wanted.pop("job_id"), wanted.pop("job_status")
    for key, value in wanted.items():
        if key not in FIELDS:
            return failed(f"Argument error: got an unexpected keyword argument '{key}'")
        if type(value) is not FIELDS[key]:
            kinds = FIELDS[key].__name__, type(value).__name__
            return failed(f"Type error: '{key}' must be of type {kinds[0]}, got {kinds[1]}.")
    if status not in STATES:
        return failed(f"Invalid job status: {status}", {"StatusCode": 50})
    job = jobs.get(number)
    if job is None or not job.is_active or wanted.get("attempt_nr", job.attempt_nr) != job.attempt_nr:
        return told({"StatusCode": 0, "command": "tobekilled"})
    return told({"StatusCode": 0, "command": _taken(job, status, wanted)})


def _taken(job: StandInJob, status: str, wanted: dict[str, Any]) -> str:
    is_final = status in ("finished", "failed")
    if job.status == "holding" and (is_final or status == "holding"):
        return "alreadydone" if is_final else job.command
    if job.status in ("holding", "transferring") and status in ("running", "starting"):
        return job.command
    job.updates += 1
    job.told = wanted
    if is_final:
        job.finals.append({**wanted, "job_status": status})
        job.status = "holding"
    elif not (job.status == "running" and status == "starting"):
        job.status = status
    return job.command
