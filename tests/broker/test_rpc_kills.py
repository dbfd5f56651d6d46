"""kill -9 of an agent between acknowledgement and work, between work and answer: run once, or told as interrupted."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.address import Address, write_address
from broker.connection import Connection
from broker.errors import RemoteError
from broker.rpc import caller as caller_module
from broker.rpc.caller import Caller
from schemas.envelope import Done
from schemas.errors import ErrorCode
from schemas.vms import VmPause

Mint = Callable[..., Address]


async def start(address: Address, directory: Path, step: str) -> Process:
    write_address(directory / "credential", address)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.broker.dying_agent", str(directory / "credential"), str(directory), step)
    )


@pytest.mark.parametrize(
    ("step", "outcome"),
    [("before the work", "done"), ("after the work", "interrupted"), ("before the answer", "done")],
)
async def test_a_command_is_run_once_or_said_to_be_interrupted(
    mint: Mint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, outcome: str
) -> None:
    monkeypatch.setattr(caller_module, "STATE_EVERY_S", 0.3)
    host, console = mint("host"), mint("console")
    agent = await start(host, tmp_path, step)
    async with Connection(console, name="console") as connection:
        caller = Caller(connection)
        await caller.open(console.user)
        call = asyncio.ensure_future(caller.call(host.user, VmPause(vm="vm-1"), Done))

        assert await asyncio.wait_for(agent.wait(), 30) == -9
        successor = await start(host, tmp_path, step)
        try:
            said = await outcome_of(call)
        finally:
            successor.kill()
            await successor.wait()

    assert said == outcome
    assert (tmp_path / "effects").read_text() == "ran\n"


async def outcome_of(call: asyncio.Future[Done]) -> str:
    try:
        await asyncio.wait_for(call, 30)
    except RemoteError as error:
        assert error.code == ErrorCode.INTERRUPTED  # noqa: PT017  its code is what is asked
        return "interrupted"
    return "done"
