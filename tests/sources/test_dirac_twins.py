"""Twenty jobs of a real DiracX for two adapters, while adapters, ledger and grid are killed; ``make long`` has more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.ledger_fixtures import Cluster, cluster
from tests.sources.twins import demand_each_done_once

__all__ = ["cluster"]


@pytest.mark.timeout(900)
def test_each_of_twenty_jobs_is_done_once_by_two_adapters(cluster: Cluster, tmp_path: Path) -> None:
    demand_each_done_once(cluster, tmp_path, 20)
