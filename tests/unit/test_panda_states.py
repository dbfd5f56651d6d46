"""What PanDA is told of jobs and how its answers are understood: tables, codes, bulk, and what a queue is asked for."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import SourceDenied, SourceError, SourceRefused, SourceUnavailable
from adapters.sources.contract import GridEnding, GridJob, GridOutput, GridProgress, Offer
from adapters.sources.http import Budget, HttpAnswer
from adapters.sources.panda.answers import (
    UpdateAnswer,
    UpdateData,
    failure,
    is_refused_token,
    jobs_of,
    statuses_of,
    updates_of,
)
from adapters.sources.panda.asks import asks_for
from adapters.sources.panda.beats import BURST, PandaBeats, UpdateBudget
from adapters.sources.panda.client import portions_of
from adapters.sources.panda.states import ENDED, MOST_DIAG, WHILE, commands_of, given_back, progress, told_of
from schemas.jobs import Machine
from schemas.ledger import AT_WORK, SETTLED, JobState

JOB = GridJob(id="7", attempt=3)


def answered(body: Any, status: int = 200) -> HttpAnswer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpAnswer(status, raw, "", 0.0)


def ended(state: JobState, **more: Any) -> dict[str, Any]:
    return told_of(GridEnding(job=JOB, state=state, **more), "log.tgz", "a-guid")


def test_every_state_of_a_job_that_is_not_over_is_told_and_every_end() -> None:
    assert set(WHILE) == AT_WORK | {JobState.SUBMITTED}
    assert set(ENDED) == SETTLED


def test_a_job_that_is_done_is_finished_with_its_report() -> None:
    outputs = [
        GridOutput(name="out.root", size=5, sha256="x", adler32="0a0b0c0d", url="root://store//out.root"),
        GridOutput(name="kept.here", size=5, sha256="x"),
    ]

    told = ended(
        JobState.DONE,
        started_ms=1_764_000_000_000,
        ended_ms=1_764_000_060_000,
        outputs=outputs,
        sandbox="https://panda/cache/x#adler32=01020304&size=9",
    )

    report = json.loads(told.pop("job_output_report"))
    assert told == {
        "job_id": 7,
        "attempt_nr": 2,
        "job_status": "finished",
        "start_time": "2025-11-24 16:00:00",
        "end_time": "2025-11-24 16:01:00",
        "trans_exit_code": 0,
    }
    assert report["log.tgz"] == {
        "guid": "a-guid",
        "fsize": 9,
        "adler32": "01020304",
        "surl": "https://panda/cache/x",
    }
    assert {key: report["out.root"][key] for key in ("fsize", "adler32", "surl")} == {
        "fsize": 5,
        "adler32": "0a0b0c0d",
        "surl": "root://store//out.root",
    }
    assert set(report) == {"log.tgz", "out.root"}
    assert ended(JobState.DONE, outputs=outputs) == ended(JobState.DONE, outputs=outputs)


@pytest.mark.parametrize(
    ("state", "exit_status", "codes"),
    [
        (JobState.HELD, 3, {"pilot_error_code": 1305, "trans_exit_code": 3, "exe_error_code": 3}),
        (JobState.HELD, 0, {"pilot_error_code": 1220}),
        (JobState.HELD, -1, {"pilot_error_code": 1344}),
        (JobState.CANCELLED, -1, {"pilot_error_code": 1144}),
    ],
)
def test_a_job_that_failed_says_by_codes_how(state: JobState, exit_status: int, codes: dict[str, int]) -> None:
    told = ended(state, exit_status=exit_status, cause="out of\x1b[2J memory" + "!" * 1000)

    assert told["job_status"] == "failed"
    assert {key: value for key, value in told.items() if key.endswith("_code")} == codes
    assert told["pilot_error_diag"].isprintable()
    assert len(told["pilot_error_diag"]) <= MOST_DIAG


def test_what_is_told_has_the_types_that_the_server_demands() -> None:
    everything = [
        *(ended(state, exit_status=2, cause="x", started_ms=1, ended_ms=2) for state in SETTLED),
        given_back(JOB, "no room"),
        *(progress(JOB, status, 5) for status in set(WHILE.values())),
    ]
    for told in everything:
        for key, value in told.items():
            assert type(value) is (int if key.endswith(("_id", "_nr", "_code")) else str), key


def test_commands_are_read_with_commas_between() -> None:
    assert commands_of("debug,tobekilled") == {"debug", "tobekilled"}
    assert commands_of("NULL") == commands_of(None) == commands_of("") == frozenset()


def test_jobs_are_read_one_by_one_and_named_once() -> None:
    jobs = [{"PandaID": 5}, {"PandaID": "x"}, {"PandaID": 5}, [], {"PandaID": 6, "jobPars": {}}]

    found, unnamed = jobs_of(answered({"success": True, "message": "", "data": {"jobs": jobs}}))

    assert ([job.id for job in found], unnamed) == ([5, 6], 2)


@pytest.mark.parametrize(
    "body",
    [
        {"success": False, "message": "No jobs in PanDA", "data": None},
        {"success": True, "message": "", "data": {"StatusCode": 20}},
        b"StatusCode=20&errorDialog=none",
    ],
)
def test_no_jobs_is_said_in_several_ways(body: Any) -> None:
    assert jobs_of(answered(body)) == ([], 0)


def test_an_old_server_answers_with_a_query_string() -> None:
    jobs, _ = jobs_of(answered(b"StatusCode=0&PandaID=12&attemptNr=1&transformation=%2Fbin%2Ftrue&jobPars=NULL"))

    assert [(job.id, job.attempt_nr) for job in jobs] == [(12, 1)]


NO_ANSWERS = [
    (b"<html><body>Welcome</body></html>", SourceUnavailable),
    (b"", SourceUnavailable),
    (b"[]", SourceUnavailable),
    (b"{'success': True, 'message': '', 'data': None}", SourceUnavailable),
    ({"success": False, "message": "Timed out", "data": None}, SourceUnavailable),
    ({"success": False, "message": "Database error", "data": None}, SourceUnavailable),
    ({"success": False, "message": "SSL secure connection is required", "data": None}, SourceDenied),
    ({"success": False, "message": "production or pilot role required", "data": None}, SourceDenied),
    ({"success": False, "message": "Argument error: what?", "data": None}, SourceRefused),
    ({"success": True, "message": "", "data": {"StatusCode": 10, "jobs": []}}, SourceUnavailable),
    ({"success": True, "message": "", "data": {"StatusCode": 60}}, SourceDenied),
    ({"success": True, "message": "", "data": "jobs"}, SourceUnavailable),
    (b"StatusCode=60&errorDialog=role", SourceDenied),
    (b"StatusCode=x", SourceUnavailable),
    (b'{"success": true, "data": ' + b"[" * 100_000, SourceUnavailable),
    (b'{"success": true, "data": {"jobs": [{"x": ' + b"[" * 100_000, SourceUnavailable),
    ({"success": True, "data": {"jobs": [{}] * 1001}}, SourceUnavailable),
]


@pytest.mark.parametrize(("body", "kind"), NO_ANSWERS)
def test_what_is_no_answer_is_told_from_one(body: Any, kind: type[SourceError]) -> None:
    with pytest.raises(SourceError) as caught:
        jobs_of(answered(body))

    assert type(caught.value) is kind
    assert len(str(caught.value)) < 700


def test_an_update_is_done_only_if_its_status_code_says_so() -> None:
    assert UpdateAnswer(True, data=UpdateData(0, "NULL")).error() is None
    assert isinstance(UpdateAnswer(True, "Database error", UpdateData(30)).error(), SourceUnavailable)
    assert isinstance(UpdateAnswer(True, "Timed out", UpdateData(10)).error(), SourceUnavailable)
    assert isinstance(UpdateAnswer(False, "Invalid job status: x", UpdateData(50)).error(), SourceRefused)
    assert isinstance(UpdateAnswer(False, "Type error: x").error(), SourceRefused)
    assert "no reason" in str(failure(""))


@pytest.mark.parametrize("data", [[], [{"success": True}] * 3, {"a": 1}, None, [{"success": "yes"}] * 2])
def test_answers_to_a_bulk_must_be_as_many_as_the_updates(data: Any) -> None:
    with pytest.raises(SourceUnavailable):
        updates_of(answered({"success": True, "message": "", "data": data}), 2)


def test_a_job_that_is_not_found_has_no_status() -> None:
    rows = [{"job_id": 1, "status": "not found", "attempt_number": 0}, {"job_id": 2, "status": "sent"}]

    assert list(statuses_of(answered({"success": True, "message": "", "data": rows}))) == [2]


def test_a_refused_token_is_told_from_other_refusals() -> None:
    assert is_refused_token(answered(b"ERROR : Token authentication failed. Invalid token.", 403))
    assert is_refused_token(answered(b"", 401))
    assert not is_refused_token(answered(b"ERROR : Alice is banned", 403))


#: The names that are looked for in answers, and one that is not.
NAMES = (
    "success", "message", "data", "StatusCode", "jobs", "command",
    "job_id", "status", "attempt_number", "PandaID", "attemptNr", "x",
)  # fmt: skip
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1, 60), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner)),
    max_leaves=15,
)
JOBS = st.lists(st.one_of(JSON, st.dictionaries(st.sampled_from(("PandaID", "attemptNr")), JSON)), max_size=2)
DATA = st.one_of(JSON, st.lists(JSON, max_size=2), st.fixed_dictionaries({"jobs": JOBS}))
QUERIES = st.dictionaries(st.sampled_from(NAMES), st.one_of(st.text(max_size=10), st.integers(-1, 9))).map(urlencode)
ANSWERS = st.one_of(
    JSON.map(lambda value: json.dumps(value).encode()),
    DATA.map(lambda data: json.dumps({"success": True, "message": "", "data": data}).encode()),
    st.one_of(st.text(max_size=100), QUERIES).map(lambda text: f"StatusCode=0&{text}".encode()),
    st.binary(max_size=200),
)


@settings(max_examples=400)
@given(ANSWERS)
def test_whatever_an_answer_is_it_is_read_or_refused(body: bytes) -> None:
    for read in (jobs_of, statuses_of, lambda answer: updates_of(answer, 1)):
        with contextlib.suppress(SourceError):
            read(answered(body))


def machine(cpus: int, memory: int = 4000, disk: int = 10_000) -> Machine:
    return Machine(cpus=cpus, memory_mib=memory, disk_mib=disk, platform="linux-x86_64")


def test_a_machine_asks_for_types_that_it_has_the_cores_for_the_largest_first() -> None:
    offers = [Offer(machine(2), 3), Offer(machine(8), 8), Offer(machine(2), 1)]

    asks = asks_for(offers, {"SCORE": 1, "MCORE": 8})

    assert [(ask.machine.cores, ask.resource_type, ask.slots) for ask in asks] == [
        (8, "MCORE", 8),
        (8, "SCORE", 8),
        (2, "SCORE", 4),
    ]
    assert asks[2].is_within(asks[1])
    assert not asks[0].is_within(asks[1])
    assert [ask.resource_type for ask in asks_for(offers, {})] == ["", ""]
    assert asks_for([Offer(machine(2), 0)], {}) == []


class Told:
    """A client that notes what PanDA would be told, and says what it is told to."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, str]]] = []
        self.answers: dict[int, UpdateAnswer] = {}

    def update(self, updates: list[dict[str, Any]], budget: Budget) -> list[tuple[int, UpdateAnswer]]:
        self.calls.append([(one["job_id"], one["job_status"]) for one in updates])
        usual = UpdateAnswer(True, data=UpdateData(0, "NULL"))
        return [(n, self.answers.get(one["job_id"], usual)) for n, one in enumerate(updates)]


def running(*jobs: int, state: JobState = JobState.RUNNING) -> list[GridProgress]:
    return [GridProgress(job=GridJob(id=str(job)), state=state) for job in jobs]


def test_many_jobs_take_turns_and_news_goes_first() -> None:
    now, client = [0.0], Told()
    beats = PandaBeats(client, 100, lambda: now[0])  # type: ignore[arg-type]
    jobs = range(1, 501)

    for _ in range(4):
        beats.beat(running(*jobs), Budget(5))
        now[0] += 1
    news = GridProgress(job=GridJob(id="1"), state=JobState.STAGE_OUT)
    beats.beat([*running(*jobs[1:]), news], Budget(5))

    assert [len(call) for call in client.calls] == [BURST, 100, 100, 100, 100]
    assert {job for call in client.calls[:4] for job, _ in call} == set(jobs)
    assert client.calls[4][0] == (1, "transferring")


def test_a_stop_is_said_until_the_job_is_forgotten_and_no_more_is_told_of_it() -> None:
    client = Told()
    beats = PandaBeats(client, 100, lambda: 0.0)  # type: ignore[arg-type]
    client.answers[2] = UpdateAnswer(True, data=UpdateData(0, "debug,tobekilled"))

    said = [[stop.id for stop in beats.beat(running(1, 2), Budget(5))] for _ in range(3)]
    beats.forget([GridJob(id="2")])
    beats.beat(running(2), Budget(5))

    assert said == [["2"]] * 3
    assert client.calls == [[(1, "running"), (2, "running")], [(1, "running")], [(1, "running")], [(2, "running")]]


def test_an_older_try_beside_a_later_one_is_stopped_and_a_name_of_nobody() -> None:
    client = Told()
    beats = PandaBeats(client, 100, lambda: 0.0)  # type: ignore[arg-type]
    both = [GridProgress(job=GridJob(id="5", attempt=n), state=JobState.RUNNING) for n in (1, 2)]
    odd = GridProgress(job=GridJob(id="?"), state=JobState.RUNNING)

    stops = beats.beat([*both, odd], Budget(5))

    assert [(stop.id, stop.attempt) for stop in stops] == [("5", 1), ("?", 1)]
    assert client.calls == [[(5, "running")]]


def test_a_job_of_which_cannot_be_told_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    client = Told()
    beats = PandaBeats(client, 100, lambda: 0.0)  # type: ignore[arg-type]
    client.answers[1] = UpdateAnswer(True, "Database error", UpdateData(30))
    client.answers[2] = UpdateAnswer(True, data=UpdateData(0, "tobekilled"))

    assert [stop.id for stop in beats.beat(running(1, 2), Budget(5))] == ["2"]
    assert "could not be told" in caplog.text
    with pytest.raises(SourceUnavailable, match="Database error"):
        beats.beat(running(1), Budget(5))


def test_updates_go_in_portions_that_are_neither_many_nor_long() -> None:
    small = [{"job_id": n} for n in range(120)]
    large: list[dict[str, Any]] = [{"job_id": n, "job_output_report": "x" * (3 << 20)} for n in range(3)]

    assert [len(portion) for portion in portions_of(small)] == [50, 50, 20]
    assert [len(portion) for portion in portions_of([*large, *small[:5]])] == [1, 1, 6]
    assert [one for portion in portions_of([*small, *large]) for one in portion] == [*small, *large]
    assert list(portions_of([])) == []


def test_updates_are_so_many_a_second() -> None:
    now = [0.0]
    room = UpdateBudget(10, lambda: now[0])

    taken = [room.take(1000), room.take(1000)]
    now[0] = 2.0

    assert taken == [BURST, 1]
    assert room.take(1000) in (19, 20)
