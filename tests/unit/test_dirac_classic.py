"""DIRAC's own matcher by a program: what a good one gives, and that a bad one is ended and said so, in time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from adapters.errors import SourceUnavailable
from adapters.sources.contract import Acquired, Offer
from adapters.sources.dirac.classic import ClassicMatcher, MatcherProgram
from adapters.sources.dirac.client import DiracRow
from adapters.sources.dirac.jobs import kept_of
from adapters.sources.dirac.settings import DiracSettings
from adapters.sources.http import Budget
from schemas.jobs import Machine

FAKE = str(Path(__file__).parents[1] / "sources" / "fake_matcher.py")
MACHINE = Machine(cpus=4, memory_mib=8000, disk_mib=1000, platform="linux-x86_64", features=["GPU"], slots=4)


def look(jobs: Sequence[int], budget: Budget) -> dict[int, DiracRow]:
    return {job: DiracRow(job, "Matched", reschedule_time="then") for job in jobs}


def matcher(manner: str) -> ClassicMatcher:
    settings = DiracSettings(matcher="classic", matcher_command=[sys.executable, FAKE, manner], site="CLOUD.V.org")
    return ClassicMatcher(look, settings)


@pytest.fixture
def good() -> Iterator[ClassicMatcher]:
    one = matcher("good")
    yield one
    one.close()
    one.close()


def acquire(one: ClassicMatcher, most: int = 5, slots: int = 4) -> list[Acquired]:
    return one.acquire([Offer(MACHINE, slots)], most, "", Budget(20))


def test_the_matchers_jobs_are_given_as_it_names_them(good: ClassicMatcher) -> None:
    found = acquire(good)

    assert [(one.job.id, one.job.attempt, one.work.executable) for one in found] == [
        ("40", 2, "job0"),
        ("41", 2, "job1"),
        ("42", 2, "job2"),
    ]
    assert kept_of(found[0].job).rescheduled == "then"


def test_no_more_is_asked_for_than_there_are_slots_or_than_is_wanted(good: ClassicMatcher) -> None:
    assert len(acquire(good, most=5, slots=2)) == 2
    assert len(acquire(good, most=1, slots=4)) == 1


def test_one_program_answers_all_questions(good: ClassicMatcher) -> None:
    acquire(good)
    first = good._program._process.pid
    acquire(good)

    assert good._program._process.pid == first


def test_it_is_told_what_the_machine_has() -> None:
    one = matcher("asked")
    [found] = acquire(one)
    one.close()

    assert "CLOUD.V.org" in " ".join(found.work.arguments)
    assert "MaxRAM" in " ".join(found.work.arguments)


def test_what_the_matcher_gave_is_ours_whatever_comes_after_it() -> None:
    def away(jobs: Sequence[int], budget: Budget) -> dict[int, DiracRow]:
        raise SourceUnavailable("the token has expired")

    settings = DiracSettings(matcher="classic", matcher_command=[sys.executable, FAKE, "midst"], site="CLOUD.V.org")
    one = ClassicMatcher(away, settings)
    found = one.acquire([Offer(MACHINE, 4), Offer(MACHINE, 4)], 8, "", Budget(20))
    one.close()

    assert [one.job.id for one in found] == ["40", "41", "42"]
    assert kept_of(found[0].job).rescheduled == ""


def test_a_flawed_description_is_given_with_its_flaw() -> None:
    one = matcher("flawed")
    [found] = acquire(one)
    one.close()

    assert found.work is None
    assert "CPUTime" in found.flaw


@pytest.mark.parametrize("manner", ["nonsense", "another", "ends", "endless"])
def test_a_program_that_makes_no_sense_is_ended(manner: str) -> None:
    one = matcher(manner)

    with pytest.raises(SourceUnavailable, match="program") as caught:
        acquire(one)

    assert one._program._process is None
    assert len(str(caught.value)) < 500


def test_an_error_of_the_matcher_is_said_and_the_program_stays() -> None:
    one = matcher("error")

    with pytest.raises(SourceUnavailable, match="no match") as caught:
        acquire(one)

    assert str(caught.value).isprintable()
    assert one._program._process.poll() is None
    one.close()


def test_a_program_that_does_not_answer_is_ended_in_time() -> None:
    program = MatcherProgram([sys.executable, FAKE, "silent"], answer_s=0.5)
    began = time.monotonic()

    with pytest.raises(SourceUnavailable, match="does not answer"):
        program.ask({"do": "match", "most": 1}, Budget(20))

    assert time.monotonic() - began < 5
    assert program._process is None


def test_a_program_that_is_not_there_is_said() -> None:
    with pytest.raises(SourceUnavailable, match="No such file"):
        MatcherProgram(["/nowhere/matcher"]).ask({"do": "match", "most": 1}, Budget(5))
