"""Waiting for jobs outlasts a centre that is away for a while; a question that nobody answers at all ends at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from broker.errors import Disconnected
from console.centre_calls import CentreCalls
from console.errors import Unreachable
from schemas.ids import JobRef
from schemas.ledger import JobRow, Jobs, JobState

ROW = JobRow(number=1, job=JobRef("console-a/j.1"), state=JobState.DONE, attempt=1)
AWAY = Disconnected("no broker in 9 s")


class Answering:
    """A caller whose answers are given; an error is raised."""

    def __init__(self, *answers: Jobs | Exception) -> None:
        self._answers: Iterator[Jobs | Exception] = iter(answers)

    async def ask(self, *_: Any, **__: Any) -> Any:
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
