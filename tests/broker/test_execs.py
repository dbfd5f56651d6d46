"""Commands in a guest over a real broker: a console that is gone takes its command along, one that returns does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from broker.address import Address
from broker.connection import Connection
from broker.routes import queue_of
from broker.rpc import Journal, Responder
from broker.rpc.caller import Caller
from broker.rpc.clock import wall_clock
from broker.rpc.execution import Execution
from guest_agent.console_stream import ConsolePatience
from guest_agent.execs import Execs
from schemas.execs import ExecEnded, ExecRun, Stream
from tests.broker.polling import until

Mint = Callable[..., Address]
SOON = ConsolePatience(probe_every_s=0.2, gone_after_s=1.0)


@asynccontextmanager
async def guest(address: Address, directory: Path, patience: ConsolePatience = SOON) -> AsyncIterator[Execs]:
    connection = Connection(address, name="guest")
    journal = Journal(directory / "journal")
    journal.open()
    execs = Execs(directory / "files", patience=patience)
    responder = Responder(connection, journal, execs.handlers(), clock=wall_clock())
    await connection.consume(queue_of(address.user), responder.on_delivery)
    await connection.open()
    try:
        yield execs
    finally:
        await responder.close()
        await execs.close()
        await connection.close()
        await journal.close()


@asynccontextmanager
async def console(address: Address) -> AsyncIterator[tuple[Connection, Caller]]:
    async with Connection(address, name="console") as connection:
        caller = Caller(connection)
        await caller.open(address.user)
        yield connection, caller


def running(directory: Path) -> list[int]:
    """Find the processes that work in a guest's area."""
    found = []
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if cwd.readlink() == directory / "files":
                found.append(int(cwd.parent.name))
        except OSError:
            continue
    return found


async def test_a_silent_command_ends_with_its_console(mint: Mint, tmp_path: Path) -> None:
    vm, person = mint("vm"), mint("console")
    async with guest(vm, tmp_path):
        async with console(person) as (connection, caller):
            command = ExecRun(command=["sleep", "1000"])
            run = asyncio.create_task(Execution(connection, caller, vm.user, command, None).run())
            await until(lambda: bool(running(tmp_path)))
            connection._recovery.link.abandon()  # type: ignore[union-attr]  # as a killed console does, without a word
            await connection.close()
        await until(lambda: not running(tmp_path), 20)
        run.cancel()


async def test_a_command_that_writes_to_nobody_ends_with_its_console(mint: Mint, tmp_path: Path) -> None:
    vm, person = mint("vm"), mint("console")
    held = asyncio.Event()

    async def take(stream: Stream, data: bytes) -> None:
        await held.wait()

    async with guest(vm, tmp_path):
        async with console(person) as (connection, caller):
            run = asyncio.create_task(Execution(connection, caller, vm.user, ExecRun(command=["yes"]), take).run())
            await until(lambda: bool(running(tmp_path)))
            connection._recovery.link.abandon()  # type: ignore[union-attr]
            await connection.close()
        await until(lambda: not running(tmp_path), 20)
        run.cancel()


async def test_an_output_that_fails_ends_the_command_at_once(mint: Mint, tmp_path: Path) -> None:
    vm, person = mint("vm"), mint("console")

    async def take(stream: Stream, data: bytes) -> None:
        raise BrokenPipeError

    async with (
        guest(vm, tmp_path, ConsolePatience(probe_every_s=600, gone_after_s=600)),
        console(person) as (link, caller),
    ):
        ended = await asyncio.gather(
            Execution(link, caller, vm.user, ExecRun(command=["yes"]), take).run(), return_exceptions=True
        )
        await until(lambda: not running(tmp_path), 20)

    assert isinstance(ended[0], BrokenPipeError)


async def test_a_console_that_comes_back_in_time_keeps_its_command(mint: Mint, tmp_path: Path) -> None:
    vm, person = mint("vm"), mint("console")
    heard: list[bytes] = []

    async def take(stream: Stream, data: bytes) -> None:
        heard.append(data)

    script = "echo begun; sleep 3; echo done; exit 7"
    async with (
        guest(vm, tmp_path, ConsolePatience(probe_every_s=0.1, gone_after_s=60)),
        console(person) as (link, caller),
    ):
        run = asyncio.create_task(Execution(link, caller, vm.user, ExecRun(command=["sh", "-c", script]), take).run())
        await until(lambda: bool(heard))
        await link.reconnect()
        ended = await asyncio.wait_for(run, 60)

    assert isinstance(ended, ExecEnded)
    assert (ended.exit_status, b"".join(heard)) == (7, b"begun\ndone\n")
