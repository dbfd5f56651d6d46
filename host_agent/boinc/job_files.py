"""Finds the job file of a slot, and reads it as what it is."""

from __future__ import annotations

from pathlib import Path

from host_agent.boinc.job_xml import read_job_xml
from host_agent.boinc.markup import MOST_BYTES
from host_agent.boinc.plan import RunPlan
from host_agent.boinc.slot_files import resolve
from host_agent.errors import JobFileError

#: Logical names of job files.
JOB, VBOX_JOB = "job.xml", "vbox_job.xml"
NAMES = (JOB, VBOX_JOB)


def has_job_file(slot: Path) -> bool:
    """Whether a directory has a job file, or what leads to one."""
    return any((slot / name).exists() or (slot / name).is_symlink() for name in NAMES)


def read_plan(slot: Path) -> RunPlan:
    """Read the one job file of a slot. Raises JobFileError, also where there is none, or more than one; OSError."""
    found = [name for name in NAMES if (slot / name).exists() or (slot / name).is_symlink()]
    if not found:
        raise JobFileError(0, "", f"no job file: there is neither {JOB} nor {VBOX_JOB} in {slot}")
    if len(found) > 1:
        raise JobFileError(0, "", f"two job files, {' and '.join(found)}: which is meant? remove one from the job")
    return read_plan_file(resolve(slot, found[0]), found[0])


def read_plan_file(path: Path, name: str = "") -> RunPlan:
    """Read a job file; ``name`` is what the job calls it. Raises JobFileError, OSError."""
    with path.open("rb") as file:
        body = file.read(MOST_BYTES + 1)
    if (name or path.name).startswith("vbox_job"):
        raise JobFileError(0, "", f"{name or path.name}: job files of vboxwrapper are not carried out by this version")
    return read_job_xml(body)
