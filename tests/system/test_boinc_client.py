"""The real BOINC client starts ``host_agent`` in a slot: what its tools say of a task, and how each end is taken."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.daemon.process_stat import read_stat
from host_agent.hypervisors.detached import find_tree
from tests.source import ROOT
from tests.system.boinc_rig import BoincRig

#: The main program of the version: the agent from its sources; the client puts nothing of ours into the environment.
AGENT = f"""#!/bin/sh
PYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1 exec {sys.executable} -m host_agent.main "$@"
""".encode()
#: Computes in steps, each a line of its output, until it has done as many as it is told; goes on where it was. Told to
#: end it does so between two steps.
WORKER = b"""#!/bin/sh
trap 'ends=1' TERM
done=$(cat state 2>/dev/null || echo 0)
while [ "$done" -lt "$1" ]; do
    i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done
    done=$((done+1)); echo $done > state.new; mv state.new state
    echo "step $done"
    echo "$done $1" | awk '{print $1/$2}' > fraction
    [ -z "$ends" ] || exit 0
done
exit $2
"""
Make = Callable[..., BoincRig]


def job(steps: int, status: int = 0) -> bytes:
    return f"""<job_desc>
<task><application>worker</application><command_line>{steps} {status}</command_line>
<stdout_filename>out</stdout_filename>
<fraction_done_filename>fraction</fraction_done_filename><checkpoint_filename>state</checkpoint_filename></task>
</job_desc>""".encode()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    if shutil.which("boinc") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("missing: boinc-client")
    rigs: list[BoincRig] = []

    def made(steps: int, status: int = 0) -> BoincRig:
        files = {"host_agent_1": AGENT, "worker": WORKER}
        rig = BoincRig(tmp_path / "boinc", files, {"job.xml": job(steps, status)}, ["out"])
        rigs.append(rig)
        return rig

    yield made
    for rig in rigs:
        slot = rig.slot
        rig.close()
        left = find_tree(slot, None)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        assert not left


def programs_cpu_s(rig: BoincRig) -> float:
    stats = [read_stat(pid) for pid in find_tree(rig.slot, None)]
    return sum(stat.family_cpu_s for stat in stats if stat is not None)


def states(rig: BoincRig) -> set[str]:
    stats = [read_stat(pid) for pid in find_tree(rig.slot, None)]
    return {stat.run_state for stat in stats if stat is not None and not stat.is_dead}


def printed(rig: BoincRig) -> list[str]:
    path = rig.project / "task_1_out"
    return path.read_text().splitlines() if path.exists() else []


def test_a_task_is_shown_held_up_ended_begun_again_and_reported(make: Make) -> None:
    rig = make(150)
    rig.start()
    rig.until(lambda: rig.number("fraction done") > 0, "progress is shown")
    rig.until(lambda: rig.number("current CPU time") > 0, "CPU time is shown")
    rig.until(lambda: rig.number("CPU time at last checkpoint") > 0, "a checkpoint is shown")

    rig.task("suspend")
    rig.until(lambda: states(rig) == {"T"}, "all stand still")
    cpu_s, lines = programs_cpu_s(rig), len(printed(rig))
    rig.until(lambda: "SUSPENDED" in rig.tasks().get("active_task_state", ""), "the client says so")
    assert (programs_cpu_s(rig), len(printed(rig))) == (cpu_s, lines)
    rig.task("resume")
    rig.until(lambda: len(printed(rig)) > lines, "it goes on")

    shown = rig.number("current CPU time")
    rig.quit()
    assert rig.agents() == []
    assert find_tree(rig.slot, None) == set()
    rig.start()
    rig.until(lambda: rig.number("current CPU time") >= shown, "no time is lost")
    rig.until(lambda: rig.tasks().get("ready to report") == "yes", "it is done")

    assert printed(rig) == [f"step {number}" for number in range(1, 151)], "no step is lost, none is done twice"
    rig.quit()
    report = rig.report()
    assert "<exit_status>0</exit_status>" in report
    assert "host_agent goes on: 0 of 1 tasks are done" in report
    assert "host_agent worker has ended well" in report


def test_a_task_that_fails_is_reported_with_its_reason(make: Make) -> None:
    rig = make(3, status=4)
    rig.start()
    rig.until(lambda: rig.tasks().get("ready to report") == "yes", "it is done")

    rig.quit()
    assert "<exit_status>195</exit_status>" in rig.report()
    assert "worker (line 2 of the job file) ended with status 4" in rig.report()


def test_a_task_that_is_aborted_leaves_nobody(make: Make) -> None:
    rig = make(10**6)
    rig.start()
    rig.until(lambda: printed(rig), "it runs")
    rig.task("abort")
    rig.until(lambda: rig.agents() == [] and find_tree(rig.slot, None) == set(), "nobody is left")

    rig.until(lambda: rig.tasks().get("state") == "aborted", "the client says so")
    rig.quit()
    assert "<exit_status>203</exit_status>" in rig.report(), "by the volunteer"


def test_a_client_that_is_killed_takes_the_task_with_it_and_the_next_one_goes_on(make: Make) -> None:
    rig = make(120)
    rig.start()
    rig.until(lambda: rig.number("CPU time at last checkpoint") > 0, "a checkpoint is shown")
    rig.kill()
    rig.until(lambda: rig.agents() == [] and find_tree(rig.slot, None) == set(), "nobody is left")
    rig.start()
    rig.until(lambda: rig.tasks().get("ready to report") == "yes", "it is done")

    assert printed(rig) == [f"step {number}" for number in range(1, 121)]
