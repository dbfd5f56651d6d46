"""What BOINC's client and an application say to each other, byte by byte, and what an application makes of it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_agent.boinc.app_status import AppStatus
from host_agent.boinc.arguments import read_arguments
from host_agent.boinc.channels import CHANNEL_BYTES, MOST_TEXT_BYTES, SEGMENT_BYTES, Channel, receive, send
from host_agent.boinc.checkpoint import Checkpoint, read_checkpoint
from host_agent.boinc.client_will import ClientWill
from host_agent.boinc.command_words import expand, split
from host_agent.boinc.endings import away, finished, put_off
from host_agent.boinc.init_data import InitData, read_init_data
from host_agent.boinc.slot_files import link_target, temporary_exit_text
from host_agent.boinc.slot_names import SlotNames
from host_agent.errors import BadName, WrongArguments
from tests.source import ROOT, imports_of

#: Modules that decide, and what of the standard library Windows lacks.
PURE = ["app_status", "arguments", "channels", "client_will", "command_words", "fields", "init_data", "job_xml"]
PURE += ["markup", "plan", "slot_files"]
NOT_ON_WINDOWS = {"fcntl", "grp", "pwd", "resource", "termios", "pty", "tty", "posix", "syslog"}


@pytest.mark.parametrize("module", PURE)
def test_what_decides_is_pure_and_loads_where_windows_is(module: str) -> None:
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in sorted(NOT_ON_WINDOWS))
    script = f"import sys; {blocked}import host_agent.boinc.{module}; print('asyncio' in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout == "False\n"
    path = ROOT / "host_agent" / "boinc" / f"{module}.py"
    assert not {name.partition(".")[0] for name in imports_of(path)} & {"broker", "asyncio", "subprocess", "threading"}
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_a_message_lies_where_the_client_looks_for_it() -> None:
    memory = bytearray(SEGMENT_BYTES)

    assert send(memory, Channel.APP_STATUS, "<x/>\n")
    assert not send(memory, Channel.APP_STATUS, "<y/>\n"), "the first has not been taken"

    assert (SEGMENT_BYTES, Channel.APP_STATUS * CHANNEL_BYTES) == (8192, 5120)
    assert bytes(memory[5120:5128]) == b"\1<x/>\n\0\0"
    assert bytes(memory[:5120]) == bytes(5120)
    assert receive(memory, Channel.APP_STATUS) == "<x/>\n"
    assert memory[5120] == 0
    assert receive(memory, Channel.APP_STATUS) is None


@given(st.text(max_size=1100))
def test_a_text_arrives_as_it_was_or_is_refused(text: str) -> None:
    memory = bytearray(SEGMENT_BYTES)
    fits = len(text.encode(errors="replace")) <= MOST_TEXT_BYTES and "\0" not in text

    if fits:
        assert send(memory, Channel.TRICKLE_UP, text)
        assert receive(memory, Channel.TRICKLE_UP) == text
    else:
        with pytest.raises(ValueError, match="trickle_up: "):
            send(memory, Channel.TRICKLE_UP, text)
        assert bytes(memory) == bytes(SEGMENT_BYTES)


@given(st.binary(min_size=CHANNEL_BYTES, max_size=CHANNEL_BYTES))
def test_whatever_lies_in_a_channel_is_read(content: bytes) -> None:
    memory = bytearray(content + bytes(SEGMENT_BYTES - CHANNEL_BYTES))
    will = ClientWill()

    text = receive(memory, Channel.CONTROL_REQUEST)
    if text is not None:
        for hear in (will.hear_control, will.hear_heartbeat, will.hear_trickle_down):
            hear(text)

    assert receive(memory, Channel.CONTROL_REQUEST) is None


def test_what_the_client_wants_are_levels() -> None:
    will = ClientWill()
    for text in ("<suspend/>\n", "<suspend/>\n", "<resume/>\n", "<suspend/>\n"):
        will.hear_control(text)
    assert (will.is_suspended, will.must_end) == (True, False)

    will.hear_control("<quit/>\n")
    will.hear_heartbeat("<heartbeat/>\n<wss>1.0</wss>\n<network_suspended/>\n<sporadic_ca>3</sporadic_ca>\n")
    assert (will.is_quitting, will.must_end, will.is_network_suspended, will.sporadic) == (True, True, True, 3)

    will.hear_heartbeat("<heartbeat/>\n")
    assert (will.is_network_suspended, will.is_quitting) == (False, True)


def test_every_status_is_whole_and_nothing_goes_backwards() -> None:
    status = AppStatus(begin=0.2, end=0.6)
    status.reach(5.0)
    status.progress(0.5)
    status.checkpoint()
    status.reach(3.0)
    status.progress(0.25)
    status.progress(float("nan"))
    first = status.checkpoint_cpu_s
    status.checkpoint()
    status.other_pid = 77

    assert status.checkpoint_cpu_s > first, "a change is the only sign of a checkpoint"
    lines = status.render().splitlines()
    assert lines[2:] == ["<fraction_done>4.000000e-01</fraction_done>", "<other_pid>77</other_pid>"]
    assert [line.partition(">")[0] for line in lines[:2]] == ["<current_cpu_time", "<checkpoint_cpu_time"]
    assert len(status.render()) < MOST_TEXT_BYTES


def test_init_data_is_read_as_a_client_writes_it() -> None:
    body = b"""<app_init_data>
<major_version>7</major_version>
<minor_version>20</minor_version>
<release>5</release>
<project_preferences>
<slot>99</slot>
<max_vm_cpu_pct> 50 &amp; < </max_vm_cpu_pct>
</project_preferences>
<wu_name>a<app_file>evil</app_file></wu_name>
<user_name>J\xfcrgen</user_name>
<project_dir>/var/lib/boinc/projects/a \xc3\xb6 b</project_dir>
<slot>3</slot>
<shm_key>-1</shm_key>
<client_pid>17</client_pid>
<wu_cpu_time>12.5</wu_cpu_time>
    <ncpus>2.000000</ncpus>
<process_priority>1</process_priority>
<fraction_done_start>0.25</fraction_done_start>
<fraction_done_end>2</fraction_done_end>
<rsc_disk_bound>1e9</rsc_disk_bound>
<checkpoint_period>inf</checkpoint_period>
<app_file>host_agent_1</app_file>
<app_file> worker </app_file>
</app_init_data>
"""

    data = read_init_data(body)

    assert (data.version, data.slot, data.shm_key, data.client_pid) == ("7.20.5", 3, -1, 17)
    assert (data.project_dir, data.app_files) == ("/var/lib/boinc/projects/a ö b", ("host_agent_1", "worker"))
    assert (data.wu_cpu_s, data.ncpus, data.process_priority, data.disk_bound_bytes) == (12.5, 2.0, 2, 1e9)
    assert (data.fraction_done_start, data.fraction_done_end, data.checkpoint_period_s) == (0.25, 1.0, 0.0)


@given(st.binary(max_size=2000))
def test_no_init_data_keeps_a_task_from_running(body: bytes) -> None:
    data = read_init_data(b"<slot>1</slot>\n<ncpus>-3</ncpus>\n" + body)

    assert (data.slot, data.ncpus) == (1, 1.0)
    assert data.notes == ("<ncpus>: -3: a task has more than 0 CPUs; this one has 1",)


def names_in(home: Path, *signed: str) -> SlotNames:
    slot, project = home / "slots" / "0", home / "projects" / "p"
    for path in (slot, project):
        path.mkdir(parents=True, exist_ok=True)
    return SlotNames(slot, InitData(project_dir=str(project), app_files=signed, result_name="wu_1_0"))


def test_a_logical_name_leads_by_either_link_or_to_the_file_itself(tmp_path: Path) -> None:
    names, project = names_in(tmp_path), tmp_path / "projects" / "p"
    (names.slot / "out").write_text("<soft_link>../../projects/p/wu_1_0_r7</soft_link>\n")
    (names.slot / "in").symlink_to("../../projects/p/in_1")
    (names.slot / "plain").write_bytes(b"\xff content")
    os.mkfifo(names.slot / "pipe")

    assert names.target("out") == project / "wu_1_0_r7"
    assert names.source("in") == project / "in_1"
    assert [names.source(name) for name in ("plain", "none", "pipe")] == [
        names.slot / name for name in ("plain", "none", "pipe")
    ]
    assert link_target(names.slot / "plain") is None


@pytest.mark.parametrize("leads_to", ["/etc/passwd", "../../projects/q/x", "../../projects/p/a/b", "../x", "..", ""])
@pytest.mark.parametrize("is_real", [False, True])
def test_a_link_to_elsewhere_than_the_projects_directory_leads_nowhere(
    tmp_path: Path, leads_to: str, is_real: bool
) -> None:
    names = names_in(tmp_path)
    path = names.slot / "name"
    if is_real and leads_to:
        path.symlink_to(leads_to)
    else:
        path.write_text(f"<soft_link>{leads_to}</soft_link>")

    for give in (names.source, names.target):
        with pytest.raises(BadName, match="not in the project's directory"):
            give("name")


def test_a_clients_link_leads_from_the_slot_at_whatever_depth_it_lies(tmp_path: Path) -> None:
    names = names_in(tmp_path)
    (names.slot / "shared").mkdir()
    (names.slot / "shared" / "in").write_text("<soft_link>../../projects/p/in_1</soft_link>")
    (names.slot / "shared" / "real").symlink_to("../../../projects/p/in_2")

    found = [names.source(name).name for name in ("shared/in", "shared/real")]

    assert found == ["in_1", "in_2"]


def test_nothing_is_written_that_is_no_output_of_this_result(tmp_path: Path) -> None:
    names = names_in(tmp_path)
    (names.slot / "out").write_text("<soft_link>../../projects/p/libm.so.6</soft_link>")
    (names.slot / "elsewhere").symlink_to(tmp_path)

    for name, why in (("out", "is no output of wu_1_0"), ("elsewhere/x", "behind, a link"), ("elsewhere", "leads to")):
        with pytest.raises(BadName, match=why):
            names.target(name)


def test_the_accounts_secret_is_handed_to_nobody(tmp_path: Path) -> None:
    with pytest.raises(BadName, match="is handed to nobody"):
        names_in(tmp_path).source("init_data.xml")


def test_what_the_project_has_signed_is_never_written_to(tmp_path: Path) -> None:
    names = names_in(tmp_path, "worker_1")
    (names.slot / "out").write_text("<soft_link>../../projects/p/worker_1</soft_link>")

    with pytest.raises(BadName, match="out: leads to worker_1, which the project has signed"):
        names.target("out")


@pytest.mark.parametrize("directory", ["", "relative", "/no/such", "{slot}", "{slot}/in"])
def test_a_project_whose_directory_makes_no_sense_has_no_files(tmp_path: Path, directory: str) -> None:
    slot = tmp_path / "slot"
    (slot / "in").mkdir(parents=True)
    (slot / "x").write_text("<soft_link>worker</soft_link>")
    names = SlotNames(slot, InitData(project_dir=directory.format(slot=slot), app_files=("worker", "x")))

    with pytest.raises(BadName):
        names.source("x")
    with pytest.raises(BadName):
        names.project_path("x")


def test_each_ending_is_left_as_the_client_takes_it(tmp_path: Path) -> None:
    for ending in (finished(195, "worker ended\nwith 3"), put_off(7, "the disk\nis full"), away("quit")):
        ending.leave(tmp_path)

    assert (tmp_path / "boinc_finish_called").read_text() == "195\nworker ended with 3\n\n"
    assert (tmp_path / "boinc_temporary_exit").read_text() == "7\nthe disk is full\n\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boinc_finish_called", "boinc_temporary_exit"]
    assert temporary_exit_text(10**9, "").splitlines()[:2] == ["86400", ""], "a line for the reason there must be"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("a  b\tc", ["a", "b", "c"]),
        ("'a b' \"c d\" e", ["a b", "c d", "e"]),
        ("a'b c'd", ["a'b", "c'd"]),
        ("--x='a b'", ["--x='a", "b'"]),
        ("'open to the end", ["open to the end"]),
        ("'' x", ["", "x"]),
    ],
)
def test_a_command_line_is_taken_apart_as_boinc_does_it(line: str, words: list[str]) -> None:
    assert split(line) == words


def test_macros_are_put_in_before_names_are_resolved() -> None:
    macros = {"$PWD": "/slot", "$NTHREADS": "4", "$PROJECT_DIR": "/p"}

    assert expand("$NTHREADS $PWD/x boinc_resolve(in put) $OTHER", macros, lambda name: f"<{name}>") == (
        "4 /slot/x <in put> $OTHER"
    )


def test_arguments_go_on_to_tasks_by_the_new_rule_and_by_the_old_one() -> None:
    new = read_arguments(["--nthreads", "3", "--passthrough_child", "--nthreads", "x"], passes_all=True)
    old = read_arguments(["--nthreads", "2", "--mine", "7"], passes_all=True)

    assert (new.nthreads, new.passed_on) == (3, ("--nthreads", "x"))
    assert (old.nthreads, old.passed_on) == (2, ("--nthreads", "2", "--mine", "7"))
    assert read_arguments(["--device", "gpu", "-v"], passes_all=True).passed_on == ("--device", "gpu", "-v")
    for wrong in (["--mine"], ["--nthreads"], ["--trickle", "-1"], ["--nthreads", "nan"]):
        with pytest.raises(WrongArguments, match="takes --nthreads N"):
            read_arguments(wrong, passes_all=False)


@pytest.mark.parametrize("body", [b"", b"x", b"-1 0 0", b"1 nan 0", b"1 1e99 0", b"\xff\xff", b"1 2 -3"])
def test_a_checkpoint_that_is_none_begins_anew(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "wrapper_checkpoint.txt").write_bytes(body)

    assert read_checkpoint(tmp_path) is None


def test_a_checkpoint_is_read_as_it_was_written_and_as_old_wrappers_wrote_it(tmp_path: Path) -> None:
    Checkpoint(2, 3.5, 9.25).write(tmp_path)
    ours = read_checkpoint(tmp_path)
    (tmp_path / "wrapper_checkpoint.txt").write_text("4 1.5\n")

    assert ours == Checkpoint(2, 3.5, 9.25)
    assert read_checkpoint(tmp_path) == Checkpoint(4, 1.5, 0.0)
