"""Waiting for jobs outlasts a centre that is away for a while; a question that nobody answers at all ends at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from broker.errors import Disconnected
from schemas.description import JobDescription
from schemas.ids import JobRef
from schemas.ledger import JobEvent, JobRecord, JobRow, Jobs, JobState
from volcloud.centre_calls import CentreCalls
from volcloud.commands import waiting
from volcloud.errors import Unreachable

ROW = JobRow(number=1, job=JobRef("console-a/j.1"), state=JobState.DONE, attempt=1)
AWAY = Disconnected("no broker in 9 s")


class Answering:
    """A caller whose answers are given; an error is raised."""

    def __init__(self, *answers: Jobs | JobRecord | Exception) -> None:
        self._answers: Iterator[Jobs | JobRecord | Exception] = iter(answers)

    async def call_centre(self, *_: Any, **__: Any) -> Any:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def counted(state: JobState) -> Jobs:
    return Jobs(call="c", jobs=[ROW], counts={state.value: 1})


async def test_a_broker_that_is_away_while_jobs_are_waited_for_is_told_and_waited_for() -> None:
    running, done = counted(JobState.RUNNING), counted(JobState.DONE)
    centre = CentreCalls(Answering(running, AWAY, AWAY, running, AWAY, done, AWAY, done))  # type: ignore[arg-type]
    troubles: list[Unreachable] = []

    rows = await centre.wait("j", on_trouble=troubles.append)

    assert rows == [ROW]
    assert [one.message for one in troubles] == ["the broker did not take the question: no broker in 9 s"] * 4


async def test_a_centre_that_never_answered_is_not_waited_for() -> None:
    with pytest.raises(Unreachable, match="no broker in 9 s"):
        await CentreCalls(Answering(AWAY)).wait("j")  # type: ignore[arg-type]


async def test_a_centre_that_stays_away_ends_the_waiting_when_its_time_is_up() -> None:
    centre = CentreCalls(Answering(counted(JobState.RUNNING), *[AWAY] * 9))  # type: ignore[arg-type]

    with pytest.raises(Unreachable, match="no broker in 9 s"):
        await centre.wait("j", timeout_s=0.3)


def record(state: JobState, *events: str) -> JobRecord:
    told = [JobEvent(at_ms=at_ms, attempt=1, event=event, noticed_by="x") for at_ms, event in enumerate(events, 1)]
    row = msgspec.structs.replace(ROW, state=state)
    return JobRecord(call="c", job=row, description=JobDescription(id="j", executable="x"), events=told)


class Blocking:
    """What a command has of a client, over such a caller."""

    def __init__(self, *answers: Any) -> None:
        self._centre = CentreCalls(Answering(*answers))  # type: ignore[arg-type]

    def show(self, name: str, *, on_trouble: Callable[[Unreachable], None] | None = None) -> JobRecord:
        return asyncio.run(self._centre.show(name, on_trouble=on_trouble))


def test_who_follows_a_job_outlasts_a_centre_that_is_away_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "LOOK_S", 0.0)
    running, done = record(JobState.RUNNING, "assigned"), record(JobState.DONE, "assigned", "done")
    client, said = Blocking(running, AWAY, running, AWAY, AWAY, done), list[str]()

    shown = waiting.follow_one(client, "console-a/j.1", said.append)  # type: ignore[arg-type]

    assert shown.job.state is JobState.DONE
    assert [line.split("  ")[2] for line in said] == ["assigned", "done"]
    assert capsys.readouterr().err.count("the jobs and this waiting go on") == 1


def test_who_follows_a_job_of_a_centre_that_never_answered_hears_it_at_once() -> None:
    with pytest.raises(Unreachable, match="no broker in 9 s"):
        waiting.follow_one(Blocking(AWAY), "console-a/j.1", print)  # type: ignore[arg-type]
