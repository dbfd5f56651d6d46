"""Calls that copy files. A path on this side is the user's who runs the door: what he may read and write, a caller may,
or what is in one directory of his."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath
from typing import Any

from broker.errors import BrokerError, TransferFailed
from volcloud.errors import BadInput, VolcloudError
from volcloud.telling import judge
from volcloud.xmlrpc.faults import FaultCode, fault
from volcloud.xmlrpc.method import Generation, Room, method
from volcloud.xmlrpc.names import live_vm

#: Exit status of a transfer that failed, as that of a tool.
FAILED = 1


async def cp_file_to_vm(
    room: Room, vm: str, path_to_local_file_name: str, path_to_remote_file_name: str | None = None
) -> list[Any]:
    """Send a file into a VM's file area, by default under its own name: [out, err, status], status 0 once it is there
    whole. A transfer that fails has status 1 and says in err why; a VM that cannot be reached is a fault."""
    row = await live_vm(room.client, vm)
    local = await asyncio.to_thread(_local, room, path_to_local_file_name)
    remote = path_to_remote_file_name or local.name
    try:
        await room.client.files.push(local, row.status.vm, remote)
    except (TransferFailed, BadInput, OSError) as error:
        return ["", _told(error), FAILED]
    return ["", "", 0]


async def cp_file_from_vm(
    room: Room, vm: str, path_to_remote_file_name: str, path_to_local_file_name: str | None = None
) -> list[Any]:
    """Take a file out of a VM's file area; into the directory that is named, or by default into that in which the door
    was started, under its own name: [out, err, status], as with cpFileToVM. What was there is replaced."""
    row = await live_vm(room.client, vm)
    name = PurePosixPath(path_to_remote_file_name).name
    if name in ("", ".."):
        text = f"pathToRemoteFileName = {path_to_remote_file_name!r}: names no file"
        raise fault(FaultCode.BAD_ARGUMENT, text, "give the path of one below the VM's file area")
    local = await asyncio.to_thread(_target, room, path_to_local_file_name or name, name)
    try:
        await room.client.files.pull(row.status.vm, path_to_remote_file_name, local)
    except (TransferFailed, BadInput, OSError) as error:
        return ["", _told(error), FAILED]
    return ["", "", 0]


def _local(room: Room, path: str) -> Path:
    """Give the path that is meant. Raises Fault where it may not be."""
    if not path or "\0" in path:
        raise fault(FaultCode.BAD_ARGUMENT, f"path = {path!r}: is no path of a file", "give one")
    try:
        found = (room.directory / path).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise fault(FaultCode.BAD_ARGUMENT, f"path = {path!r}: {error}", "give another") from error
    if room.files is not None and not found.is_relative_to(room.files):
        text = f"path = {path!r}: leads out of {room.files}, where this door's files are"
        raise fault(FaultCode.FORBIDDEN, text, "put the file there, or start the door with another --files")
    return found


def _target(room: Room, path: str, name: str) -> Path:
    found = _local(room, path)
    return _local(room, str(found / name)) if found.is_dir() else found


def _told(error: BrokerError | VolcloudError | OSError) -> str:
    failure = judge(error)
    return "; ".join(filter(None, (failure.message, failure.next_step)))


METHODS = [
    method("cpFileToVM", Generation.BOTH, cp_file_to_vm),
    method("cpFileFromVM", Generation.BOTH, cp_file_from_vm),
]
