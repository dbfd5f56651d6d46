"""A command that this host's owner runs in a guest: by the running agent's door, without the centre."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO, TextIO

from broker.address import read_address
from broker.errors import BrokerError
from broker.rpc.caller import Caller
from broker.rpc.execution import Execution
from host_agent.config import HostConfig
from host_agent.errors import NotRun, UnknownVm
from host_agent.front import visiting
from host_agent.registry import VmRegistry
from schemas.execs import ExecRun, Stream
from schemas.terminal_text import TerminalText


async def run_in_guest(config: HostConfig, name: str, command: list[str]) -> int:
    """Run a command in a VM of this host's agent, its output on ours; give its exit status. Raises HostError."""
    directory, me = Path(config.directory), read_address(Path(config.credential)).user
    vm = _named(directory, name)
    shown = {Stream.STDOUT: _Shown(sys.stdout), Stream.STDERR: _Shown(sys.stderr)}

    async def show(stream: Stream, data: bytes) -> None:
        shown[stream].show(data)

    try:
        async with visiting(directory, me) as road:
            caller = Caller(road)
            await caller.open(me)
            ended = await Execution(road, caller, vm, ExecRun(command=command), show).run()
    except BrokerError as error:
        raise NotRun(f"{name}: {error}") from error
    return ended.exit_status if ended.exit_status >= 0 else 128 - ended.exit_status


def _named(directory: Path, name: str) -> str:
    registry = VmRegistry(directory / "vms.json")
    registry.load()
    found = [record.vm for record in registry.all() if name in (record.name, record.vm)]
    if len(found) != 1:
        known = ", ".join(record.name for record in registry.all()) or "none"
        raise UnknownVm(f"--vm {name}: no VM of {directory} has that name; it has: {known}")
    return found[0]


class _Shown:
    """One of our outputs: a terminal is shown text that does it no harm, anything else gets the bytes."""

    def __init__(self, sink: TextIO) -> None:
        self._sink: TextIO = sink
        self._octets: BinaryIO = sink.buffer
        self._text = TerminalText(is_marked=False) if sink.isatty() else None

    def show(self, data: bytes) -> None:
        if self._text is not None:
            self._sink.write(self._text.take(data))
            self._sink.flush()
        else:
            self._octets.write(data)
            self._octets.flush()
