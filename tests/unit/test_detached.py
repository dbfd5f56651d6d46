"""Commands without a console: followed as often as wanted, by one at a time, by who began them, and bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.errors import RemoteError
from guest_agent import detached
from guest_agent.execs import Execs
from schemas.envelope import Done
from schemas.errors import ErrorCode
from schemas.execs import ExecAttach, ExecDetach, ExecEnded, ExecKill, ExecList, ExecRow, ExecRows, ExecRun, ExecState
from schemas.ids import uuid7
from tests.broker.polling import until
from tests.unit.exec_guest import SOON, VM, Console, exec_guest
from tests.unit.test_execs import alive


async def begin(console: Console, *command: str) -> str:
    order = ExecDetach(id=uuid7(), command=[*command])
    await console.caller.call(VM, order, Done)
    return order.id


async def follow(console: Console, exec_id: str) -> ExecEnded:
    return await console.execution(ExecAttach(exec_id=exec_id)).run()


async def rows(console: Console) -> list[ExecRow]:
    return (await console.caller.call(VM, ExecList(), ExecRows)).commands


async def test_a_detached_command_is_followed_to_its_end_and_again_after_it(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        exec_id = await begin(console, "sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two; exit 3")
        following = asyncio.ensure_future(follow(console, exec_id))
        await until(lambda: console.out == b"one\n")
        (running,) = await rows(console)
        (tmp_path / "files" / "go").touch()
        first = await following
        again = await guest.console()
        second = await follow(again, exec_id)
        (ended,) = await rows(console)

    assert (first.exit_status, console.out) == (3, b"one\ntwo\n")
    assert (second.exit_status, again.out) == (3, b"one\ntwo\n")
    assert (running.state, running.id, running.principal, running.exit_status) == (
        ExecState.RUNNING,
        exec_id,
        "console-ada",
        None,
    )
    assert (ended.state, ended.exit_status) == (ExecState.ENDED, 3)


async def test_much_output_comes_whole_under_the_consoles_window(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        exec_id = await begin(console, "seq", "300000")
        ended = await follow(console, exec_id)

    assert ended.exit_status == 0
    assert console.out == b"".join(b"%d\n" % n for n in range(1, 300_001))


async def test_a_second_who_attaches_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        exec_id = await begin(console, "sh", "-c", "echo begun; exec sleep 4713.1")
        first = console.execution(ExecAttach(exec_id=exec_id))
        following = asyncio.ensure_future(first.run())
        await until(lambda: console.out == b"begun\n")
        with pytest.raises(RemoteError) as caught:
            await follow(console, exec_id)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        third = asyncio.ensure_future(follow(console, exec_id))
        await console.caller.call(VM, ExecKill(exec_id=exec_id, signal=15), Done)

        assert (await third).exit_status == 143
        assert not alive("4713.1")

    assert caught.value.code == ErrorCode.CONFLICT
    assert f"id = {exec_id}: somebody has been attached to it" in caught.value.message
    assert caught.value.hint


async def test_who_stops_to_follow_does_not_end_it(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        exec_id = await begin(console, "sleep", "4713.2")
        following = asyncio.ensure_future(follow(console, exec_id))
        await until(lambda: bool(alive("4713.2")))
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        (row,) = await rows(console)

        assert row.state is ExecState.RUNNING
        await console.caller.call(VM, ExecKill(exec_id=exec_id, signal=9), Done)
        await until(lambda: not alive("4713.2"))


async def test_only_who_began_it_may_follow_and_kill_it(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console, other = await guest.console(), await guest.console("console-eve")
        exec_id = await begin(console, "sleep", "4713.3")
        for order in (ExecAttach(exec_id=exec_id), ExecKill(exec_id=exec_id, signal=9)):
            with pytest.raises(RemoteError, match="console-ada began it, and console-eve may not") as caught:
                await other.caller.call(VM, order, ExecEnded)
            assert caught.value.code == ErrorCode.FORBIDDEN
        assert [row.principal for row in await rows(other)] == ["console-ada"]


async def test_an_id_that_nobody_knows_is_named(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        exec_id = uuid7()
        for order in (ExecAttach(exec_id=exec_id), ExecKill(exec_id=exec_id, signal=9)):
            with pytest.raises(RemoteError, match=f"id = '{exec_id}'") as caught:
                await console.caller.call(VM, order, ExecEnded)
            assert (caught.value.code, bool(caught.value.hint)) == (ErrorCode.NOT_FOUND, True)


async def test_what_an_agent_leaves_is_interrupted_and_its_output_kept(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        exec_id = await begin(console, "sh", "-c", "echo said; sleep 4713.4")
        following = asyncio.ensure_future(follow(console, exec_id))
        await until(lambda: console.out == b"said\n")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        # A second agent on the same directory, as after a kill of the first: it reads what that has left.
        left = {row.id: row for row in Execs(tmp_path / "files", patience=SOON)._detached.rows()}
        await console.caller.call(VM, ExecKill(exec_id=exec_id, signal=9), Done)

    assert left[exec_id].state is ExecState.INTERRUPTED
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        (row,) = await rows(console)
        assert row.id == exec_id


async def test_as_many_run_as_may_and_as_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "MOST_RUNNING", 2)
    monkeypatch.setattr(detached, "MOST_ENDED", 2)
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        sleepers = [await begin(console, "sleep", "4713.5") for _ in range(2)]
        with pytest.raises(RemoteError, match="2 may run in a VM at once") as caught:
            await begin(console, "true")
        for exec_id in sleepers:
            await console.caller.call(VM, ExecKill(exec_id=exec_id, signal=9), Done)
            await follow(console, exec_id)
        newest = []
        for _ in range(3):
            newest.append(await begin(console, "true"))
            await follow(console, newest[-1])

        assert [row.id for row in await rows(console)] == newest[-2:]
        assert sorted(path.name for path in (tmp_path / "detached").iterdir()) == sorted(newest[-2:])
    assert caught.value.hint


async def test_a_disk_that_takes_nothing_refuses_a_detached_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(detached.DetachedCommand, "write", full)
            with pytest.raises(RemoteError, match="does not take what the command would print") as caught:
                await begin(console, "true")

        assert await rows(console) == []
    assert caught.value.code == ErrorCode.STORE


async def test_a_command_with_a_console_is_listed_and_killed_too(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        order = ExecRun(command=["sleep", "4713.6"])
        running = asyncio.ensure_future(console.execution(order).run())
        await until(lambda: bool(alive("4713.6")))
        (row,) = await rows(console)
        await console.caller.call(VM, ExecKill(exec_id=order.id, signal=15), Done)

        assert (row.id, row.is_detached, row.command) == (order.id, False, ["sleep", "4713.6"])
        assert (await running).exit_status == 143
