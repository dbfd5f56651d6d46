"""Job files of BOINC's wrapper: as they are meant, as people write them, and as nobody should."""

from __future__ import annotations

import contextlib
import random
import re
import time

import pytest

from host_agent.boinc import job_xml
from host_agent.boinc.job_xml import read_job_xml
from host_agent.boinc.markup import MOST_BYTES, read_root
from host_agent.boinc.plan import TaskPlan, ZipOutput
from host_agent.boinc.vbox_job import read_vbox_job
from host_agent.errors import JobFileError
from tests.source import ROOT

WHOLE = b"""\xef\xbb\xbf<?xml version="1.0" encoding="UTF-8"?>
<!-- a comment with a <task> in it -->
   <job_desc version="2">
  <task>
    <application>worker</application>
    <command_line>--in boinc_resolve(in) --mark &quot;a &amp; b&quot; a&b $NTHREADS</command_line>
    <stdin_filename>in</stdin_filename>
    <stdout_filename>out</stdout_filename>
    <stderr_filename>err</stderr_filename>
    <setenv>A=1</setenv>
    <setenv>B=$PWD/lib</setenv>
    <exec_dir>$PWD/work</exec_dir>
    <weight> 2.5 </weight>
    <checkpoint_filename>state</checkpoint_filename>
    <fraction_done_filename>frac</fraction_done_filename>
    <append_cmdline_args/>
    <multi_process>1</multi_process>
    <time_limit>60</time_limit>
    <priority>3</priority>
  </task>
  <task><application>$PROJECT_DIR/second</application><daemon>0</daemon><command_line></command_line></task>
  <task>
    <application>helper</application>
    <daemon/>
  </task>
  <zip_output>
    <zipfilename>out.zip</zipfilename>
    <filename>\\.dat$</filename>
    <filename>log</filename>
  </zip_output>
  <unzip_input><zipfilename>in.zip</zipfilename><zipfilename>more.zip</zipfilename></unzip_input>
  <enable_graphics_support>1</enable_graphics_support>
  <aplication>typo</aplication>
</job_desc>
<job_desc><task><application>of another root</application></task></job_desc>
"""


def test_every_tag_is_read_wherever_it_stands() -> None:
    plan = read_job_xml(WHOLE)

    first = TaskPlan(
        line=4,
        application="worker",
        command_line='--in boinc_resolve(in) --mark "a & b" a&b $NTHREADS',
        stdin="in",
        stdout="out",
        stderr="err",
        environment=("A=1", "B=$PWD/lib"),
        directory="$PWD/work",
        weight=2.5,
        checkpoint="state",
        fraction_done="frac",
        appends_arguments=True,
        time_limit_s=60.0,
        priority=3,
    )
    assert plan.tasks == (first, TaskPlan(line=21, application="$PROJECT_DIR/second"))
    assert plan.daemons == (TaskPlan(line=22, application="helper", is_daemon=True),)
    assert plan.unzip == ("in.zip", "more.zip")
    assert plan.zips == (ZipOutput(line=26, archive="out.zip", patterns=(r"\.dat$", "log")),)
    assert (plan.has_graphics, plan.weight) == (True, 3.5)
    assert [str(one) for one in plan.warnings] == ["line 33: <aplication>: is unknown in <job_desc> and is passed over"]


def test_a_file_of_48_tasks_without_weights_is_read() -> None:
    task = b"<task><application>worker</application><stdout_filename>out</stdout_filename></task>\r\n"

    plan = read_job_xml(b"<job_desc>" + 48 * task + b"</job_desc>")

    assert (len(plan.tasks), plan.weight) == (48, 48.0)


def test_an_unknown_tag_in_a_task_is_warned_of_with_the_nearest_known_one() -> None:
    task = b"<task>\n<application>a</application>\n<chekpoint_filename>c</chekpoint_filename></task>"

    (warned,) = read_job_xml(b"<job_desc>" + task + b"</job_desc>").warnings

    assert str(warned) == (
        "line 3: <chekpoint_filename>: is unknown in <task> and is passed over; did you mean <checkpoint_filename>?"
    )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "line 1: there is no <job_desc>; is this a job file?"),
        (b"\n\n<vbox_job></vbox_job>", "line 3: <vbox_job>: a job file begins with <job_desc>"),
        (b"<job_desc>\n<task>", "line 2: <task>: is not ended by </task>; the file is cut off"),
        (
            b"<job_desc>\n<task>\n</job_desc>",
            "line 3: <job_desc>: </job_desc> ends what is not open; <task> of line 2 is",
        ),
        (b"<job_desc></job_desc>", "line 1: <job_desc>: there is no <task> in it: nothing would be run"),
        (
            b"<job_desc><task/></job_desc>",
            "line 1: <task>: there is no <application> in it: which program is to run?",
        ),
        (
            b"<job_desc><task><aplication>x</aplication></task></job_desc>",
            "line 1: <task>: there is no <application> in it: which program is to run; is <aplication> meant for it?",
        ),
        (b"<job_desc><!-- ", "line 1: '<!-- ' is not ended by '-->'"),
        (b"a\n\0", "line 2: a NUL: this is no text"),
        (b"\xff\xfea", "line 1: it begins as utf-16 and is none: truncated data"),
        (bytes(MOST_BYTES + 1), f"line 1: {MOST_BYTES + 1} bytes; a job file has at most {MOST_BYTES}"),
        (b"<job_desc>" + b"<a>" * 99, "line 1: <a>: more than 16 tags within each other"),
    ],
)
def test_what_is_no_job_file_is_refused_with_its_line(body: bytes, why: str) -> None:
    with pytest.raises(JobFileError) as caught:
        read_job_xml(body)

    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("tag", "value", "why"),
    [
        ("application", "../../evil", "must be the name of a file in the slot directory"),
        ("application", "/bin/sh", "must be the name of a file in the slot directory"),
        ("application", "$PROJECT_DIR/../../x", "must be the name of a file in the slot directory"),
        ("application", "C:\\windows\\x", "must be the name of a file in the slot directory"),
        ("stdout_filename", "..\\x", "must be the name of a file in the slot directory"),
        ("weight", "-1", "must be a number from 0 to 1e"),
        ("weight", "nan", "must be a number from 0 to 1e"),
        ("weight", "many", "must be a number from 0 to 1e"),
        ("stdout_filename", "wrapper_checkpoint.txt", "is a name of BOINC's or of the agent's"),
        ("fraction_done_filename", "boinc_lockfile", "is a name of BOINC's or of the agent's"),
        ("application", "ö" * 128, "must be the name of a file in the slot directory"),
        ("priority", "1.5", "must be a whole number"),
        ("daemon", "yes", "must be 0 or 1, or <daemon/>"),
        ("setenv", "novalue", "must be NAME=value"),
        ("time_limit", "1e99", "must be a number from 0 to"),
        ("command_line", "x" * 20000, "20000 characters; at most 16384"),
        ("copy_file_to_VM", "data", "there is no <virtualmachine> in this task"),
        ("copy_file_from_VM", "*.root", "must be the name of one file, not a pattern"),
        ("copy_file_from_VM", "stdout", "is a name of BOINC's or of the agent's"),
        ("copy_file_from_VM", "vc.status", "is a name of BOINC's or of the agent's"),
        ("copy_file_to_VM", "../../x", "must be the name of a file in the slot directory"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_line_and_tag(tag: str, value: str, why: str) -> None:
    body = f"<job_desc>\n<task>\n<application>a</application>\n<{tag}>{value}</{tag}></task></job_desc>".encode()

    with pytest.raises(JobFileError) as caught:
        read_job_xml(body)

    assert (caught.value.line, caught.value.tag) == (4, tag)
    assert why in str(caught.value)


def test_empty_names_are_none_and_priorities_beyond_are_the_nearest() -> None:
    task = "<application>a</application><stdin_filename></stdin_filename><checkpoint_filename/><priority>{}</priority>"

    lowest, highest = (read_job_xml(f"<job_desc><task>{task.format(n)}</task></job_desc>".encode()) for n in (0, 9))

    assert lowest.tasks[0] == TaskPlan(line=1, application="a")
    assert highest.tasks[0].priority == 5


def test_an_entity_bomb_is_text() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'

    plan = read_job_xml(bomb + b"<job_desc><task><application>&b;</application></task></job_desc>")

    assert plan.tasks[0].application == "&b;"


PIECES = [
    b"<job_desc>", b"</job_desc>", b"<task>", b"</task>", b"<task/>", b"<application>", b"</application>", b"a",
    b"<weight>", b"</weight>", b"1", b"-1e308", b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<?", b"?>", b"<!", b"<", b">",
    b"&lt;", b"&#0;", b"&#xD800;", b"&#1114111;", b"&", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xff", b"../", b"\n",
    b"<setenv>", b"</setenv>", b"=", b"<unzip_input>", b"</unzip_input>", b"<zipfilename>", b"</zipfilename>",
    b"<virtualmachine>m</virtualmachine>", b"<copy_file_to_VM>", b"</copy_file_to_VM>", b"<memory_size_mb>",
    b"</memory_size_mb>", b"<port_forward>", b"</port_forward>", b"<job_duration>", b"</job_duration>", b"1e999",
    b"<trickle_trigger_file>t</trickle_trigger_file>", b"<enable_network/>", b"<unzip_task>", b"</unzip_task>",
    b"<zip_output>", b"</zip_output>", b"<filename>", b"</filename>", b"(a+)+$", b"[", b"<daemon/>", b"x" * 5000,
]  # fmt: skip


WHOLE_ONES = (
    b"<job_desc><task><application>a</application>%b</task></job_desc>",
    b"<job_desc><task><virtualmachine>m</virtualmachine><application>a</application>%b</task></job_desc>",
    b"<vbox_job>%b</vbox_job>",
)


def slowest_of_fuzzed(seed: int, files: int) -> float:
    """Read so many files of all three kinds that make little sense; give the processor time of the slowest, seconds."""
    choose = random.Random(seed)
    slowest = 0.0
    for _ in range(files):
        body = b"".join(choose.choices(PIECES, k=choose.randrange(60)))
        if choose.random() < 0.5:
            body = choose.choice(WHOLE_ONES) % body
        if choose.random() < 0.02:
            body = ((body or b"<") * (MOST_BYTES // (len(body) or 1) + 1))[: MOST_BYTES + choose.randrange(2)]
        if (took := cost_s(body)) > slowest:  # again: a machine that others use is slow at times
            slowest = max(slowest, min(took, cost_s(body)))
    return slowest


def cost_s(body: bytes) -> float:
    began = time.thread_time()
    for read in (read_job_xml, read_vbox_job):
        with contextlib.suppress(JobFileError):
            read(body)
    return time.thread_time() - began


@pytest.mark.parametrize("seed", range(20))
def test_fuzzed_files_raise_nothing_but_our_error_and_soon(seed: int) -> None:
    # Ten times what it may be on a machine of its own.
    assert slowest_of_fuzzed(seed, 250) < 0.5


def test_text_between_tags_and_cdata_is_kept_and_comments_are_not() -> None:
    root = read_root(b"<job_desc>a<!-- b --> c < d<x/><![CDATA[<e>&amp;]]></job_desc>", ["job_desc"])

    assert root.text == "a c < d<e>&amp;"
    assert [(tag.name, tag.is_empty) for tag in root.tags] == [("x", True)]


def test_every_tag_has_its_meaning_in_the_page_and_no_other_has() -> None:
    page = (ROOT / "docs" / "howto" / "boinc.md").read_text().partition("## What a job file may say")[2]
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert told == {*job_xml.TASK_TAGS, *job_xml.ROOT_TAGS, "zipfilename", "filename"} - {"task"}
