"""The agent as one program, as a project deploys it: it runs where there is no Python, and leaves nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.daemon.process_stat import read_stat
from deploy.boinc.fake_project import FakeJob, FakeProject
from deploy.boinc.version import PLATFORM, image_files
from deploy.image.build import Request, build
from host_agent.boinc.fake_client import FakeClient
from host_agent.hypervisors.detached import all_processes, find_tree
from tests.contract.conftest import CACHE
from tests.source import ROOT
from tests.system.boinc_rig import AttachedRig
from volcloud.centre.guest_image import cache_directory
from volcloud.demo.material import WHEEL, provide_wheel

WORKER = b"""#!/bin/sh
echo "begun $LD_LIBRARY_PATH"
while [ -e hold ]; do sleep 0.05; done
echo done
"""
SLOW_WORKER = b"""#!/bin/sh
echo "threads $1"; cat "$2"
i=0; while [ $i -lt 25 ]; do sleep 0.2; i=$((i+1)); done
"""
JOB_WITH_INPUT = b"""<job_desc>
<task><application>worker</application><command_line>$NTHREADS boinc_resolve(numbers)</command_line>
<stdout_filename>out</stdout_filename></task>
</job_desc>"""
#: The generator of the examples, whose program comes with the job: it runs in the guest and nowhere else.
#: Enough that a guest is at it while it is suspended and its client ended, and what they give in a run of its own.
EVENTS, MEAN = 2000, 20.602
GENERATOR_JOB = f"""<job_desc><task>
<virtualmachine>guest</virtualmachine>
<application>python3</application>
<command_line>generate.py --seed 1 --events {EVENTS} --fraction fraction</command_line>
<copy_file_to_VM>generate.py</copy_file_to_VM><copy_file_to_VM>{WHEEL}</copy_file_to_VM>
<stdout_filename>out</stdout_filename><copy_file_from_VM>result.json</copy_file_from_VM>
<fraction_done_filename>fraction</fraction_done_filename>
</task></job_desc>""".encode()
#: Has what follows find no Python on this machine, and none of ours.
WITHOUT_PYTHON = (
    *("unshare", "--mount", "sh", "-c"),
    f"""for place in /usr/lib/python3* /usr/local/lib/python3* {sys.prefix}; do
        [ ! -d "$place" ] || mount -t tmpfs none "$place"
    done
    while program=$(command -v python3); do
        mount --bind /dev/null "$program" || exit 1
    done
    exec "$@" """,
    "sh",
)
#: What lies beside libc and is a part of it.
C_LIBRARY = ("libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1")
JOB = b"""<job_desc><task><application>worker</application><stdout_filename>out</stdout_filename></task></job_desc>"""


@pytest.fixture(scope="module")
def guest_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own image, built once and cached between runs."""
    return build(Request(output=tmp_path_factory.mktemp("image"), cache=CACHE))


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory, guest_manifest: Path) -> Path:
    """What the command makes for a project."""
    home = tmp_path_factory.mktemp("version")
    (home / "worker").write_bytes(WORKER)
    words = ["--version", "1.2", "--file", f"worker={home / 'worker'}", "--image", str(guest_manifest)]
    made = subprocess.run(
        [sys.executable, "-m", "deploy.boinc", str(home / "app"), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert "it runs where there is glibc" in made.stdout
    return home / "app" / "1.2" / PLATFORM


@pytest.fixture
def client(tmp_path: Path, version: Path) -> Iterator[FakeClient]:
    fake = FakeClient(tmp_path / "boinc", ["host_agent_1.2", "worker_1.2"])
    fake.add("worker", WORKER, physical="worker_1.2")
    fake.add("host_agent", (version / "host_agent_1.2").read_bytes(), physical="host_agent_1.2")
    fake.add("job.xml", JOB)
    fake.link("out", "task_1_out")
    yield fake
    slot = fake.slot
    fake.close()
    assert not find_tree(slot, None)


def test_the_directory_of_a_version_has_what_a_server_wants(version: Path) -> None:
    text = (version / "version.xml").read_text()

    told = re.findall(r"<physical_name>([^<]*)<", text)
    of_image = next(name.split(".")[0].rpartition("_")[2] for name in told if name.startswith("image_"))
    image = [f"image_{of_image}.json", f"disk_{of_image}.qcow2", f"vmlinuz_{of_image}", f"initrd_{of_image}"]
    assert told == ["host_agent_1.2", "worker_1.2", "job_1.2.xml", *image]
    assert sorted(path.name for path in version.iterdir()) == sorted(["version.xml", *told])
    assert "<virtualmachine>" in (version / "job_1.2.xml").read_text()
    assert "<api_version>7.24.0</api_version>" in text
    assert "<is_wrapper/>" in text
    assert b"\nAPI_VERSION_7.24.0\n" in (version / "host_agent_1.2").read_bytes()
    templates = version.parents[1] / "templates"
    assert sorted(path.name for path in templates.iterdir()) == ["in_template.xml", "job.xml", "out_template.xml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its root directory")
def test_it_runs_in_a_tree_without_any_python(version: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    fake = FakeClient(tree / "boinc", ["worker_1.2"], project_dir="/boinc/projects/example.org", boinc_dir="/boinc")
    fake.add("worker", WORKER, physical="worker_1.2")
    fake.add("job.xml", JOB)
    out = fake.link("out", "task_1_out")
    agent = fake.project / "host_agent_1.2"
    shutil.copy2(version / "host_agent_1.2", agent)
    for program in ("/bin/sh", "/bin/sleep", str(agent)):
        plant(tree, program)
    (tree / "proc").mkdir()
    (tree / "dev").mkdir()
    (tree / "dev" / "null").touch()
    inside = "cd /boinc/slots/0 && exec ../../projects/example.org/host_agent_1.2"
    mounts = f"mount -t proc proc {tree}/proc && mount --bind /dev/null {tree}/dev/null"
    try:
        fake.start(["unshare", "--mount", "sh", "-c", f"{mounts} && exec chroot {tree} /bin/sh -c '{inside}'"])

        assert fake.end() == 0, fake.stderr
        assert out.read_text() == "begun \ndone\n"
        assert not [path for path in tree.rglob("*python*") if "_MEI" not in str(path)]
    finally:
        fake.close()


def plant(tree: Path, program: str) -> None:
    """Put a program, and the libraries that it needs, where it finds them in another root."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"(/\S+) \(0x", listed)
    libc = next((Path(path) for path in libraries if "libc.so" in path), Path("/none"))
    parts = [str(libc.with_name(name)) for name in C_LIBRARY if libc.with_name(name).exists()]
    for path in [program, *libraries, *parts]:
        target = tree / path.lstrip("/")
        if not path.startswith(str(tree)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def test_one_that_is_killed_takes_its_programs_with_it_and_the_next_one_clears_up(client: FakeClient) -> None:
    (client.slot / "hold").touch()
    agent = str(client.project / "host_agent_1.2")
    client.start([agent])
    client.until(lambda: find_tree(client.slot, None), "the program runs")
    assert client.process is not None
    agents = {client.process.pid, *(one.pid for one in all_processes() if one.parent == client.process.pid)}
    client.process.send_signal(signal.SIGKILL)
    client.end()
    client.until(lambda: not [pid for pid in agents if is_alive(pid)], "the agent has ended")
    client.until(lambda: not find_tree(client.slot, None), "the program has ended")
    (client.slot / "hold").unlink()
    client.start([agent])

    assert client.end() == 0
    assert list(client.slot.glob("_MEI*")) == []
    assert (client.project / "task_1_out").read_text().splitlines()[-1] == "done"


def is_alive(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and not stat.is_dead


def test_its_programs_see_nothing_of_where_it_unpacked_itself(client: FakeClient) -> None:
    client.start(
        [str(client.project / "host_agent_1.2")],
        {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": "/of/boinc:.:../../projects/p"},
    )

    assert client.end() == 0
    assert (client.project / "task_1_out").read_text() == "begun /of/boinc\ndone\n"


def test_the_real_client_downloads_it_signed_and_its_result_output_and_trickles_come(
    version: Path, tmp_path: Path
) -> None:
    if shutil.which("boinc") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("missing: boinc-client")
    files = {"host_agent": (version / "host_agent_1.2").read_bytes(), "worker": SLOW_WORKER}
    inputs = {"job.xml": JOB_WITH_INPUT, "numbers": b"1\n2\n"}
    with FakeProject(files) as project:
        project.add(FakeJob("work", inputs, ["out"], command_line="--nthreads 3 --trickle 2"))
        rig = AttachedRig(tmp_path / "boinc", project, "work")
        try:
            rig.start()
            rig.until_reported(project)
            rig.until(lambda: project.trickles, "a trickle comes")
        finally:
            rig.close()

    (report,) = project.reports.values()
    assert "<exit_status>0</exit_status>" in report
    assert "host_agent worker has ended well" in report
    assert project.uploads == {"work_0_out": b"threads 3\n1\n2\n"}
    assert re.search(r"<variety>cpu_time</variety>\s*<cpu_time>[2-9]", project.trickles[0])
    assert not find_tree(rig.slot, None)


@pytest.mark.timeout(400)
async def test_the_real_client_without_any_python_has_the_generator_run_in_a_guest(
    version: Path, guest_manifest: Path, tmp_path: Path
) -> None:
    """Suspended, quit and begun again in the midst; what it has counted is what a run without any of this counts."""
    if shutil.which("boinc") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("missing: boinc-client")
    wheel = await provide_wheel(cache_directory() / "wheels")
    inputs = {"generate.py": (ROOT / "examples/pythia/generate.py").read_bytes(), WHEEL: wheel.read_bytes()}
    image = {name: path.read_bytes() for name, path in image_files(guest_manifest).items()}
    files = {"host_agent": (version / "host_agent_1.2").read_bytes(), **image, "job.xml": GENERATOR_JOB}
    with FakeProject(files) as project:
        project.add(FakeJob("work", inputs, ["out", "result.json"]))
        rig = AttachedRig(tmp_path / "boinc", project, "work", within=WITHOUT_PYTHON)
        try:
            rig.run_with_interruptions(project, 170)
        finally:
            rig.close()

    (report,) = project.reports.values()
    assert "<exit_status>0</exit_status>" in report, report
    assert report.count("is given its job") == 1
    assert "from its saved state" in report
    result = json.loads(project.uploads["work_0_result.json"])
    assert (result["events"], round(result["sum"] / result["events"], 3)) == (EVENTS, MEAN)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--version", "one"], "--version 'one': must be MAJOR.MINOR, such as 1.0"),
        (["--file", "worker"], "--file 'worker': must be NAME=PATH"),
        (["--file", "../x=/bin/sh"], "must be NAME=PATH, NAME of letters"),
        (["--file", "x=/no/such"], "/no/such is no file"),
        (["--file", "host_agent=/bin/sh"], "host_agent is the agent itself, or the job file"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_made(tmp_path: Path, words: list[str], why: str) -> None:
    command = [sys.executable, "-m", "deploy.boinc", str(tmp_path / "app"), *words]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (told.returncode, why in told.stderr) == (2, True)
    assert not (tmp_path / "app").exists()
