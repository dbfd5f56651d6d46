"""Commands in a VM, much and long: 100 MB both ways, 200 one after the other, a shell whose console is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.running import System, running, until
from tests.system.test_execs import asleep, at, check_both_ways, child_of

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


def test_a_shell_whose_console_is_killed_leaves_nothing_in_the_vm(cloud: System) -> None:
    with at(cloud, "worker-1", "sh", "-i") as somebody:
        somebody.type("sleep 4712.4 & sleep 4712.4\r")
        until(lambda: asleep("4712.4"), "it sleeps")
        os.kill(child_of(somebody.process.pid), signal.SIGKILL)
        somebody.ends()

        until(lambda: not asleep("4712.4"), "nothing is left", 90)
