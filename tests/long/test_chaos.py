"""Two thousand jobs under the monkey, on each database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.ledger_fixtures import Cluster, cluster
from tests.system.chaos import chaos, seed_of_this_run

__all__ = ["cluster"]

pytestmark = pytest.mark.long

JOBS = 2000


def test_each_of_2000_jobs_is_done_once_on_sqlite(tmp_path: Path) -> None:
    seed = seed_of_this_run()

    assert chaos(tmp_path, seed, JOBS, (2.0, 5.0)) == [], f"CHAOS_SEED={seed} runs the same monkey again"


def test_each_of_2000_jobs_is_done_once_on_postgresql(cluster: Cluster, tmp_path: Path) -> None:
    seed = seed_of_this_run()
    url = cluster.create("template1").replace("postgresql://", "postgresql+psycopg://")

    faults = chaos(tmp_path, seed, JOBS, (2.0, 5.0), "--ledger", url)

    assert faults == [], f"CHAOS_SEED={seed} runs the same monkey again"
