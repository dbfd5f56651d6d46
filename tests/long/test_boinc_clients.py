"""Newer BOINC clients, each in a tree of the Debian that ships it, with QEMU and no Python: the frozen agent runs a
task in a virtual machine, suspended, ended and begun again in the midst."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.boinc.fake_project import FakeJob, FakeProject
from deploy.boinc.freeze import freeze
from deploy.boinc.version import image_files
from deploy.image.build import Request, build
from tests.contract.boinc_guest import TASK, WORKER
from tests.contract.conftest import CACHE
from tests.system.boinc_rig import AttachedRig

pytestmark = [pytest.mark.long, pytest.mark.qemu, pytest.mark.timeout(3600)]

EVENTS = 12
PACKAGES = "boinc-client,qemu-system-x86,qemu-utils,util-linux"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The application's version."""
    home = tmp_path_factory.mktemp("version")
    freeze(home / "host_agent")
    image = image_files(build(Request(output=home / "image", cache=CACHE)))
    job = f"<job_desc>{TASK.format(words=EVENTS, checkpoint_s=3, more='')}</job_desc>".encode()
    ours = {"host_agent": (home / "host_agent").read_bytes(), "worker": WORKER, "job.xml": job}
    return ours | {name: path.read_bytes() for name, path in image.items()}


@pytest.mark.parametrize(("suite", "version"), [("trixie", "8.0."), ("unstable", "8.2.")])
def test_the_client_of_another_debian_runs_it(
    files: dict[str, bytes],
    tmp_path: Path,
    suite: str,
    version: str,
    record_property: Callable[[str, object], None],
) -> None:
    tree, home = tmp_path / "tree", tmp_path / "boinc"
    # A mirror that stands still is as good.
    options = ["--variant=apt", f"--include={PACKAGES}", '--aptopt=Acquire::Check-Valid-Until "false"', "--quiet"]
    words = ["mmdebstrap", *options, suite, str(tree)]
    subprocess.run(words, check=True, timeout=1800)
    for program in (tree / "usr" / "bin").glob("python3*"):
        program.unlink()  # the client's package depends on it
    told = subprocess.run(["chroot", tree, "boinc", "--version"], capture_output=True, text=True, check=True).stdout
    assert told.startswith(version)
    record_property("client", told.split()[0])
    with FakeProject(files) as project:
        project.add(FakeJob("work", {"in": b"given\n"}, ["out", "result"]))
        rig = AttachedRig(home, project, "work", within=in_tree(tree, home))
        try:
            rig.run_with_interruptions(project, 400)
        finally:
            rig.close()

    (report,) = project.reports.values()
    assert "<exit_status>0</exit_status>" in report, report
    assert report.count("is given its job") == 1
    assert project.uploads["work_0_result"] == f"{EVENTS} events\n".encode()
    assert project.uploads["work_0_out"].splitlines()[1:] == [f"event {n}".encode() for n in range(1, EVENTS + 1)]


def in_tree(tree: Path, home: Path) -> list[str]:
    """Give what puts a command into a tree, where ``home`` is what it is here."""
    script = f"""mkdir -p {tree}{home} && mount --bind {home} {tree}{home} && mount -t proc proc {tree}/proc &&
        mount --bind /dev {tree}/dev && exec chroot {tree} sh -c 'cd {home} && exec "$@"' sh "$@" """
    return ["unshare", "--mount", "sh", "-c", script, "sh"]
