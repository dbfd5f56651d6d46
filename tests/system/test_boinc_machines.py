"""The real BOINC client and a task in a virtual machine: killed, throttled, taken out of memory, and nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.boinc.fake_project import FakeJob, FakeProject
from deploy.boinc.version import image_files
from host_agent.hypervisors.contract import ImageFiles
from tests.contract.boinc_guest import TASK, WORKER
from tests.contract.conftest import guest_image  # noqa: F401  a fixture
from tests.source import ROOT
from tests.system.boinc_rig import STILL_CPU_S, STILL_S, AttachedRig, BoincRig, cpu_over, machines

pytestmark = pytest.mark.qemu

#: The main program of the version: the agent from its sources; the client puts nothing of ours into the environment.
AGENT = f"""#!/bin/sh
PYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1 exec {sys.executable} -m host_agent.main "$@"
""".encode()
EVENTS = 24


def image_for_client(image: ImageFiles) -> dict[str, bytes]:
    """Give what an application's version has of an image; without a client nothing of this can be tested."""
    if shutil.which("boinc") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("missing: boinc-client")
    assert image.disk is not None
    return {name: path.read_bytes() for name, path in image_files(image.disk.parent / "manifest.json").items()}


@pytest.fixture
def rig(tmp_path: Path, guest_image: ImageFiles) -> Iterator[BoincRig]:  # noqa: F811
    job = f"<job_desc>{TASK.format(words=EVENTS, checkpoint_s=2, more='')}</job_desc>".encode()
    files = {"host_agent_1": AGENT, "worker": WORKER}
    made = BoincRig(
        tmp_path / "boinc", files, image_for_client(guest_image) | {"job.xml": job, "in": b"given\n"}, ["out", "result"]
    )
    yield made
    slot = made.slot
    left = machines(slot)
    made.close()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def agents(rig: BoincRig) -> list[int]:
    """Find the agent: the machine's process is in another directory."""
    return [pid for pid in rig.agents() if pid not in machines(rig.slot)]


@pytest.mark.timeout(400)
def test_a_machine_outlives_whoever_is_killed_and_what_the_volunteer_prefers(rig: BoincRig) -> None:
    # Told to end while its machine boots, before any checkpoint.
    rig.start()
    rig.until(lambda: machines(rig.slot), "it has a machine")
    end_and_start(rig, rig.quit)
    rig.until(lambda: rig.number("CPU time at last checkpoint") > 0 and "given its job" in rig.stderr(), "a checkpoint")
    rig.until(lambda: rig.number("fraction done") > 0.05, "progress is shown")

    # Told to end while it is suspended.
    rig.task("suspend")
    rig.until(lambda: "stands still" in rig.stderr(), "it stands still")
    assert cpu_over(machines(rig.slot), STILL_S) < STILL_CPU_S
    end_and_start(rig, rig.quit, lambda: rig.task("resume"))

    # The agent is killed: the client kills the machine, which it has been told of, and goes on.
    rig.until(lambda: any(f"<other_pid>{pid}<" in rig.log() for pid in machines(rig.slot)), "the client knows it")
    goes_back = said_again(rig, "goes back to checkpoint-")
    for pid in agents(rig):
        os.kill(pid, signal.SIGKILL)
    rig.until(goes_back, "it goes back to a checkpoint")

    # The client is killed: the agent finds out, saves the machine, and ends.
    rig.until(lambda: rig.number("fraction done") > 0.15, "it gets on")
    end_and_start(rig, rig.kill)

    # The power fails: all end at once.
    rig.until(lambda: rig.number("fraction done") > 0.2, "it gets on")
    goes_back = said_again(rig, "goes back to checkpoint-")
    rig.kill_all(machines(rig.slot))
    rig.start()
    rig.until(goes_back, "it goes back to a checkpoint")

    # Throttled, the client suspends and resumes it all the time.
    throttled = said_again(rig, "stands still", 3)
    rig.prefer(cpu_usage_limit=50)
    rig.ask("--read_global_prefs_override")
    rig.until(throttled, "it is suspended again and again")

    # Taken out of memory while it is suspended.
    rig.prefer(leave_apps_in_memory=0)
    rig.ask("--read_global_prefs_override")
    rig.task("suspend")
    rig.until(lambda: not rig.agents() and not machines(rig.slot), "it is taken out of memory")
    rig.task("resume")
    rig.until(lambda: rig.tasks().get("ready to report") == "yes", "it is done", 200)

    printed = (rig.project / "task_1_out").read_text().splitlines()
    assert printed == ["given", *(f"event {number}" for number in range(1, EVENTS + 1))]
    rig.quit()
    report = rig.report()
    assert "<exit_status>0</exit_status>" in report
    assert report.count("is given its job") == 1, "it never began anew"


def said_again(rig: BoincRig, words: str, times: int = 1) -> Callable[[], bool]:
    """Give what says whether the agent has said these words so many times more than by now."""
    before = rig.stderr().count(words)
    return lambda: rig.stderr().count(words) >= before + times


def end_and_start(rig: BoincRig, end: Callable[[], None], then: Callable[[], None] = lambda: None) -> None:
    """End the client, wait until nobody is left, and start it again: the machine goes on where it stood."""
    goes_on = said_again(rig, "goes on from its saved state")
    end()
    rig.until(lambda: not rig.agents() and not machines(rig.slot), "nobody is left")
    rig.start()
    then()
    rig.until(goes_on, "it goes on")


SPEAKER = """#!/bin/sh
echo early > out
echo a page > index.html
python3 -m http.server 8080 2>/dev/null &
echo up > told
while ! ls trickle_down_* >/dev/null 2>&1; do sleep 0.2; done
cat trickle_down_* > late
printf '0\\n\\n' > done
sleep 600
"""
SPEAKING = b"""<vbox_job><enable_shared_directory/><memory_size_mb>256</memory_size_mb>
<pf_guest_port>8080</pf_guest_port><enable_remotedesktop/>
<trickle_trigger_file>told</trickle_trigger_file><intermediate_upload_file>out</intermediate_upload_file>
<completion_trigger_file>done</completion_trigger_file></vbox_job>"""


@pytest.mark.timeout(400)
def test_a_guest_speaks_with_its_project_through_the_client(
    tmp_path: Path,
    guest_image: ImageFiles,  # noqa: F811
) -> None:
    """Trickles up and down, an upload before the end, a page, a screen, and the process that is none of ours."""
    files = {"host_agent": AGENT, **image_for_client(guest_image)}
    inputs = {"vbox_job.xml": SPEAKING, "shared/boinc_app": SPEAKER.encode()}
    with FakeProject(files) as project:
        project.add(FakeJob("work", inputs, ["out", "shared/late"]))
        rig = AttachedRig(tmp_path / "boinc", project, "work")
        try:
            rig.start()
            rig.until(lambda: "<web_graphics_url>http://localhost:" in rig.results(), "its page is known")
            rig.until(lambda: "<remote_desktop_addr>localhost:" in rig.results(), "its screen is known")
            rig.until(lambda: "work_0_out" in project.uploads, "an output comes before the end")
            rig.until(lambda: project.trickles, "a trickle comes")
            assert not project.reports
            assert len(machines(rig.slot)) == 1
            project.trickles_down["work_0"] = "<news>for the guest</news>"
            rig.until(lambda: has_asked(rig, project), "the client has asked for what the project has")
            rig.until_reported(project, patience_s=200)
        finally:
            rig.close()

    (report,) = project.reports.values()
    assert "<exit_status>0</exit_status>" in report, report
    assert "<variety>told</variety>" in project.trickles[0]
    assert project.uploads["work_0_out"] == b"early\n"
    assert b"for the guest" in project.uploads["work_0_shared_late"]


@pytest.mark.timeout(400)
def test_tasks_of_one_client_and_of_two_do_each_other_no_harm(
    tmp_path: Path,
    guest_image: ImageFiles,  # noqa: F811
) -> None:
    """Two tasks at once of one client, and one of another: one's machine is killed, and the task given up."""
    files = {"host_agent": AGENT, "worker": WORKER, **image_for_client(guest_image)}
    # Each client has a project of its own: which of two takes a job is theirs.
    with FakeProject(files) as project, FakeProject(files) as another:
        for name, events in (("long", 1000), ("short", 2)):
            project.add(counting(name, events))
        another.add(counting("third", 2))
        one = AttachedRig(tmp_path / "one", project, "long", cpus=2)
        other = AttachedRig(tmp_path / "other", another, "third")
        try:
            one.start()
            slots = [one.slot, one.home / "slots" / "1"]
            one.until(lambda: all(machines(slot) for slot in slots), "both tasks have a machine")
            doomed = next(slot for slot in slots if "long_in" in (slot / "in").read_text())
            found = [machines(slot) for slot in slots]
            other.start()
            other.until(lambda: machines(other.slot), "the other client's task has one too")
            assert len(set().union(*found, machines(other.slot))) == 3, found

            for pid in machines(doomed):
                os.kill(pid, signal.SIGKILL)
            one.until(lambda: "has ended by itself" in (doomed / "stderr.txt").read_text(), "it is brought back")
            one.task("abort")
            other.until_reported(another, 1, 300)
            one.until_reported(project, 2, 300)
            disks = [(rig.project / "disk.qcow2_1").read_bytes() for rig in (one, other)]
        finally:
            one.close()
            other.close()

    assert disks == [files["disk.qcow2"]] * 2
    for where, name in ((project, "short_0"), (another, "third_0")):
        assert "<exit_status>0</exit_status>" in where.reports[name]
        assert where.uploads[f"{name}_out"] == b"given\nevent 1\nevent 2\n"
    assert project.reports["long_0"].count("has ended by itself") == 1
    assert not any(machines(slot) for slot in (*slots, other.slot))


def counting(name: str, events: int) -> FakeJob:
    """A job for the worker."""
    job = f"<job_desc>{TASK.format(words=events, checkpoint_s=3600, more='')}</job_desc>".encode()
    return FakeJob(name, {"job.xml": job, "in": b"given\n"}, ["out", "result"])


def has_asked(rig: AttachedRig, project: FakeProject) -> bool:
    """Have the client ask its project, again while it is at something else; whether it has."""
    if project.trickles_down:
        rig.ask("--project", project.url, "update")
    return not project.trickles_down
