"""Two adapters of each kind, and every process killed or stopped at random: each job is done once, and rightly."""

from __future__ import annotations

from pathlib import Path

from tests.system.chaos import chaos, seed_of_this_run

JOBS = 200


def test_each_job_is_done_once_whatever_is_killed_or_stopped(tmp_path: Path) -> None:
    seed = seed_of_this_run()

    assert chaos(tmp_path, seed, JOBS, (0.5, 1.5)) == [], f"CHAOS_SEED={seed} runs the same monkey again"
