"""Whether a source's jobs are short, and when is looked again."""

from __future__ import annotations

from adapters.sources.pace import SHORT_S, LookPauses, RecentJobs


def test_before_any_job_has_ended_none_is_taken_for_short() -> None:
    assert not RecentJobs().are_short


def test_one_short_job_tells_and_so_does_one_long_one() -> None:
    jobs = RecentJobs()

    jobs.learn(0.01)
    assert jobs.are_short
    jobs.learn(3600.0)
    assert not jobs.are_short
    jobs.learn(0.01)
    assert jobs.are_short


def test_jobs_that_grow_longer_are_short_until_one_takes_as_long() -> None:
    jobs = RecentJobs()
    for took_s in (0.1, 0.2, 0.3, 0.4, SHORT_S - 0.01):
        jobs.learn(took_s)
        assert jobs.are_short

    jobs.learn(SHORT_S)

    assert not jobs.are_short


def test_looks_are_soon_and_then_ever_more_seldom_up_to_a_bound() -> None:
    looks = LookPauses(0.05)
    first = [looks.pause_s(0.3) for _ in range(6)]
    looks.soon()

    assert first == [0.05, 0.1, 0.2, 0.3, 0.3, 0.3]
    assert looks.pause_s(0.3) == 0.05
