"""Finds the job file of a slot, and reads it as what it is."""

from __future__ import annotations

import os
from pathlib import Path

from host_agent.boinc.job_xml import read_job_xml
from host_agent.boinc.markup import MOST_BYTES, root_of
from host_agent.boinc.plan import RunPlan
from host_agent.boinc.slot_files import JOB, VBOX_JOB
from host_agent.boinc.slot_names import SlotNames, open_plain
from host_agent.boinc.vbox_job import ROOT as VBOX_ROOT
from host_agent.boinc.vbox_job import read_vbox_job
from host_agent.errors import BadName, JobFileError


def read_plan(names: SlotNames) -> tuple[RunPlan, Path]:
    """Read the one job file of a slot; give which file it was. Raises JobFileError, also where there is none, or more
    than one."""
    found = [name for name in (JOB, VBOX_JOB) if os.path.lexists(names.slot / name)]
    if not found:
        raise JobFileError(0, "", f"no job file: there is neither {JOB} nor {VBOX_JOB} in {names.slot}")
    if len(found) > 1:
        raise JobFileError(0, "", f"two job files, {' and '.join(found)}: which is meant? remove one from the job")
    try:
        path = names.source(found[0])
        return read_plan_file(path, found[0]), path
    except BadName as error:
        raise JobFileError(0, "", str(error)) from error
    except OSError as error:
        raise JobFileError(0, "", f"{found[0]} cannot be read: {error.strerror}: {error.filename}") from error


def read_plan_file(path: Path, name: str = "") -> RunPlan:
    """Read a job file; ``name`` is what the job calls it. Raises JobFileError, BadName, OSError."""
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        body = file.read(MOST_BYTES + 1)
    is_vbox = name == VBOX_JOB or (not name and root_of(body) == VBOX_ROOT)
    return read_vbox_job(body) if is_vbox else read_job_xml(body)
