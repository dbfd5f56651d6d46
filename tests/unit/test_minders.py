"""Minders: one waits for the next command, whoever kills it, and none is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest_agent.minded import MindedCommand, Streams
from guest_agent.minders import Minders
from guest_agent.process_tree import descendants
from tests.broker.polling import until

ENVIRONMENT = {"PATH": "/nowhere:/usr/bin:/bin"}


@pytest.fixture
def minders() -> Iterator[Minders]:
    one = Minders()
    yield one
    one.close()


async def run(minders: Minders, directory: Path) -> int:
    """Run a command to its end and give its exit status."""
    null = os.open(os.devnull, os.O_RDWR)
    leader = MindedCommand(minders, ["sh", "-c", "exit 3"], directory, None)
    try:
        await leader.start(ENVIRONMENT, Streams(stdin=null, stdout=null, stderr=null))
        return (await leader.ended).code
    finally:
        os.close(null)
        leader.close()


def forge_and_spares(minders: Minders) -> tuple[int, list[int]]:
    assert minders._process is not None
    forge = minders._process.pid
    return forge, [pid for pid in descendants(forge) if pid != forge]


async def test_a_minder_waits_for_the_next_command_and_ends_with_the_agents_socket(
    minders: Minders, tmp_path: Path
) -> None:
    assert await run(minders, tmp_path) == 3
    await until(lambda: len(forge_and_spares(minders)[1]) == 1)
    forge, (spare,) = forge_and_spares(minders)

    assert await run(minders, tmp_path) == 3
    await until(lambda: not Path(f"/proc/{spare}").exists())
    await until(lambda: len(forge_and_spares(minders)[1]) == 1)
    _, (next_one,) = forge_and_spares(minders)
    minders.close()

    await until(lambda: not Path(f"/proc/{next_one}").exists() and not Path(f"/proc/{forge}").exists())


async def test_a_command_runs_though_somebody_has_killed_the_minder_that_waited(
    minders: Minders, tmp_path: Path
) -> None:
    assert await run(minders, tmp_path) == 3
    await until(lambda: len(forge_and_spares(minders)[1]) == 1)
    _, (spare,) = forge_and_spares(minders)
    os.kill(spare, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{spare}").exists())

    assert await run(minders, tmp_path) == 3


async def test_commands_run_though_somebody_has_killed_the_forge(minders: Minders, tmp_path: Path) -> None:
    assert await run(minders, tmp_path) == 3
    forge, _ = forge_and_spares(minders)
    os.kill(forge, signal.SIGKILL)

    assert [await run(minders, tmp_path) for _ in range(3)] == [3, 3, 3]
