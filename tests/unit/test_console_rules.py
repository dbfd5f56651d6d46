"""The console's pure parts: output in order, marked lines, names of jobs, why a job is where it is, TOML text."""

from __future__ import annotations

import tomllib

import msgspec
import pytest

from broker.rpc.output import OutputOrder
from host_agent.config import HostConfig, WantedVm
from schemas.description import JobDescription
from schemas.execs import ExecOutput, Stream
from schemas.ledger import AttemptRow, JobEvent, JobRecord, JobRow, JobState
from volcloud.centre.toml_text import render_toml
from volcloud.errors import BadInput
from volcloud.job_name import JobName, read_job_name
from volcloud.output import LinePrefixer
from volcloud.rendering.words import span
from volcloud.why import explain


def piece(number: int, data: bytes = b"x") -> ExecOutput:
    return ExecOutput(call="c", number=number, stream=Stream.STDOUT, data=data)


def test_output_that_comes_twice_is_given_once() -> None:
    order = OutputOrder()

    assert [order.take(piece(n, b"%d" % n)) for n in (0, 1, 1, 0, 2)] == [b"0", b"1", b"", b"", b"2"]
    assert order.finish(3) == 0


def test_output_that_never_came_is_counted() -> None:
    order = OutputOrder()
    order.take(piece(0))
    order.take(piece(3))

    assert order.finish(6) == 4


def test_room_is_granted_when_half_of_it_is_used() -> None:
    order = OutputOrder(window=100)
    order.take(piece(0, b"x" * 49))
    assert order.grant() is None

    order.take(piece(1, b"x"))
    assert order.grant() == 150
    assert order.grant() is None


def test_a_reconnect_grants_one_window_more_for_what_was_lost() -> None:
    order = OutputOrder(window=100)
    order.take(piece(0, b"x" * 60))
    assert order.grant() == 160

    assert order.grant_again() == 260


def test_lines_are_marked_when_they_are_whole() -> None:
    prefixer = LinePrefixer("a | ")

    assert prefixer.take(b"one\ntw") == b"a | one\n"
    assert prefixer.take(b"o\n") == b"a | two\n"
    assert prefixer.take(b"rest") == b""
    assert prefixer.finish() == b"a | rest\n"
    assert prefixer.finish() == b""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hello-1", JobName("", "hello-1", 0)),
        ("hello-1.3", JobName("", "hello-1", 3)),
        ("site-cern/hello.12", JobName("site-cern", "hello", 12)),
        ("site-cern/hello", JobName("site-cern", "hello", 0)),
        ("run-7.v1", JobName("", "run-7.v1", 0)),
        ("site-cern/run-7.v1.3", JobName("site-cern", "run-7.v1", 3)),
    ],
)
def test_a_jobs_name_is_read_and_written_alike(text: str, name: JobName) -> None:
    assert read_job_name(text) == name
    assert str(name) == text


@pytest.mark.parametrize("text", ["", "a.0", "/a", "a/", "a.1.2", "A/b"])
def test_what_is_no_jobs_name_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"must be id, id\.index or owner/id\.index"):
        read_job_name(text)


def record(state: JobState, **fields: object) -> JobRecord:
    row = JobRow(number=1, job="site-a/j.1", state=state, attempt=2, failures=1, submitted_ms=1000)
    given = {"call": "c", "job": row, "description": JobDescription(id="j", executable="x")} | fields
    return JobRecord(**given)  # type: ignore[arg-type]


def test_why_names_attempt_cause_who_noticed_when_and_the_next_step() -> None:
    attempts = [
        AttemptRow(attempt=1, state="lost", vm="vm-1", cause="its VM went away"),
        AttemptRow(
            attempt=2, state="failed", vm="vm-2", vm_name="b", host="host-1", cause="exit status 3", exit_status=3
        ),
    ]
    event = JobEvent(at_ms=5000, attempt=2, event="failed", noticed_by="vm-2", detail="exit status 3")

    said = {"cause": "exit status 3", "next_step": "`volcloud job retry site-a/j.1`"}
    why = explain(record(JobState.HELD, attempts=attempts, events=[event], **said))

    assert (why.attempt, why.cause, why.noticed_by, why.at_ms) == (2, "exit status 3", "vm-2", 5000)
    assert "VM b" in why.where
    assert "volcloud job retry site-a/j.1" in why.next_step
    assert why.earlier == ["attempt 1 on vm-1: lost: its VM went away"]


def test_why_of_a_waiting_job_names_the_requirement_that_no_vm_meets() -> None:
    lacking = ["memory_mib = 9999: the largest VM has 768"]
    why = explain(record(JobState.SUBMITTED, cause="no VM does", waiting_for=lacking, next_step="add a VM"))

    assert why.waiting_for == ["memory_mib = 9999: the largest VM has 768"]
    assert why.cause == "no VM does"
    assert why.next_step == "add a VM"


def test_a_configuration_is_read_back_as_it_was() -> None:
    config = HostConfig(
        credential='/a "quoted"\\path/ü\x7f',
        directory="/b",
        vms=[WantedVm(name="worker-1"), WantedVm(name="worker-2", cpus=2)],
        guest={"beat_s": 0.5, "request_again_s": 300.0},
    )

    assert msgspec.convert(tomllib.loads(render_toml(config)), HostConfig) == config


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.25, "0.2 s"), (42, "42 s"), (90, "1 min 30 s"), (3700, "1 h 1 min"), (200000, "2 d 7 h")]
)
def test_durations_are_said_in_two_units_at_most(seconds: float, said: str) -> None:
    assert span(seconds) == said
