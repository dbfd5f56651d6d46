"""Commands in a VM, much and often: 100 MB through one both ways, and 200 of them one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.running import System, running
from tests.system.test_execs import check_both_ways

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cloud() -> Iterator[System]:
    with running("--hypervisor", "process", "--vms", "1") as system:
        yield system


def test_a_hundred_megabytes_both_ways(cloud: System, tmp_path: Path) -> None:
    check_both_ways(cloud, tmp_path / "data", 100)


def test_two_hundred_commands_have_their_own_exit_status(cloud: System) -> None:
    with cloud.client() as client:
        statuses = [client.execs.run("worker-1", ["sh", "-c", "exit 3"]).exit_status for _ in range(200)]

    assert statuses == [3] * 200
