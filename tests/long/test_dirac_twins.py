"""Jobs of a real DiracX for two adapters, while adapters, ledger and grid are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.ledger_fixtures import Cluster, cluster
from tests.sources.diracx_peer import DiracxPeer, demand_diracx
from tests.sources.twins import twins
from tests.system.chaos import seed_of_this_run

__all__ = ["cluster"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]


@pytest.mark.parametrize("jobs", [20, 200])
def test_each_job_is_done_once_by_two_adapters(
    jobs: int, cluster: Cluster, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    demand_diracx()
    grid, seed = DiracxPeer(tmp_path_factory.mktemp("diracx")), seed_of_this_run()
    try:
        faults = twins(grid, cluster, tmp_path, seed, jobs)
    finally:
        grid.close()

    assert faults == [], "\n".join([f"CHAOS_SEED={seed} runs the same monkey again", *faults])
