"""Calls that run commands in VMs."""

from __future__ import annotations

from typing import Any, NoReturn

from volcloud.xmlrpc.faults import FaultCode, fault
from volcloud.xmlrpc.method import Generation, Room, method

#: Arguments of a command, as the original took them; numbers become text.
Words = list[str | int | float]


async def run_cmd(
    room: Room,
    to_vm_name: str,
    cmd: str,
    args: Words | str = "",
    env: dict[str, str] | str = "",
    path: str | None = None,
    file_for_stdin: str = "",
) -> str | list[str]:
    """Start a command in a VM: its id. This release starts no commands that go on by themselves."""
    _refuse()


async def list_finished_cmds(room: Room) -> list[str]:
    """The ids of commands that have ended. This release starts no commands that go on by themselves."""
    _refuse()


async def get_cmd_results(room: Room, cmd_id: str) -> dict[str, Any] | str:
    """What a command printed and how it ended. This release starts no commands that go on by themselves."""
    _refuse()


async def get_cmd_details(room: Room, cmd_id: str) -> str:
    """What was asked for, as JSON. This release starts no commands that go on by themselves."""
    _refuse()


def _refuse() -> NoReturn:
    raise fault(
        FaultCode.UNSUPPORTED, "this release starts no commands that go on by themselves", "use `volcloud vm run`"
    )


METHODS = [
    method("runCmd", Generation.BOTH, run_cmd),
    method("listFinishedCmds", Generation.BOTH, list_finished_cmds),
    method("getCmdResults", Generation.BOTH, get_cmd_results),
    method("getCmdDetails", Generation.FIRST, get_cmd_details),
]
