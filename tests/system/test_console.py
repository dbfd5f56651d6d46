"""``volcloud`` on a real system: broker, key manager, adapters, host agent and two VMs of the process driver."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.ledger import JobState
from tests.system.running import until
from tests.system.site_client import SiteClient
from tests.unit.trees import make_tree, seen
from volcloud import Client
from volcloud.errors import SubmissionRefused

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
UP = ("up", "--hypervisor", "process", "--vms", "2", "--beat-s", "1", "--lease-s", "6", "--detach")

Done = subprocess.CompletedProcess[str]


class System:
    """A data directory, and ``volcloud`` on it."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def volcloud(self, *arguments: str, timeout_s: float = 90) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "volcloud.main", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def ok(self, *arguments: str) -> str:
        done = self.volcloud(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "VOLCLOUD_DATA": str(self.data)}

    def pid(self, process: str) -> int:
        found = json.loads(self.volcloud("status", "--json").stdout)["processes"]
        return next(one["pid"] for one in found if one["name"] == process)

    def processes(self) -> list[str]:
        """Name every process that mentions the data directory, but for this test's own."""
        found = subprocess.run(["pgrep", "-fa", str(self.data)], capture_output=True, text=True, check=False).stdout
        return [line for line in found.splitlines() if not line.startswith(f"{os.getpid()} ")]


@pytest.fixture
def empty() -> Iterator[System]:
    """A data directory with nothing in it, and nothing left of it afterwards."""
    data = Path(tempfile.mkdtemp(prefix="vc-"))
    system = System(data)
    yield system
    if (data / "run").is_dir():
        system.ok("down")
    left = system.processes()
    shutil.rmtree(data)
    assert left == []


@pytest.fixture(scope="module")
def cloud() -> Iterator[System]:
    """A system that is up, for all tests of this module."""
    data = Path(tempfile.mkdtemp(prefix="vc-"))
    system = System(data)
    system.ok(*UP)
    yield system
    system.ok("down")
    left = system.processes()
    shutil.rmtree(data)
    assert left == []


def job_file(directory: Path, text: str) -> str:
    path = directory / "job.toml"
    path.write_text(text)
    return str(path)


def test_status_knows_every_part(cloud: System) -> None:
    seen = json.loads(cloud.ok("status", "--json"))

    names = {process["name"] for process in seen["processes"]}
    assert names == {"broker", "key_manager", "job_adapter-1", "storage_adapter-1", "host_agent", "supervisor"}
    assert {vm["status"]["name"] for vm in seen["vms"]} == {"worker-1", "worker-2"}
    assert {queue["name"] for queue in seen["queues"]} >= {"vc.submissions", "vc.dead"}


def test_the_broker_is_as_it_should_be(cloud: System) -> None:
    assert cloud.ok("broker", "check") == "the broker is as it should be\n"
    cloud.ok("broker", "declare")


def test_a_job_file_is_submitted_waited_for_and_its_outputs_come_home(cloud: System, tmp_path: Path) -> None:
    cloud.ok("job", "submit", str(EXAMPLES / "hello.toml"), "--wait")
    cloud.ok("job", "fetch", "hello-1", "-o", str(tmp_path))

    assert [(tmp_path / str(n) / "square.txt").read_text() for n in (1, 2, 3)] == [
        "1 squared is 1\n",
        "2 squared is 4\n",
        "3 squared is 9\n",
    ]
    assert cloud.ok("job", "logs", "hello-1.2").startswith("hello from job 2 on ")


def test_jobs_of_an_array_are_fetched_one_by_one_beside_each_other(cloud: System, tmp_path: Path) -> None:
    script = "head -c 300000 /dev/zero > big; echo {index} > small"
    text = f'id = "sp"\narray = 2\nexecutable = "/bin/sh"\narguments = ["-c", "{script}"]\n'
    path = job_file(tmp_path, text + 'outputs = [{ name = "big" }, { name = "small" }]\n')
    cloud.ok("job", "submit", path, "--wait")

    fetch = f"umask 027; cd {tmp_path}; for n in 1 2; do {sys.executable} -m volcloud.main job fetch sp.$n; done"
    done = subprocess.run(
        ["bash", "-ec", fetch], env=cloud.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    again = cloud.volcloud("job", "fetch", "sp", "-o", str(tmp_path / "sp"))
    (tmp_path / "sp" / "1" / "small").write_text("mine\n")
    in_the_way = cloud.volcloud("job", "fetch", "sp.1", "-o", str(tmp_path / "sp"))

    assert done.returncode == 0, done.stderr
    assert again.returncode == 0, again.stderr
    assert (in_the_way.returncode, "nothing was overwritten" in in_the_way.stderr) == (1, True)
    assert [(tmp_path / "sp" / n / "small").read_text() for n in "12"] == ["mine\n", "2\n"]
    assert {oct((tmp_path / "sp" / "1" / name).stat().st_mode & 0o777) for name in ("big", "small")} == {"0o640"}
    assert sorted(one.name for one in (tmp_path / "sp" / "1").iterdir()) == ["big", "small", "stderr", "stdout"]


def test_ids_with_dots_and_outputs_with_names_of_the_real_world_come_home(cloud: System, tmp_path: Path) -> None:
    names = ["injections_10^{6}_test.hdf5", "a.root", "b.root", "d e/x.root"]
    script = "mkdir 'd e'; for n in " + " ".join(f"'{name}'" for name in names) + '; do echo $n > \\"$n\\"; done'
    outputs = '[{ name = "*.root" }, { name = "injections_10^{6}_test.hdf5" }, { name = "d e/*" }]'
    text = f'id = "run.v1"\nexecutable = "/bin/sh"\narguments = ["-c", "{script}"]\noutputs = {outputs}\n'
    cloud.ok("job", "submit", job_file(tmp_path, text), "--wait")

    cloud.ok("job", "fetch", "run.v1", "-o", str(tmp_path / "out"))

    assert {name: (tmp_path / "out" / name).read_text() for name in names} == {name: f"{name}\n" for name in names}
    assert json.loads(cloud.ok("job", "show", "run.v1", "--json"))["job"]["job"].endswith("/run.v1.1")


def test_a_directory_that_cannot_be_made_is_a_sentence(cloud: System, tmp_path: Path) -> None:
    cloud.ok("job", "submit", job_file(tmp_path, 'id = "none"\nexecutable = "/bin/true"\n'), "--wait")

    done = cloud.volcloud("job", "fetch", "none", "-o", "/proc/foo", "--json")

    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["message"] == "/proc/foo: No such file or directory"


def test_an_input_file_reaches_the_job(cloud: System, tmp_path: Path) -> None:
    (tmp_path / "card.dat").write_bytes(os.urandom(300_000))
    text = 'id = "with-input"\nexecutable = "/usr/bin/sha256sum"\narguments = ["card.dat"]\n'
    path = job_file(tmp_path, text + 'inputs = [{ path = "card.dat" }]\n')

    cloud.ok("job", "submit", path, "--wait")

    expected = subprocess.run(["sha256sum", tmp_path / "card.dat"], capture_output=True, text=True, check=True).stdout
    assert cloud.ok("job", "logs", "with-input").split()[0] == expected.split()[0]


def test_a_failing_job_is_exit_status_1_and_why_tells(cloud: System, tmp_path: Path) -> None:
    path = job_file(tmp_path, 'id = "bad"\nexecutable = "/bin/sh"\narguments = ["-c", "echo oh >&2; exit 3"]\n')

    done = cloud.volcloud("job", "submit", path, "--wait")
    why = json.loads(cloud.ok("job", "why", "bad", "--json"))

    assert done.returncode == 1
    assert "ended with exit status 3" in why["cause"]
    assert why["attempt"] == 1
    assert why["noticed_by"]
    assert why["at_ms"] > 0
    assert why["next_step"]


def test_why_of_a_job_that_no_vm_can_take_names_the_requirement(cloud: System, tmp_path: Path) -> None:
    text = 'id = "huge"\nexecutable = "/bin/true"\nrequirements = { memory_mib = 99999999 }\n'
    cloud.ok("job", "submit", job_file(tmp_path, text))

    why = json.loads(cloud.ok("job", "why", "huge", "--json"))

    assert any("memory_mib" in requirement for requirement in why["waiting_for"])
    assert json.loads(cloud.ok("job", "cancel", "huge", "--json"))["changed"] == 1
    assert json.loads(cloud.ok("job", "list", "huge", "--json"))["jobs"][0]["state"] == "cancelled"


def test_an_interrupted_wait_says_why_nothing_moved_that_the_job_goes_on_and_how_to_come_back(
    cloud: System, tmp_path: Path
) -> None:
    text = 'id = "waits"\nexecutable = "/bin/true"\nrequirements = { memory_mib = 99999999 }\n'
    command = [sys.executable, "-m", "volcloud.main", "job", "submit", job_file(tmp_path, text), "--wait"]
    with subprocess.Popen(
        command, env=cloud.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        noted = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    cloud.ok("job", "cancel", "waits")
    again = cloud.volcloud("job", "wait", "waits")

    assert noted.startswith("Note: console-operator/waits.1 is submitted: no VM meets what it requires; memory_mib")
    assert process.returncode == 130
    assert "job console-operator/waits goes on" in said or "job waits goes on" in said
    assert "`volcloud job wait " in said
    assert (again.returncode, again.stdout) == (1, "1 cancelled\n")


def test_a_job_is_followed_as_it_goes(cloud: System, tmp_path: Path) -> None:
    cloud.ok("job", "submit", job_file(tmp_path, 'id = "goes"\nexecutable = "/bin/sleep"\narguments = ["3"]\n'))

    shown = cloud.ok("job", "show", "goes", "--follow")
    row = json.loads(cloud.ok("job", "list", "goes", "--json"))["jobs"][0]

    events = [line.split("  ")[1:3] for line in shown.splitlines()[:4]]
    assert [words[-1] if words[0].startswith("attempt") else words[0] for words in events] == [
        "submitted",
        "assigned",
        "started",
        "done",
    ]
    assert "state      done" in shown
    assert 2900 <= row["ended_ms"] - row["started_ms"] < 10_000


def test_a_name_that_nobody_gave_is_exit_status_1(cloud: System) -> None:
    for arguments in (
        ("job", "show", "nope"),
        ("job", "cancel", "nope"),
        ("vm", "stop", "nope"),
        ("dead", "show", "f"),
    ):
        done = cloud.volcloud(*arguments)
        assert (done.returncode, "nope" in done.stderr or "'f'" in done.stderr) == (1, True)


def test_a_command_in_a_vm_has_its_output_and_exit_status(cloud: System) -> None:
    done = cloud.volcloud("vm", "run", "worker-1", "--", "sh", "-c", "echo out; echo err >&2; exit 7")

    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_a_command_in_several_vms_marks_its_lines_and_ends_with_the_worst(cloud: System) -> None:
    script = 'case "$PWD" in *) echo here;; esac; exit 4'

    done = cloud.volcloud("vm", "run", "-e", "A=b", "worker-*", "--", "sh", "-c", script)

    assert done.returncode == 4
    assert sorted(done.stdout.splitlines()) == ["worker-1 | here", "worker-2 | here"]


def test_more_output_than_the_window_comes_whole(cloud: System) -> None:
    done = cloud.volcloud("vm", "run", "worker-1", "--", "seq", "300000")

    assert done.stdout == "".join(f"{n}\n" for n in range(1, 300_001))


def test_a_command_that_does_not_exist_is_125(cloud: System) -> None:
    done = cloud.volcloud("vm", "run", "worker-1", "--", "/no/such/command")

    assert done.returncode == 125
    assert "/no/such/command" in done.stderr


@pytest.mark.parametrize("shift_s", [-7200, 7200])
def test_a_console_whose_clock_is_hours_off_is_served(cloud: System, tmp_path: Path, shift_s: int) -> None:
    """Four minutes were enough for a verb to be refused; hours are for a command too, whose deadline is far away."""
    wrong = f"import time\nnow = time.time\ntime.time = lambda: now() + {shift_s}\n"
    (tmp_path / "sitecustomize.py").write_text(wrong)

    for words, said in ((["pause"], "paused"), (["resume"], "running"), (["run", "--", "echo", "served"], "served")):
        verb, *rest = words
        command = [sys.executable, "-m", "volcloud.main", "vm", verb, "worker-2", *rest]
        environment = cloud.environment | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.rstrip().endswith(said)


def test_many_commands_of_a_person_at_once_are_served(cloud: System) -> None:
    command = [sys.executable, "-m", "volcloud.main", "vm", "run", "worker-1", "--", "sh", "-c", "sleep 3; echo served"]
    crowd = [subprocess.Popen(command, env=cloud.environment, stdout=subprocess.PIPE, text=True) for _ in range(9)]

    assert [one.communicate(timeout=90)[0] for one in crowd] == ["served\n"] * 9
    assert [one.returncode for one in crowd] == [0] * 9


def test_a_reader_that_goes_away_ends_the_command(cloud: System) -> None:
    mark = "12345.6789"
    script = f'"$@" vm run worker-1 -- sh -c "yes; sleep {mark}" | head -1'

    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script, "bash", sys.executable, "-m", "volcloud.main"],
        env=cloud.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (141, "y\n", "")
    deadline = time.monotonic() + 30
    while subprocess.run(["pgrep", "-f", mark], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_ctrl_c_reaches_the_command(cloud: System) -> None:
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"
    command = [sys.executable, "-m", "volcloud.main", "vm", "run", "worker-1", "--", "sh", "-c", script]
    process = subprocess.Popen(command, env=cloud.environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    process.send_signal(signal.SIGINT)

    assert process.stdout.read() == "caught\n"
    assert process.wait(20) == 9


def test_a_file_goes_into_a_vm_and_comes_out_again(cloud: System, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(os.urandom(3_000_000))

    cloud.ok("vm", "push", "worker-2", str(tmp_path / "in"), "dir/file")
    cloud.ok("vm", "pull", "worker-2", "dir/file", str(tmp_path / "out"))

    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_tree_goes_into_a_vm_and_comes_out_again(cloud: System, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    os.mkfifo(source / "pipe")

    pushed = cloud.volcloud("vm", "push", "worker-2", str(source), "trees/first")
    again = json.loads(cloud.ok("vm", "push", "worker-2", f"{source}/", "trees/first", "--json"))
    cloud.ok("vm", "pull", "worker-2", "trees/first", str(tmp_path / "back"))
    on_a_file = cloud.volcloud("vm", "push", "worker-2", str(source), "trees/first/plain")

    (source / "pipe").unlink()
    compare = ["rsync", "-naci", "--delete", "--exclude=/sparse", f"{source}/", f"{tmp_path / 'back'}/"]
    assert (pushed.returncode, "pipe: is a FIFO; left out" in pushed.stderr) == (0, True)
    assert again["entries"] == len(seen(tmp_path / "back")) - 1
    assert (again["is_tree"], again["skipped"]) == (True, ["pipe: is a FIFO"])
    assert again["sent"] < 4000
    assert subprocess.run(compare, capture_output=True, check=True).stdout.startswith(b".d..t...... ./\n")
    assert (on_a_file.returncode, "'trees/first/plain' is no directory" in on_a_file.stderr) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "source"]


def test_an_interrupted_push_of_a_tree_says_how_to_go_on_and_goes_on(cloud: System, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(12):
        (source / f"{number:02}").write_bytes(os.urandom(8 << 20))
    command = [sys.executable, "-m", "volcloud.main", "vm", "push", "worker-2", str(source), "trees/large"]
    with subprocess.Popen(command, env=cloud.environment, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: [*cloud.data.glob("host/hypervisor/*/state/partial/*/tree/02")], "some files have come")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    moved = json.loads(cloud.ok("vm", "push", "worker-2", str(source), "trees/large", "--json"))

    assert process.returncode == 130
    assert re.search(r"interrupted after \d+ of 13 entries, \d+ bytes; what came to worker-2 is kept", said)
    assert "the same command goes on where this one got to" in said
    assert moved["sent"] < moved["size"] - 2 * (8 << 20)


def test_a_path_out_of_the_file_area_is_refused(cloud: System, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x")

    done = cloud.volcloud("vm", "push", "worker-2", str(tmp_path / "in"), "../../../evil")

    assert done.returncode == 1
    assert "../../../evil" in done.stderr


def test_a_vm_lives_from_create_to_delete(cloud: System) -> None:
    cloud.ok("vm", "create", "extra-1")
    cloud.ok("vm", "start", "extra-1")
    (vm,) = json.loads(cloud.ok("vm", "pause", "extra-*", "--json"))
    assert vm.startswith("vm-")
    assert cloud.volcloud("vm", "run", "extra-1", "--", "true").returncode == 125
    assert json.loads(cloud.ok("vm", "resume", "extra-1", "--json"))[vm]["state"] == "running"
    assert json.loads(cloud.ok("vm", "poweroff", "extra-1", "--json"))[vm]["state"] == "poweredoff"
    assert cloud.volcloud("vm", "savestate", "extra-1").returncode == 1
    cloud.ok("vm", "delete", "extra-1")

    assert json.loads(cloud.ok("vm", "list", "extra-*", "--json")) == []


def test_a_site_feeds_a_job_with_nothing_of_ours(cloud: System, tmp_path: Path) -> None:
    login = tmp_path / "cern.json"
    cloud.ok("site", "add", "cern", "-o", str(login))
    assert login.stat().st_mode & 0o777 == 0o600

    def feed(*arguments: str) -> Done:
        command = [sys.executable, str(EXAMPLES / "feed_kombu.py"), *arguments]
        with login.open() as file:
            return subprocess.run(command, stdin=file, capture_output=True, text=True, timeout=60, check=False)

    accepted, again = feed("k-1", "/bin/echo", "hi"), feed("k-1", "/bin/echo", "hi")
    other, wrong = feed("k-1", "/bin/echo", "ho"), feed("k 1", "/bin/echo")

    for done in (accepted, again):
        assert (done.returncode, done.stdout) == (0, "accepted k-1\ndone 0\nhi\n"), done.stderr
    assert other.returncode == 1
    assert "another description" in other.stderr
    assert wrong.returncode == 1
    assert "k 1" in wrong.stderr or "job.id" in wrong.stderr
    failed = feed("k-2", "/bin/sh", "-c", "echo so far; exit 7")
    assert (failed.returncode, failed.stdout) == (0, "accepted k-2\nheld 7\nso far\n"), failed.stderr
    large = feed("k-3", "/bin/sh", "-c", "yes 0123456789abcde | head -c 600000")
    assert large.stdout == "accepted k-3\ndone 0\n" + ("0123456789abcde\n" * 37500)
    cloud.ok("site", "delete", "cern")
    gone = feed("k-4", "/bin/echo")
    assert (gone.returncode, gone.stderr.count("\n")) == (3, 1), gone.stderr
    assert "the broker cannot be used with the login of site-cern: " in gone.stderr


def site(cloud: System, name: str, directory: Path) -> SiteClient:
    """Add a site, and speak for it."""
    login = directory / f"{name}.json"
    cloud.ok("site", "add", name, "-o", str(login))
    return SiteClient(json.loads(login.read_text()))


def test_a_site_hears_of_its_own_jobs_and_there_are_no_others_for_it(cloud: System, tmp_path: Path) -> None:
    with site(cloud, "lyon", tmp_path) as lyon, site(cloud, "oslo", tmp_path) as oslo:
        assert lyon.submit("mine", "/bin/echo", "hi")["accepted"]
        end, job = lyon.end_of("mine"), "site-lyon/mine.1"

        shown = lyon.answer(lyon.say("ask", op="job.show", job=job))
        refused = [
            oslo.answer(oslo.say("ask", op="job.show", job=job)),
            oslo.answer(oslo.say("ask", op="job.cancel", job="mine", owner="site-lyon")),
            oslo.answer(oslo.say("ask", op="job.delete", job=job)),
            oslo.answer(oslo.say("read", op="output.read", job=job, name="stdout")),
        ]
        listed = oslo.answer(oslo.say("ask", op="job.list", owner="site-lyon"))
        hosts = oslo.answer(oslo.say("ask", op="host.list"))

    assert (end["state"], end["exit_status"]) == ("done", 0)
    assert [(one["name"], one["size"]) for one in end["outputs"]] == [("stdout", 3), ("stderr", 0)]
    assert shown["job"]["state"] == "done"
    assert {(one["op"], one["code"]) for one in refused} == {("reply.failed", "not_found")}
    assert listed["jobs"] == []
    assert (hosts["op"], hosts["code"]) == ("reply.failed", "bad_request")


def test_a_site_has_a_share_and_a_limit_that_people_set(cloud: System, tmp_path: Path) -> None:
    with site(cloud, "bern", tmp_path) as bern:
        cloud.ok("site", "set", "bern", "--share", "3", "--most-waiting", "2")
        refused = bern.submit("three", "/bin/true", array=3)
        rows = {row["owner"]: row for row in json.loads(cloud.ok("site", "list", "--json"))}
        again = json.loads(cloud.ok("site", "set", "bern", "--most-waiting", "default", "--json"))

        assert refused["reasons"] == ["array = 3: of one owner 2 jobs may wait at once: submit several smaller ones"]
        assert (rows["site-bern"]["share"], rows["site-bern"]["most_waiting"]) == (3, 2)
        assert (again["share"], again["most_waiting"]) == (3, 2_000_000)
    wrong, nothing = cloud.volcloud("site", "set", "brn", "--share", "2"), cloud.volcloud("site", "set", "bern")
    assert (wrong.returncode, nothing.returncode) == (1, 2)
    assert "no site is called 'brn'; known: bern" in wrong.stderr
    assert "say what is to be set" in nothing.stderr
    cloud.ok("site", "delete", "bern")


def test_ten_jobs_of_a_site_are_done_beside_thousands_of_another(cloud: System, tmp_path: Path) -> None:
    """They take turns, so for each of the ten about one of the others ends, whatever its priority; and first those that
    slots have taken ahead."""
    job = ("/bin/sh", "-c", "sleep 0.5")
    with site(cloud, "mass", tmp_path) as mass, site(cloud, "small", tmp_path) as small:
        assert mass.submit("mass", *job, array=5000, priority=1000)["accepted"]
        mass.end_of("mass")
        before = done_of(cloud, "site-mass")
        assert small.submit("ten", *job, array=10)["accepted"]
        small.ends_of("ten", 10)

        assert done_of(cloud, "site-mass") - before < 40
    cloud.ok("job", "cancel", "mass")
    cloud.ok("site", "delete", "mass")
    cloud.ok("site", "delete", "small")


def done_of(cloud: System, owner: str) -> int:
    rows = {row["owner"]: row for row in json.loads(cloud.ok("site", "list", "--json"))}
    return int(rows[owner]["jobs"].get("done", 0))


def test_a_site_that_never_reads_its_queue_loses_the_oldest_of_it_and_harms_no_other(
    cloud: System, tmp_path: Path
) -> None:
    """It asks for more than its queue holds, never for more at once than is let wait, and reads nothing of it."""
    part, most = 256 << 10, 64 << 20
    with site(cloud, "deaf", tmp_path) as deaf, site(cloud, "quick", tmp_path) as quick:
        assert deaf.submit("big", "/bin/sh", "-c", f"head -c {part} /dev/zero")["accepted"]
        deaf.end_of("big")
        calls: list[str] = []
        while len(calls) < 280:
            calls += [deaf.say("read", op="output.read", job="site-deaf/big.1", name="stdout") for _ in range(40)]
            deaf.wait_for(min(len(calls), 240))

        assert quick.submit("small", "/bin/echo", "hi")["accepted"]
        assert quick.end_of("small")["state"] == "done"
        told = quick.answer(quick.say("read", op="output.read", job="site-quick/small.1", name="stdout"))
        assert told["data"] == b"hi\n"

        kept = [deaf.hear(lambda _: True)]
        while kept[-1]["call"] != calls[-1]:
            kept.append(deaf.hear(lambda _: True))
        assert sum(len(one["data"]) for one in kept) <= most
        assert calls[0] not in {one["call"] for one in kept}
    for name in ("deaf", "quick", "lyon", "oslo"):
        cloud.ok("site", "delete", name)


def test_what_cannot_be_read_lies_in_the_dead_letters_with_its_reason(cloud: System, tmp_path: Path) -> None:
    login = tmp_path / "bad.json"
    cloud.ok("site", "add", "bad", "-o", str(login))
    _publish_bytes(json.loads(login.read_text()), b"\xc1 not msgpack")
    deadline = time.monotonic() + 20
    while not (found := _dead(cloud, "site-bad")) and time.monotonic() < deadline:
        time.sleep(0.1)

    assert found[0]["key"] == "site-bad.submit"
    assert found[0]["reason"].startswith("undecodable")
    letter = found[0]["id"]
    assert "not msgpack" in cloud.ok("dead", "show", letter)
    cloud.ok("dead", "replay", letter)
    deadline = time.monotonic() + 20
    while not _dead(cloud, "site-bad") and time.monotonic() < deadline:
        time.sleep(0.1)
    cloud.ok("dead", "drop", letter)
    assert _dead(cloud, "site-bad") == []


def test_the_client_example_runs(cloud: System) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "feed_client.py")],
        env=cloud.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert [line.split()[1:] for line in done.stdout.splitlines()] == [["done", "17"], ["done", "4"], ["done", "21"]]


def test_the_client_runs_submits_and_refuses(cloud: System) -> None:
    with Client.connect(cloud.data) as client:
        taken: list[bytes] = []
        ended = client.execs.run("worker-1", ["echo", "x"], {"A": "b"}, lambda _, data: taken.append(data))
        assert (ended.exit_status, b"".join(taken)) == (0, b"x\n")

        client.jobs.submit({"id": "c-1", "executable": "/bin/true"})
        with pytest.raises(SubmissionRefused, match="another description"):
            client.jobs.submit({"id": "c-1", "executable": "/bin/false"})
        assert client.jobs.wait("c-1", timeout_s=30)[0].state == JobState.DONE
        assert client.jobs.why("c-1.1").state == JobState.DONE


@pytest.mark.parametrize("process", ["broker", "key_manager", "job_adapter-1", "storage_adapter-1", "host_agent"])
def test_a_process_that_is_killed_comes_back(cloud: System, process: str) -> None:
    killed = cloud.pid(process)
    os.kill(killed, signal.SIGKILL)
    time.sleep(0.3)

    cloud.ok("job", "submit", str(EXAMPLES / "hello.toml"), "--id", f"after-{process}", "--wait")

    assert cloud.pid(process) != killed


def test_a_second_up_in_the_same_directory_is_refused(cloud: System) -> None:
    done = cloud.volcloud(*UP)

    assert done.returncode == 1
    assert f"held up by process {cloud.pid('supervisor')}" in done.stderr


def test_after_the_supervisor_was_killed_the_next_up_and_down_clean_up(empty: System) -> None:
    empty.ok(*UP)
    empty.ok("job", "submit", str(EXAMPLES / "hello.toml"), "--wait")
    os.kill(empty.pid("supervisor"), signal.SIGKILL)
    time.sleep(0.5)
    assert empty.volcloud("status").returncode == 3

    empty.ok(*UP)
    assert json.loads(empty.ok("job", "list", "--json"))["counts"]["done"] == 3
    os.kill(empty.pid("supervisor"), signal.SIGKILL)
    empty.ok("down")

    assert empty.processes() == []


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("starting RabbitMQ", signal.SIGINT),
        ("RabbitMQ is up", signal.SIGTERM),
        ("starting job_adapter-1", signal.SIGINT),
        ("the adapters answer", signal.SIGTERM),
        ("ready", signal.SIGINT),
    ],
)
def test_a_signal_at_any_step_ends_all_of_it(empty: System, said: str, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "volcloud.main", *UP[:-1]]
    process = subprocess.Popen(command, env=empty.environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while said not in (line := process.stdout.readline()):
        assert line, "it ended before it said so"

    process.send_signal(number)
    process.stdout.read()

    assert process.wait(60) == 0
    assert empty.processes() == []


def test_a_signal_while_it_goes_down_by_itself_leaves_nothing(empty: System) -> None:
    command = [sys.executable, "-m", "volcloud.main", *UP[:-1], "--ledger", "nonsense://nowhere"]
    process = subprocess.Popen(
        command, env=empty.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    while "stopping" not in (line := process.stdout.readline()):
        assert line, "it ended before it said so"

    process.send_signal(signal.SIGINT)
    process.stdout.read()

    process.wait(60)
    assert empty.processes() == []


def test_an_interrupted_detached_start_leaves_nothing(empty: System) -> None:
    command = [sys.executable, "-m", "volcloud.main", *UP]
    process = subprocess.Popen(command, env=empty.environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "starting the key manager" not in process.stdout.readline():
        pass

    process.send_signal(signal.SIGTERM)
    process.stdout.read()

    assert process.wait(60) == 130
    assert empty.processes() == []


def test_a_process_that_will_not_come_up_is_named_with_the_end_of_its_log(empty: System) -> None:
    done = empty.volcloud(*UP, "--ledger", "nonsense://nowhere")

    assert done.returncode == 3
    assert "_adapter-1 does not come up" in done.stderr
    assert "nonsense" in done.stderr
    assert empty.processes() == []


def test_a_source_whose_catalogue_is_set_wrong_keeps_the_system_from_coming_up_with_its_adapters_sentence(
    empty: System, tmp_path: Path
) -> None:
    rucio = '{kind = "rucio", account = "a", username = "u", scope = "s", rse = "R", secret_file = "/nowhere/secret"}'
    table = f'{{kind = "spool", directory = "{tmp_path}/spool", catalogue = {rucio}}}'

    for _ in range(2):
        done = empty.volcloud(*UP, "--set", f"sources={{lyon = {table}}}")

        assert done.returncode == 3
        assert "source_adapter-lyon does not come up" in done.stderr
        assert done.stderr.count("secret_file = '/nowhere/secret': cannot be read") == 1
        assert "INFO" not in done.stderr


def _dead(cloud: System, sender: str) -> list[dict[str, str]]:
    return [one for one in json.loads(cloud.ok("dead", "list", "--json")) if one["sender"] == sender]


def _publish_bytes(site: dict[str, Any], body: bytes) -> None:
    from kombu import Connection

    with Connection("amqp://{user}:{password}@{host}:{port}/{vhost}".format(**site, **site["endpoints"][0])) as broker:
        properties = {"exchange": "vc.up", "routing_key": f"{site['user']}.submit", "user_id": site["user"]}
        broker.Producer().publish(body, content_type="checked/x-msgpack", content_encoding="binary", **properties)


def test_what_vms_use_is_a_table_and_a_line_of_json_each_round(cloud: System) -> None:
    table = cloud.ok("vm", "stats", "worker-*")
    watching = subprocess.Popen(
        [sys.executable, "-m", "volcloud.main", "vm", "stats", "--watch", "--json", "--interval", "0.2"],
        env=cloud.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    lines = [json.loads(watching.stdout.readline()) for _ in range(6)]
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=30)

    assert [row.split()[0] for row in table.splitlines()] == ["NAME", "worker-1", "worker-2"]
    assert {one["name"] for one in lines} == {"worker-1", "worker-2"}
    lives = [one["counters"]["life"] for one in lines if one["name"] == "worker-1"]
    assert len(set(lives)) == 1
    assert all(one["counters"]["cpu_seconds"] > 0 and one["counters"]["for_s"] > 0 for one in lines)
    assert (watching.returncode, said) == (0, "")


def test_the_log_of_a_vm_is_followed_into_its_next_boot(cloud: System) -> None:
    cloud.ok("vm", "create", "printer", "--memory", "128")
    cloud.ok("vm", "start", "printer")
    following = subprocess.Popen(
        [sys.executable, "-m", "volcloud.main", "vm", "log", "printer", "--follow", "--json"],
        env=cloud.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        cloud.ok("vm", "reset", "printer")
        lines = [json.loads(following.stdout.readline())]
        while lines[-1]["boot"] in ("", first["boot"]):
            lines.append(json.loads(following.stdout.readline()))
    finally:
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=30)
    text = cloud.ok("vm", "log", "printer", "-n", "1")
    cloud.ok("vm", "poweroff", "printer")
    cloud.ok("vm", "delete", "printer")

    assert lines[-1]["text"]
    # The first line of a boot may be printed before the host knows by which name to call it.
    assert any(line["is_new_boot"] for line in lines)
    assert following.returncode == 0
    assert text.count("\n") == 1


def test_a_screen_that_there_is_not_is_refused_with_the_driver(cloud: System, tmp_path: Path) -> None:
    picture = tmp_path / "none.png"

    done = cloud.volcloud("vm", "screenshot", "worker-1", str(picture))

    assert done.returncode == 1
    assert "the process driver have no screen" in done.stderr
    assert not picture.exists()
