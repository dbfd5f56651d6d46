"""``host_agent`` in a slot, as a process of its own, with a client that is played: job files of BOINC's wrapper."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.daemon.process_stat import read_stat
from broker.vm_mark import MARK
from host_agent.boinc.fake_client import FakeClient
from host_agent.boinc.slot_files import FINISHED, TEMPORARY_EXIT
from host_agent.hypervisors.detached import all_processes, find_tree
from tests.source import ROOT

AGENT = [sys.executable, "-m", "host_agent.main"]
Make = Callable[..., FakeClient]

#: Says what it got, does as it is told, and then what its arguments say.
WORKER = b"""#!/bin/sh
echo "$0" "$@"
for word in "$@"; do
    case $word in
    env) env ;;
    pwd) pwd ;;
    stdin) cat ;;
    busy) i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done ;;
    wait) while [ ! -e gate ]; do sleep 0.05; done ;;
    for-ever) while true; do sleep 0.05; done ;;
    away) setsid sleep 600 & ;;
    deaf) trap '' TERM ;;
    half) echo 0.1 0.5 > fraction ;;
    checkpoint) echo x > state ;;
    fail) exit 3 ;;
    die) kill -SEGV $$ ;;
    new-*) echo new > "$word" ;;
    esac
done
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    clients: list[FakeClient] = []

    def made(job: str, *signed: str, **init_data: Any) -> FakeClient:
        client = FakeClient(tmp_path / "client", ["worker", "helper", "signed.zip", *signed], **init_data)
        clients.append(client)
        for program in ("worker", "helper"):
            client.add(program, WORKER)
        client.add("job.xml", job.encode())
        return client

    yield made
    for client in clients:
        slot = client.slot
        client.close()
        left = find_tree(slot, None)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"somebody lives on: {client.stderr}"


def start(client: FakeClient, *words: str) -> None:
    client.start([*AGENT, *words], {**os.environ, "PYTHONPATH": str(ROOT)})


def run(client: FakeClient, *words: str) -> int:
    start(client, *words)
    return client.end()


def job(*tasks: str, more: str = "") -> str:
    return f"<job_desc>{''.join(f'<task>{task}</task>' for task in tasks)}{more}</job_desc>"


def task(words: str, more: str = "", application: str = "worker") -> str:
    out = "<stdout_filename>out</stdout_filename>"
    return f"<application>{application}</application><command_line>{words}</command_line>{out}{more}"


def lines(client: FakeClient) -> list[str]:
    """What tasks have printed, without the paths of programs."""
    path = client.project / "task_1_out"
    text = path.read_text() if path.exists() else ""
    return [re.sub(r"^\S*/(worker|helper|tool)\b", r"\1", line) for line in text.splitlines()]


def finish_of(client: FakeClient) -> list[str]:
    return (client.slot / FINISHED).read_text().splitlines()


def of_process(pid: int, name: str) -> bytes:
    """Read a file of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def running(client: FakeClient) -> set[int]:
    return find_tree(client.slot, None)


def test_tasks_run_one_after_another_and_their_files_are_where_the_client_wants_them(make: Make) -> None:
    client = make(
        job(
            task("one $NTHREADS boinc_resolve(in) 'a b'", "<weight>3</weight>"),
            task("two stdin pwd", "<stdin_filename>in</stdin_filename><stderr_filename>err</stderr_filename>"),
            task("env", "<setenv>A=$NTHREADS</setenv><setenv>B=boinc_resolve(in)</setenv>"),
        ),
        "job.xml",
        ncpus=3,
    )
    source = client.add("in", b"from stdin\n")
    client.link("out", "task_1_out")
    client.link("err", "task_1_err")

    status = run(client)

    printed = lines(client)
    assert (status, finish_of(client)) == (0, ["0"])
    assert printed[0].startswith("worker one 3 ")
    assert printed[0].endswith(f"{source.name} a b")
    assert printed[1:4] == ["worker two stdin pwd", "from stdin", str(client.slot)]
    names = {line.partition("=")[0] for line in printed[5:]}
    assert "A=3" in printed
    assert names <= {"A", "B", MARK, "PWD", "OLDPWD", "SHLVL", "_"}, "its environment is what the job file says"
    assert (client.project / "task_1_err").read_bytes() == b""
    assert (client.slot / "out").read_text().startswith("<soft_link>"), "the link itself is not written to"
    assert (client.last("fraction_done"), client.last("checkpoint_cpu_time") > 0) == (1.0, True)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("fail", "worker (line 1 of the job file) ended with status 3"),
        ("die", "worker (line 1 of the job file) was killed by SIGSEGV"),
    ],
)
def test_a_task_that_fails_ends_all_with_its_reason(make: Make, words: str, why: str) -> None:
    client = make(job(task("for-ever", "<daemon/>", "helper"), task(words), task("never")))
    client.link("out", "task_1_out")

    assert run(client) == 195
    assert finish_of(client) == ["195", why, ""]
    assert why in client.stderr
    assert not [line for line in lines(client) if "never" in line]


def test_a_daemon_runs_beside_the_tasks_and_is_ended_after_them(make: Make) -> None:
    client = make(job(task("for-ever", "<daemon/><weight>9</weight>", "helper"), task("wait"), task("two")))
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: len(lines(client)) == 2, "both have begun")
    (client.slot / "gate").touch()

    assert client.end() == 0
    assert sorted(lines(client)) == ["helper for-ever", "worker two", "worker wait"]


def test_what_a_restart_finds_done_is_not_done_again_and_no_time_is_counted_twice(make: Make) -> None:
    client = make(job(task("one busy"), task("two busy"), task("three wait"), task("four")), wu_cpu_time=100)
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: "worker three wait" in lines(client), "the third task runs")
    client.until(lambda: client.last("fraction_done") == 0.5, "half is said to be done")
    before = client.last("current_cpu_time")
    client.want("quit")
    assert client.end() == 0
    assert not (client.slot / FINISHED).exists()
    done, cpu, runtime = (client.slot / "wrapper_checkpoint.txt").read_text().split()

    client.said.clear()
    (client.slot / "gate").touch()
    assert run(client) == 0
    after = client.last("current_cpu_time")

    assert (done, float(cpu) > 100, float(runtime) > 0) == ("2", True, True)
    assert lines(client) == [
        "worker one busy",
        "worker two busy",
        "worker three wait",
        "worker three wait",
        "worker four",
    ]
    assert 100 < before <= after < 2 * before


def test_an_agent_that_is_killed_leaves_programs_that_the_next_one_ends(make: Make) -> None:
    client = make(job(task("away wait")))
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: len(running(client)) >= 2, "it runs, and what it has sent away too")
    before = running(client)
    assert client.process is not None
    client.process.kill()
    client.end()

    (client.slot / "gate").touch()
    assert run(client) == 0
    assert not {pid for pid in before if (stat := read_stat(pid)) is not None and not stat.is_dead}


def test_a_suspended_task_stands_still_with_all_that_it_has_started(make: Make) -> None:
    client = make(job(task("away for-ever")))
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: len(running(client)) >= 2, "it runs")

    client.want("suspend")
    client.until(lambda: states(client) == {"T"}, "all stand still")
    client.want("resume")
    client.until(lambda: "T" not in states(client), "all go on")
    client.want("suspend")
    client.until(lambda: states(client) == {"T"}, "all stand still again")
    client.want("abort")

    assert client.end() == 194
    assert running(client) == set()
    assert not (client.slot / FINISHED).exists()


def states(client: FakeClient) -> set[str]:
    stats = [read_stat(pid) for pid in running(client)]
    return {stat.run_state for stat in stats if stat is not None}


def test_a_client_that_is_gone_takes_the_task_with_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
    client = make(job(task("for-ever")), client_pid=sleeper)
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: lines(client), "it runs")
    os.kill(sleeper, signal.SIGKILL)
    os.waitpid(sleeper, 0)

    assert client.end() == 0
    assert "the BOINC client is gone" in client.stderr
    assert not (client.slot / FINISHED).exists()


def test_a_program_that_does_not_end_when_it_is_told_to_is_killed(make: Make) -> None:
    client = make(job(task("deaf away for-ever")))
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: len(running(client)) >= 2, "it runs")
    client.want("quit")

    assert client.end() == 0
    assert running(client) == set()


def test_the_time_limit_of_a_task_is_its_success(make: Make) -> None:
    client = make(job(task("for-ever", "<time_limit>1</time_limit>"), task("two")))
    client.link("out", "task_1_out")

    assert run(client) == 0
    assert lines(client) == ["worker for-ever", "worker two"]


def test_progress_and_checkpoints_are_the_tasks_own(make: Make) -> None:
    more = "<fraction_done_filename>fraction</fraction_done_filename><checkpoint_filename>state</checkpoint_filename>"
    client = make(job(task("half checkpoint wait", more + "<weight>3</weight>"), task("two")), fraction_done_end=0.5)
    (client.slot / "fraction").write_text("0.9")
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: client.last("fraction_done") == pytest.approx(0.5 * 0.5 * 3 / 4), "its half is a part of all")
    client.until(lambda: client.last("checkpoint_cpu_time") > 0, "its checkpoint is one")
    (client.slot / "gate").touch()

    assert client.end() == 0
    assert client.last("fraction_done") == 0.5


def zipped(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, data)
    return content.getvalue()


def test_archives_are_unpacked_once_and_packed_of_what_is_new(make: Make) -> None:
    more = (
        "<zip_output><zipfilename>result.zip</zipfilename><filename>^new-</filename></zip_output>"
        "<unzip_input><zipfilename>signed.zip</zipfilename><zipfilename>data.zip</zipfilename></unzip_input>"
    )
    client = make(job(task("new-a new-b wait", application="tool"), more=more))
    client.add("signed.zip", zipped(tool=WORKER))
    client.add("data.zip", zipped(**{"new-old": b"old", "in/deep": b"x"}))
    client.link("out", "task_1_out")
    result = client.link("result.zip", "task_1_result")
    start(client)
    client.until(lambda: (client.slot / "new-b").exists(), "the tool from the signed archive runs")
    (client.slot / "in" / "deep").write_bytes(b"changed")
    client.want("quit")
    client.end()
    (client.slot / "gate").touch()

    assert run(client) == 0
    assert (client.slot / "in" / "deep").read_bytes() == b"changed", "unpacked once"
    with zipfile.ZipFile(result) as archive:
        assert sorted(archive.namelist()) == ["new-a", "new-b"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil", "leads out of the slot directory"),
        ("/tmp/evil", "leads out"),
        ("boinc_finish_called", "a name of BOINC's"),
    ],
)
def test_an_archive_that_reaches_out_of_the_slot_is_refused(make: Make, name: str, why: str) -> None:
    client = make(job(task("x"), more="<unzip_input><zipfilename>data.zip</zipfilename></unzip_input>"))
    client.add("data.zip", zipped(good=b"1", **{name: b"evil"}))

    assert run(client) == 206
    assert why in finish_of(client)[1]
    assert not (client.slot / "good").exists(), "nothing of it is unpacked"


@pytest.mark.parametrize("kind", ["unsigned", "copied", "symlinked", "from the job's archive", "elsewhere"])
def test_a_program_that_the_project_has_not_signed_is_never_run(make: Make, tmp_path: Path, kind: str) -> None:
    unzip = "<unzip_input><zipfilename>data.zip</zipfilename></unzip_input>" if "archive" in kind else ""
    client = make(job(task("x", application="tool"), more=unzip))
    client.link("out", "task_1_out")
    tool = client.slot / "tool"
    if kind == "unsigned":
        client.add("tool", WORKER)
    elif kind == "copied":
        tool.write_bytes(WORKER)
    elif kind == "symlinked":
        tool.symlink_to("/bin/echo")
    elif kind == "elsewhere":
        (tmp_path / "worker").write_bytes(WORKER)
        tool.write_text(f"<soft_link>{tmp_path}/worker</soft_link>")
    else:
        client.add("data.zip", zipped(tool=WORKER))

    assert run(client) == 1
    assert re.search(r"<application>: tool (is not run: .*signed|tool: leads to .* not in)", finish_of(client)[1])
    assert lines(client) == []


def test_a_real_link_to_a_signed_file_is_one_too(make: Make) -> None:
    client = make(job(task("x", application="tool"), task("y", application="$PROJECT_DIR/helper")))
    (client.slot / "tool").symlink_to(f"../../projects/{client.project.name}/worker")
    client.link("out", "task_1_out")

    assert run(client) == 0
    assert lines(client) == ["worker x" if line.startswith("worker") else line for line in lines(client)]
    assert len(lines(client)) == 2


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (("--nthreads", "5", "--passthrough_child", "--mine", "1"), "5 --mine 1"),
        (("--nthreads", "5", "--mine"), "5 --nthreads 5 --mine"),
    ],
)
def test_arguments_reach_a_task_by_both_rules(make: Make, words: tuple[str, ...], passed: str) -> None:
    client = make(job(task("$NTHREADS", "<append_cmdline_args/>")))
    client.link("out", "task_1_out")

    assert run(client, *words) == 0
    assert lines(client) == [f"worker {passed}"]


def test_trickles_come_one_after_another(make: Make) -> None:
    client = make(job(task("for-ever", "<time_limit>5</time_limit>")))
    client.link("out", "task_1_out")

    assert run(client, "--trickle", "0.5") == 0

    times = [
        re.fullmatch(r"<variety>cpu_time</variety>\n<cpu_time>([\d.]+)</cpu_time>\n", one) for one in client.trickles
    ]
    assert len(times) >= 2
    assert all(times)
    found = [float(one[1]) for one in times if one]
    assert found == sorted(found)


def test_a_slot_that_is_taken_is_waited_for(make: Make) -> None:
    client = make(job(task("wait")))
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: lines(client), "the first runs")
    first = client.process
    start(client)
    (client.slot / "gate").touch()

    assert first is not None
    assert client.end() == 0
    assert first.wait(60) == 0
    assert lines(client) == ["worker wait"], "the second finds that all is done"
    assert "goes on: 1 of 1 tasks are done" in client.stderr


@pytest.mark.parametrize(
    ("change", "status", "why"),
    [
        (lambda client: (client.slot / "job.xml").unlink(), 1, "no job file"),
        (lambda client: client.add("vbox_job.xml", b"<vbox_job/>"), 1, "two job files"),
        (lambda client: client.add("job.xml", b"not xml"), 1, "line 1: there is no <job_desc>"),
        (lambda client: client.add("job.xml", b"<job_desc><task><weight>x"), 1, "<weight>: is not ended"),
        (lambda client: (client.slot / "boinc_mmap_file").unlink(), 206, "needs <api_version> in its version.xml"),
        (lambda client: (client.slot / "worker").unlink(), 1, "worker is not there"),
        (lambda client: (client.project / "worker").chmod(0o644), 1, "worker: Permission denied"),
        (lambda client: (client.project / "job.xml").unlink(), 1, "job.xml cannot be read: No such file"),
        (lambda client: client.link("job.xml", "a/b"), 1, "job.xml: leads to"),
        (lambda client: client.link("out", "nowhere/out"), 1, "<stdout_filename>: out: leads to"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_code_and_a_sentence(
    make: Make, change: Callable[[FakeClient], object], status: int, why: str
) -> None:
    client = make(job(task("x")))
    client.link("out", "task_1_out")
    change(client)

    assert run(client) == status
    assert finish_of(client)[0] == str(status)
    assert why in finish_of(client)[1]
    assert why in client.stderr[: 63 << 10]


def test_a_word_that_nobody_knows_is_refused(make: Make) -> None:
    client = make(job(task("x")))

    assert run(client, "--what") == 206
    assert "'--what' is not understood; host_agent under BOINC takes --nthreads N" in finish_of(client)[1]


def test_without_a_client_a_person_may_run_a_job_file(tmp_path: Path) -> None:
    client = FakeClient(tmp_path / "client")
    for name in ("init_data.xml", "boinc_mmap_file"):
        (client.slot / name).unlink()
    (client.slot / "worker").write_bytes(WORKER)
    (client.slot / "worker").chmod(0o755)
    (client.slot / "job.xml").write_text(job(task("hello")))
    try:
        assert run(client, "run-job") == 0
        assert (client.slot / "out").read_text().endswith("hello\n")
    finally:
        client.close()


def test_an_agent_is_put_off_while_its_disk_takes_nothing(make: Make) -> None:
    client = make(job(task("x"), more="<zip_output><zipfilename>z</zipfilename><filename>out</filename></zip_output>"))
    client.link("out", "task_1_out")
    client.link("z", "task_1_z")
    (client.project / ".task_1_z.zip").mkdir()  # in the way of what is written beside it

    assert run(client) == 0
    assert (client.slot / TEMPORARY_EXIT).read_text().startswith("300\n")
    assert not (client.slot / FINISHED).exists()


EVIL = b"#!/bin/sh\ntouch evil-ran\n"


def claims_to_be_signed(client: FakeClient) -> None:
    """An archive that lays a link to a signed file over itself."""
    link = f"<soft_link>../../projects/{client.project.name}/worker</soft_link>".encode()
    client.add("data.zip", zipped(**{"tool": EVIL, "data.zip": link}))


def claims_to_have_been_unpacked(client: FakeClient) -> None:
    (client.slot / "tool").write_bytes(EVIL)
    (client.slot / "tool").chmod(0o755)
    (client.slot / "host_agent_unzipped.json").write_text('{"archives": {"worker": ["tool"]}}')
    client.add("data.zip", zipped(other=b"x"))


def makes_the_slot_the_project(client: FakeClient) -> None:
    (client.slot / "tool").write_bytes(EVIL)
    (client.slot / "tool").chmod(0o755)
    client.signed.append("tool")
    client.init_data["project_dir"] = client.slot
    client.write_init_data()
    client.add("data.zip", zipped(other=b"x"))


def puts_it_behind_a_name(client: FakeClient) -> None:
    client.add("tool", EVIL)
    client.init_data["wu_name"] = "placeholder"
    client.write_init_data()
    text = (client.slot / "init_data.xml").read_text().replace("placeholder", "a<app_file>tool</app_file>")
    (client.slot / "init_data.xml").write_text(text)
    client.add("data.zip", zipped(other=b"x"))


def replaces_the_job_file(client: FakeClient) -> None:
    """A note of what was begun to be unpacked, and an archive that lays down what it names."""
    (client.slot / "host_agent_unzipping.json").write_text('{"names": ["job.xml", "./job.xml", "worker"]}')
    link = f"<soft_link>../../projects/{client.project.name}/worker</soft_link>".encode()
    client.add("data.zip", zipped(**{"./job.xml": link}))


@pytest.mark.parametrize(
    "attack",
    [
        replaces_the_job_file,
        claims_to_be_signed,
        claims_to_have_been_unpacked,
        makes_the_slot_the_project,
        puts_it_behind_a_name,
    ],
)
def test_what_a_job_lays_into_the_slot_makes_nothing_signed(make: Make, attack: Callable[[FakeClient], None]) -> None:
    unzip = "<unzip_input><zipfilename>data.zip</zipfilename></unzip_input>"
    client = make(job(task("x", application="tool"), more=unzip))
    client.link("out", "task_1_out")
    attack(client)

    assert run(client) in (1, 206)
    assert not (client.slot / "evil-ran").exists()


def test_a_program_from_a_signed_archive_that_was_written_to_is_not_run(make: Make) -> None:
    more = "<unzip_input><zipfilename>signed.zip</zipfilename></unzip_input>"
    over = task("touch evil", "", "worker").replace("<stdout_filename>out<", "<stdout_filename>tool<")
    client = make(job(over, task("x", application="tool"), more=more))
    client.add("signed.zip", zipped(tool=WORKER))
    client.link("out", "task_1_out")

    assert run(client) == 1
    assert "tool: came out of an archive that the project has signed: nothing is written there" in finish_of(client)[1]


@pytest.mark.parametrize("tag", ["stdout_filename", "stderr_filename"])
def test_nothing_is_written_into_what_the_project_has_signed(make: Make, tag: str) -> None:
    client = make(job(f"<application>worker</application><{tag}>helper</{tag}>"))

    assert run(client) == 1
    assert "which the project has signed: nothing is written there" in finish_of(client)[1]
    assert (client.project / "helper").read_bytes() == WORKER


def test_a_link_that_a_job_brings_reaches_no_file_of_the_volunteers(make: Make, tmp_path: Path) -> None:
    own = tmp_path / "profile"
    own.write_text("mine")
    links = zipped(a=f"<soft_link>{own}</soft_link>".encode(), b=f"<soft_link>{own}</soft_link>".encode())
    unzip = "<unzip_input><zipfilename>data.zip</zipfilename></unzip_input>"
    more = "<fraction_done_filename>b</fraction_done_filename>"
    client = make(job(f"<application>worker</application><stdout_filename>a</stdout_filename>{more}", more=unzip))
    client.add("data.zip", links)

    assert run(client) == 1
    assert own.read_text() == "mine"


def test_a_job_that_is_not_signed_sets_no_environment(make: Make) -> None:
    client = make(job(task("env", "<setenv>LD_PRELOAD=boinc_resolve(in)</setenv>")))
    client.add("in", b"")

    assert run(client) == 1
    assert "<setenv>: only a signed job file sets an environment" in finish_of(client)[1]


def test_libraries_come_from_no_directory_that_a_job_fills(make: Make) -> None:
    client = make(job(task("env")))
    client.link("out", "task_1_out")
    places = {"LD_LIBRARY_PATH": "../../projects/p:.:../..::/usr/lib"}
    client.start(AGENT, {**os.environ, "PYTHONPATH": str(ROOT), **places})

    assert client.end() == 0
    assert "LD_LIBRARY_PATH=/usr/lib" in lines(client)


@pytest.mark.parametrize("words", [("-v",), ("-h",), ("--config", "q"), ("plan",), ("--version", "x")])
def test_words_for_a_task_are_not_taken_by_the_agent(make: Make, words: tuple[str, ...]) -> None:
    client = make(job(task("one", "<append_cmdline_args/>")))
    client.link("out", "task_1_out")

    assert run(client, "--passthrough_child", *words) == 0
    assert lines(client) == [" ".join(["worker one", *words])]
    assert run(client, *words) == 0


def test_a_program_that_minds_no_soft_signal_stands_still_all_the_same(make: Make) -> None:
    client = make(job(task("for-ever")))
    client.link("out", "task_1_out")
    start(client, "--use_tstp")
    client.until(lambda: lines(client), "it runs")
    client.want("suspend")
    client.until(lambda: states(client) == {"T"}, "all stand still")
    client.want("resume")
    client.until(lambda: "T" not in states(client), "all go on")
    client.want("abort")

    assert client.end() == 194


def test_one_that_sheds_its_environment_and_its_session_ends_with_the_task(make: Make) -> None:
    shed = WORKER.replace(b"away) setsid sleep 600 &", b"away) (env -i setsid sleep 600 &)")
    client = make(job(task("away wait")))
    (client.project / "worker").write_bytes(shed)
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: lines(client), "it runs")
    pid = client.process.pid if client.process is not None else 0
    client.until(lambda: sleepers(pid), "it has become the agent's own child")
    gone = sleepers(pid)
    (client.slot / "gate").touch()

    assert client.end() == 0
    assert not [one for one in gone if (stat := read_stat(one)) is not None and not stat.is_dead]


def sleepers(parent: int) -> list[int]:
    children = [one.pid for one in all_processes() if one.parent == parent and not one.is_dead]
    return [pid for pid in children if of_process(pid, "comm") == b"sleep\n"]


def test_what_a_task_leaves_does_not_run_beside_the_next_one(make: Make) -> None:
    client = make(job(task("away for-ever", "<time_limit>1</time_limit>"), task("wait")))
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: len(lines(client)) == 2, "the second runs")
    left = [pid for pid in running(client) if b"600" in of_process(pid, "cmdline")]
    (client.slot / "gate").touch()

    assert left == []
    assert client.end() == 0


def test_a_pipe_in_place_of_a_file_holds_nobody_up(make: Make) -> None:
    more = "<fraction_done_filename>fraction</fraction_done_filename>"
    client = make(job(task("for-ever", more)))
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: lines(client), "it runs")
    os.mkfifo(client.slot / "fraction")
    seen = len(client.said)
    client.until(lambda: len(client.said) > seen + 2, "it still says how it is")
    client.want("quit")

    assert client.end() == 0


def test_a_pattern_that_takes_for_ever_is_broken_off(make: Make) -> None:
    pattern = "<zip_output><zipfilename>z</zipfilename><filename>^(a+)+$</filename></zip_output>"
    client = make(job(task(f"new-{'x' * 3}"), more=pattern))
    (client.project / "worker").write_bytes(b"#!/bin/sh\ntouch " + b"a" * 40 + b"b\n")
    client.link("z", "task_1_z")

    assert run(client) == 206
    assert "z: the patterns of its <filename> take too long" in finish_of(client)[1]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"no zip", "is no zip archive"),
        (zipped(**{"n" * 300: b"x"}), "too long for a name"),
        (zipped(**{"a": b"x", "a/b": b"x"}), "cannot be unpacked"),
        (zipped(**{"worker": b"x"}), "it is in the slot already"),
        (zipped(**{"wrapper_checkpoint.txt": b"9 1e11 1"}), "is a name of BOINC's or of the agent's"),
        (zipped(data=b"x" * 5000)[:-30], "is no zip archive"),
    ],
)
def test_an_archive_that_cannot_be_unpacked_ends_the_task_with_its_reason(make: Make, body: bytes, why: str) -> None:
    client = make(job(task("x"), more="<unzip_input><zipfilename>data.zip</zipfilename></unzip_input>"))
    client.add("data.zip", body)

    assert run(client) == 206
    assert why in finish_of(client)[1]


def test_a_person_who_leaves_takes_his_programs_with_him(tmp_path: Path) -> None:
    client = FakeClient(tmp_path / "client")
    for name in ("init_data.xml", "boinc_mmap_file"):
        (client.slot / name).unlink()
    (client.slot / "worker").write_bytes(WORKER)
    (client.slot / "worker").chmod(0o755)
    (client.slot / "job.xml").write_text(job(task("for-ever")))
    try:
        start(client, "run-job")
        client.until(lambda: running(client), "it runs")
        assert client.process is not None
        client.process.send_signal(signal.SIGHUP)
        assert client.end() == 0
        assert running(client) == set()
    finally:
        client.close()


@pytest.mark.parametrize("place", ["/tmp", "$PWD/../..", "$PROJECT_DIR", "boinc_resolve(up)"])
def test_a_program_runs_in_the_slot_and_nowhere_else(make: Make, place: str) -> None:
    client = make(job(task("pwd", f"<exec_dir>{place}</exec_dir>")))
    client.link("out", "task_1_out")
    client.link("up", ".")

    assert run(client) == 1
    assert "<exec_dir>" in finish_of(client)[1]
    assert lines(client) == []


def test_a_daemon_that_leaves_its_session_runs_beside_all_tasks(make: Make) -> None:
    client = make(job(task("away", "<daemon/>", "helper"), task("one"), task("wait")))
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: "worker wait" in lines(client), "the second task runs")
    left = [pid for pid in running(client) if b"600" in of_process(pid, "cmdline")]
    (client.slot / "gate").touch()

    assert len(left) == 1
    assert client.end() == 0


def test_a_program_that_stops_a_child_of_its_own_goes_on_all_the_same(make: Make) -> None:
    client = make(job(task("halt wait")))
    worker = WORKER.replace(b"deaf)", b"halt) (kill -STOP $(exec sh -c 'echo $PPID'); :) & ;;\n    deaf)")
    (client.project / "worker").write_bytes(worker)
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: "T" in states(client), "a child stands still")
    client.want("suspend")
    client.until(lambda: states(client) == {"T"}, "all stand still")
    client.want("resume")
    client.until(lambda: "T" not in states(client) or len(states(client)) > 1, "the program goes on")
    (client.slot / "gate").touch()

    assert client.end() == 0


#: Its first thread ends, and another one computes on.
HEADLESS = f"""#!{sys.executable}
import ctypes, threading, time
def work():
    while True:
        open("ticks", "a").write("x")
        time.sleep(0.02)
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall(60, 0)
"""


def test_one_whose_first_thread_has_ended_is_held_up_and_ended_like_any_other(make: Make) -> None:
    client = make(job("<application>worker</application>"))
    (client.project / "worker").write_text(HEADLESS)
    start(client)
    ticks = client.slot / "ticks"
    client.until(lambda: ticks.exists() and len(ticks.read_bytes()) > 5, "it computes")
    client.want("suspend")
    client.until(lambda: "suspended" in client.stderr, "it is said to stand still")
    before = ticks.read_bytes()
    seen = len(client.stderr)
    client.want("resume")
    client.until(lambda: "resumed" in client.stderr[seen:], "it is said to go on")
    client.until(lambda: len(ticks.read_bytes()) > len(before), "it goes on")
    client.want("abort")

    assert client.end() == 194
    after = ticks.read_bytes()
    alive = [one.pid for one in all_processes() if not one.is_dead and works_in(one.pid, client.slot)]
    assert (alive, ticks.read_bytes()) == ([], after)


def works_in(pid: int, directory: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == directory
    except OSError:
        return False


def test_the_end_of_the_machine_is_no_failure_of_the_task(make: Make) -> None:
    client = make(job(task("for-ever")))
    client.link("out", "task_1_out")
    start(client)
    client.until(lambda: lines(client), "it runs")
    for pid in running(client):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    client.until(lambda: not running(client), "the program has ended")
    assert client.process is not None
    client.process.send_signal(signal.SIGTERM)

    assert client.end() == 0
    assert not (client.slot / FINISHED).exists()


@pytest.mark.parametrize("name", ["./init_data.xml", ".//boinc_lockfile", "a/./b", "a//b", "."])
def test_a_name_with_a_detour_is_none(make: Make, name: str) -> None:
    client = make(job(f"<application>worker</application><fraction_done_filename>{name}</fraction_done_filename>"))

    assert run(client) == 1
    assert "must be the name of a file in the slot directory" in finish_of(client)[1]
