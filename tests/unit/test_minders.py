"""Minders: one waits for the next command, whoever kills it, with nothing of the last one; and none is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest_agent.errors import CannotRun
from guest_agent.exec_user import find_user
from guest_agent.minded import MindedCommand, Streams
from guest_agent.minders import Minders
from guest_agent.process_tree import descendants
from tests.broker.polling import until

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
ENVIRONMENT = {"PATH": "/nowhere:/usr/bin:/bin"}


@pytest.fixture
def minders() -> Iterator[Minders]:
    one = Minders()
    yield one
    one.close()


async def run(
    minders: Minders, directory: Path, script: str = "exit 3", *, user: str = "", late_signal: int = 0
) -> int:
    """Run a command to its end and give its exit status; signal it when it has ended, if that is asked for."""
    null = os.open(os.devnull, os.O_RDWR)
    leader = MindedCommand(minders, ["sh", "-c", script], directory, find_user(user) if user else None)
    try:
        await leader.start(ENVIRONMENT, Streams(stdin=null, stdout=null, stderr=null))
        ended = await leader.ended
        if late_signal and leader._socket is not None:
            leader._socket.send(b'{"signal": %d}' % late_signal)
        return ended.code
    finally:
        os.close(null)
        leader.close()


def forge_and_spares(minders: Minders) -> tuple[int, list[int]]:
    assert minders._process is not None
    forge = minders._process.pid
    return forge, [pid for pid in descendants(forge) if pid != forge]


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_a_minder_has_one_command_after_another_and_ends_with_the_agents_socket(
    minders: Minders, tmp_path: Path
) -> None:
    assert await run(minders, tmp_path) == 3
    forge, (spare,) = forge_and_spares(minders)
    files = open_files(spare)

    for _ in range(20):
        assert await run(minders, tmp_path) == 3
        with pytest.raises(CannotRun):
            await run(minders, tmp_path / "not-there")
    assert forge_and_spares(minders) == (forge, [spare])
    await until(lambda: open_files(spare) <= files)
    minders.close()

    await until(lambda: not Path(f"/proc/{spare}").exists() and not Path(f"/proc/{forge}").exists())


async def test_commands_at_once_have_a_minder_each_and_one_is_kept(minders: Minders, tmp_path: Path) -> None:
    started = tmp_path / "started"
    script = f"echo >> {started}; while [ $(wc -l < {started}) -lt 3 ]; do sleep 0.05; done"

    assert await asyncio.gather(*(run(minders, tmp_path, script) for _ in range(3))) == [0, 0, 0]

    await until(lambda: len(forge_and_spares(minders)[1]) == 1)


async def test_a_signal_that_comes_late_is_not_the_next_commands(minders: Minders, tmp_path: Path) -> None:
    assert await run(minders, tmp_path, late_signal=signal.SIGTERM) == 3
    _, before = forge_and_spares(minders)

    assert await run(minders, tmp_path, "sleep 0.1; exit 4") == 4
    assert forge_and_spares(minders)[1] == before


async def test_a_minder_that_has_grown_for_a_command_has_no_other(minders: Minders, tmp_path: Path) -> None:
    assert await run(minders, tmp_path) == 3
    _, (before,) = forge_and_spares(minders)

    with pytest.raises(CannotRun, match="Argument list too long"):
        await run(minders, tmp_path, "x " * (2 << 20))

    await until(lambda: not Path(f"/proc/{before}").exists())
    assert await run(minders, tmp_path) == 3


async def test_a_minder_that_waits_holds_no_directory(minders: Minders, tmp_path: Path) -> None:
    assert await run(minders, tmp_path) == 3
    _, (spare,) = forge_and_spares(minders)

    await until(lambda: Path(f"/proc/{spare}/cwd").readlink() == Path("/"))


async def test_a_minder_that_is_full_of_signals_keeps_no_command_from_running(minders: Minders, tmp_path: Path) -> None:
    assert await run(minders, tmp_path) == 3
    _, (spare,) = forge_and_spares(minders)
    os.kill(spare, signal.SIGSTOP)
    await until(lambda: "State:\tT" in Path(f"/proc/{spare}/status").read_text())
    assert minders._spare is not None
    with contextlib.suppress(BlockingIOError):
        while True:
            minders._spare.send(b'{"signal": 15}')

    assert await run(minders, tmp_path) == 3
    os.kill(spare, signal.SIGKILL)


@AS_ROOT
async def test_who_a_command_was_is_not_who_the_next_one_is(minders: Minders, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    groups, said = os.getgroups(), tmp_path / "said"
    os.setgroups([7, 8])
    try:
        assert await run(minders, tmp_path) == 3
        _, (before,) = forge_and_spares(minders)
        assert await run(minders, Path("/"), user="nobody") == 3
        await until(lambda: not Path(f"/proc/{before}").exists())
        assert await run(minders, tmp_path, f"(id -u; id -G; pwd) > {said}") == 0
    finally:
        os.setgroups(groups)

    uid, ids, directory = said.read_text().splitlines()
    assert (uid, {*ids.split()} - {str(os.getgid())}, directory) == ("0", {"7", "8"}, str(tmp_path))


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
