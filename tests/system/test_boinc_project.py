"""The real BOINC client and a project that is played: what comes with a job is not run."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from deploy.boinc.fake_project import FakeJob, FakeProject
from tests.source import ROOT
from tests.system.boinc_rig import AttachedRig

AGENT = f"""#!/bin/sh
PYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1 exec {sys.executable} -m host_agent.main "$@"
""".encode()
WORKER = b"""#!/bin/sh
echo "threads $1"; cat "$2"
i=0; while [ $i -lt 25 ]; do sleep 0.2; i=$((i+1)); done
"""
JOB = b"""<job_desc>
<task><application>worker</application><command_line>$NTHREADS boinc_resolve(numbers)</command_line>
<stdout_filename>out</stdout_filename></task>
</job_desc>"""
UNSIGNED = JOB.replace(b">worker<", b">tool<")


@pytest.fixture(autouse=True)
def has_client() -> None:
    if shutil.which("boinc") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("missing: boinc-client")


def test_a_program_that_came_with_the_job_is_not_run(tmp_path: Path) -> None:
    """The client makes it no program; but a job's own program may, or a project that does not know better."""
    with FakeProject({"host_agent": AGENT, "worker": WORKER}) as project:
        project.add(FakeJob("evil", {"job.xml": UNSIGNED, "tool": WORKER, "numbers": b""}, ["out"]))
        rig = AttachedRig(tmp_path / "boinc", project, "evil")
        try:
            rig.start()
            rig.until(lambda: rig.tasks().get("state") == "compute error", "it has failed")
            rig.ask("--project", project.url, "update")
            rig.until_reported(project)
        finally:
            rig.close()

    (report,) = project.reports.values()
    assert "<exit_status>1</exit_status>" in report
    assert "tool is not run: evil_tool is none of the files that the project has signed" in report
    assert project.uploads.get("evil_0_out", b"") == b""
