"""Commands in a guest, with a console: input and output whole, as whom and where, and nothing left of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from broker.errors import CallTimeout, RemoteError
from broker.routes import DOWN, down
from schemas.execs import INPUT_WINDOW_BYTES, ExecInput, ExecRun, Terminal
from tests.broker.polling import until
from tests.unit.exec_guest import VM, exec_guest

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def alive(mark: str) -> list[int]:
    """Find processes by a word of their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


async def test_input_and_output_come_whole_and_in_order(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        ended = await console.run("cat", stdin=data)

    assert ended.exit_status == 0
    assert hashlib.sha256(console.out).digest() == hashlib.sha256(data).digest()


async def test_an_empty_input_has_an_end(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(30):
        console = await guest.console()
        ended = await console.run("wc", "-c", stdin=b"")

    assert (ended.exit_status, console.out.strip()) == (0, b"0")


async def test_a_command_that_ends_before_its_input_does_has_its_own_status(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(30):
        console = await guest.console()
        ended = await console.run("sh", "-c", "head -c 3; exit 3", stdin=b"abc" * 1_000_000)

    assert (ended.exit_status, console.out) == (3, b"abc")


async def test_a_command_that_reads_nothing_of_a_large_input_is_not_held_up(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(30):
        console = await guest.console()
        ended = await console.run("sh", "-c", "exec 0<&-; sleep 0.3; echo done", stdin=bytes(2_000_000))

    assert (ended.exit_status, console.out) == (0, b"done\n")


async def test_input_of_which_a_piece_was_lost_ends_the_command_and_is_said(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(30):
        console = await guest.console()
        order = ExecRun(command=["cat"], has_input=True)
        running = asyncio.ensure_future(console.execution(order).run())
        await until(lambda: any(b"exec.input_window" in one.body for one in guest.broker.published))
        await console.caller.cast(down(VM), ExecInput(call=order.id, number=2, data=b"third"))

        with pytest.raises(RemoteError, match="2 pieces of its standard input were lost") as caught:
            await running

    assert caught.value.hint


async def test_input_beyond_what_was_allowed_ends_the_command(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(30):
        console = await guest.console()
        order = ExecRun(command=["sleep", "77.31"], has_input=True)
        running = asyncio.ensure_future(console.execution(order).run())
        await until(lambda: any(b"exec.input_window" in one.body for one in guest.broker.published))
        for number in range(2):
            await console.caller.cast(down(VM), ExecInput(call=order.id, number=number, data=bytes(INPUT_WINDOW_BYTES)))

        with pytest.raises(RemoteError, match="were allowed"):
            await running


async def test_a_death_by_signal_and_an_exit_status_are_the_shells(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        killed = await console.run("sh", "-c", "kill -9 $$")
        others = {(await console.run("sh", "-c", "exit 3")).exit_status for _ in range(20)}

    assert (killed.exit_status, others) == (137, {3})


async def test_what_a_command_leaves_ends_with_it_in_whatever_session(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        script = "setsid sleep 4711.1 & setsid sh -c 'sleep 4711.1 & sleep 4711.1' & sleep 0.3"
        ended = await console.run("sh", "-c", script)

        assert (ended.exit_status, alive("4711.1")) == (0, [])


async def test_a_command_that_kills_its_own_parent_leaves_nothing_either(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        with pytest.raises(RemoteError, match="parent was killed"):
            await console.run("sh", "-c", "sleep 4711.2 & kill -9 $PPID; setsid sleep 4711.2")

        await until(lambda: not alive("4711.2"))


async def test_the_use_of_a_command_is_of_it_alone(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        idle = await console.run("true")
        busy = await console.run("python3", "-S", "-c", "x = bytearray(64 << 20); sum(range(3_000_000))")

    assert idle.cpu_seconds < busy.cpu_seconds
    assert idle.peak_rss_bytes < 25 << 20
    assert 64 << 20 < busy.peak_rss_bytes < 128 << 20
    assert 0 <= busy.system_seconds <= busy.cpu_seconds


@AS_ROOT
async def test_a_command_runs_as_a_user_of_the_guest(tmp_path: Path) -> None:
    entry = pwd.getpwnam("nobody")
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        await console.run("sh", "-c", "id -u; id -g; echo $USER $LOGNAME; cat /etc/shadow || pwd", user="nobody")

    assert console.out.decode().split("\n")[:3] == [str(entry.pw_uid), str(entry.pw_gid), "nobody nobody"]
    assert b"root:" not in console.out


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"user": "nobody-of-that-name"}, "user = 'nobody-of-that-name': this VM has no such user"),
        ({"directory": "/no/such"}, "directory = '/no/such': No such file or directory"),
        ({"directory": "../out"}, "path = '../out'"),
        ({"environment": {"A": "b\0c"}}, "NUL"),
        ({"environment": {"A=B": "c"}}, "environment = 'A=B': a variable's name must not be empty, nor hold '='"),
        ({"environment": {"": "c"}}, "environment = ''"),
        ({"environment": {"A\0B": "c"}}, "environment = 'A\\x00B'"),
        ({"directory": "/tmp\0"}, "directory = '/tmp\\x00': must not hold a NUL"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_field_and_the_value(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        with pytest.raises(RemoteError) as caught:
            await console.run("true", **fields)

    assert said in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("script", "said", "hint"),
    [
        (["no-such-program"], "there is no such program in this VM", "volcloud vm push"),
        (["/tmp"], "command = '/tmp': it may not be executed", "executable"),
        (["./text"], "command = './text': Exec format error", "#!"),
        (["true", "x" * (1 << 18)], "command = 'true': Argument list too long", "push"),
        (["sh", "-c", "kill -9 $PPID; sleep 60"], "parent was killed", "run it again"),
    ],
)
async def test_what_could_not_be_run_is_named_with_what_to_do(
    tmp_path: Path, script: list[str], said: str, hint: str
) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    text.chmod(0o755)
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        with pytest.raises(RemoteError, match=said) as caught:
            await console.run(*script, directory=str(tmp_path))

    assert hint in caught.value.hint


async def test_the_time_of_a_short_command_is_its_own(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        await console.run("true")
        ended = await console.run("true")

    assert ended.cpu_seconds <= ended.wall_seconds + 0.01
    assert 0.0002 < ended.wall_seconds < 30


async def test_another_user_is_refused_where_the_agent_is_not_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        with pytest.raises(RemoteError, match="the agent in this VM is not root"):
            await console.run("true", user="nobody")


async def test_a_terminal_is_of_the_size_of_the_persons_and_follows_it(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        order = ExecRun(
            command=["sh", "-c", "tty; echo $TERM; stty size; read x; stty size; exit 5"],
            has_input=True,
            terminal=Terminal(rows=50, columns=132, kind="xterm"),
        )
        waiting = asyncio.Event()

        class Late:
            async def read(self, most: int) -> bytes:
                await waiting.wait()
                waiting.clear()
                return b"go\n"

            def close(self) -> None: ...

        execution = console.execution(order, source=Late())
        running = asyncio.ensure_future(execution.run())
        await until(lambda: b"50 132" in console.out)
        await execution.resize(20, 77)
        waiting.set()
        ended = await running

    lines = console.out.decode().split("\r\n")
    assert ended.exit_status == 5
    assert lines[0].startswith("/dev/pts/")
    assert lines[1:3] == ["xterm", "50 132"]
    assert "20 77" in lines


async def test_all_of_a_session_ends_with_its_leader(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest, asyncio.timeout(60):
        console = await guest.console()
        script = "set -m; sleep 4711.3 & setsid sleep 4711.3 & nohup sleep 4711.3 & sleep 0.3; exit 4"
        ended = await console.run("sh", "-c", script, terminal=Terminal())

        assert (ended.exit_status, alive("4711.3")) == (4, [])


async def test_a_command_that_nobody_takes_up_in_time_never_begins(tmp_path: Path) -> None:
    async with exec_guest(tmp_path) as guest:
        console = await guest.console()
        guest.carrier.cut()
        with pytest.raises(CallTimeout, match="does not answer"):
            await console.execution(ExecRun(command=["true"]), patience_s=0.2).run()
        ordered = [message for _, message in console.carrier.sent_to(DOWN) if isinstance(message, ExecRun)]

    assert ordered[0].deadline_ms is not None
    assert ordered[0].deadline_ms < console.caller.now_ms
