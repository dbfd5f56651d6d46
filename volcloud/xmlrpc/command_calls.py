"""Calls that run commands in VMs. What they print is kept in the VM, so it may be read again and again."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from broker.errors import BrokerError, RemoteError
from schemas.errors import ErrorCode
from schemas.execs import ExecEnded, ExecRow, ExecState, Stream
from schemas.ledger import RegistryRow
from volcloud.errors import CommandFailed
from volcloud.xmlrpc.command_book import BookedCommand
from volcloud.xmlrpc.faults import FaultCode, fault
from volcloud.xmlrpc.marshal import text_or_bytes
from volcloud.xmlrpc.method import Generation, Room, method
from volcloud.xmlrpc.names import is_pattern, live_vm

#: Arguments of a command, as the original took them; numbers become text.
Words = list[str | int | float]
#: What the original's own wrapper sent where it meant nothing.
_NOTHING = ("", "{}", "()", "[]", "None")
#: Output that one answer may hold, bytes; a VM keeps some 16 MiB of a command's.
MOST_OUTPUT_BYTES = 32 << 20
#: VMs that are asked at once.
MOST_AT_ONCE = 16
#: Exit statuses above this are a death by a signal, of which there are so many.
_BY_SIGNAL, _SIGNALS = 128, 64
#: The original's resources: those of getrusage. What we do not measure is 0.
_USAGE = (
    *("ru_utime", "ru_stime", "ru_maxrss", "ru_ixrss", "ru_idrss", "ru_isrss", "ru_minflt", "ru_majflt"),
    *("ru_nswap", "ru_inblock", "ru_oublock", "ru_msgsnd", "ru_msgrcv", "ru_nsignals", "ru_nvcsw", "ru_nivcsw"),
)


async def run_cmd(
    room: Room,
    to_vm_name: str,
    cmd: str,
    args: Words | str = "",
    env: dict[str, str] | str = "",
    path: str | None = None,
    file_for_stdin: str | None = "",
) -> str | list[str]:
    """Start a program in a VM, which goes on by itself: its id. With a pattern of VMs, the ids, one for each VM that it
    fits; where one cannot start it, it runs in none. args are its arguments, no shell reads them; env is added to its
    environment, path is the directory in which it runs, and fileForStdin a file in the VM."""
    if not cmd:
        raise fault(FaultCode.BAD_ARGUMENT, "runCmd: cmd is empty", "give a program")
    asked = {"cmd": cmd, "args": _words(args), "env": _environment(env), "path": _or_none(path)}
    asked["fileForStdin"] = _or_none(file_for_stdin) or ""
    if not is_pattern(to_vm_name):
        return await _start(room, await live_vm(room.client, to_vm_name), asked)
    rows = await room.client.vms.find(to_vm_name)
    started: list[tuple[RegistryRow, str]] = []
    try:
        for row in rows:
            started.append((row, await _start(room, row, asked)))
    except BaseException:
        for row, command in started:
            await _end(room, row, command)
        raise
    return [command for _, command in started]


async def list_finished_cmds(room: Room) -> list[str]:
    """The ids of the commands that were started here and have ended, the oldest first. Reading a result takes none
    away; a VM keeps the last 32 for a week."""
    waited_for = await asyncio.to_thread(room.book.with_running)
    live = {row.status.vm: row for row in await room.client.vms.list()} if waited_for else {}
    turn = asyncio.Semaphore(MOST_AT_ONCE)

    async def look(vm: str, commands: list[str]) -> None:
        async with turn:
            await _note_ends(room, live.get(vm), commands)

    await asyncio.gather(*(look(vm, commands) for vm, commands in waited_for.items()))
    return await asyncio.to_thread(room.book.ended)


async def get_cmd_results(room: Room, cmd_id: str) -> dict[str, Any] | str:
    """How a command ended and what it printed: out, err, finished (false where a signal or its time limit ended it),
    exitCodeOrSignal, resources (user and system time, largest memory; the others 0), and cutBytes of output that was
    too much to keep. An empty text while it runs. What is no text of XML comes as base64."""
    booked = await _booked(room, cmd_id)
    row = await live_vm(room.client, booked.vm)
    found = next((one for one in await room.client.execs.list(booked.vm) if one.id == cmd_id), None)
    if found is None:
        await asyncio.to_thread(room.book.forget, [cmd_id])
        raise _gone(cmd_id, f"VM {row.status.name} has nothing of it any more")
    if found.state is ExecState.RUNNING:
        return ""
    await asyncio.to_thread(room.book.note_ends, [cmd_id])
    async with room.reading(cmd_id):
        return await _read(room, found, booked.vm)


async def get_cmd_details(room: Room, cmd_id: str) -> str:
    """What was asked for, as JSON: timestamp, to, cmd, args, env, path, fileForStdin."""
    return json.dumps((await _booked(room, cmd_id)).details)


async def _read(room: Room, row: ExecRow, vm: str) -> dict[str, Any]:
    """Read what a command that has ended has printed; one whose agent ended before it has no end of its own."""
    output = _Output()
    try:
        return _results(await room.client.execs.attach(vm, row.id, output.take), output)
    except RemoteError as error:
        if row.state is not ExecState.INTERRUPTED or error.code is not ErrorCode.INTERRUPTED:
            raise
    return _results(None, output, cut_bytes=row.cut_bytes)


class _Output:
    """What a command printed, as it comes."""

    def __init__(self) -> None:
        self._streams = {stream: bytearray() for stream in Stream}

    async def take(self, stream: Stream, data: bytes) -> None:
        """Keep some of it. Raises Fault where it is more than an answer holds."""
        self._streams[stream] += data
        if sum(map(len, self._streams.values())) > MOST_OUTPUT_BYTES:
            text = f"it printed more than {MOST_OUTPUT_BYTES:,} bytes"
            raise fault(FaultCode.TOO_LARGE, text, "have it write a file, and take that by cpFileFromVM")

    def of(self, stream: Stream) -> str | bytes:
        """Give it as XML can carry it."""
        return text_or_bytes(bytes(self._streams[stream]))


async def _start(room: Room, row: RegistryRow, asked: dict[str, Any]) -> str:
    """Start it and note it; one that cannot be noted is ended, since nobody would know its id."""
    command = [asked["cmd"], *asked["args"]]
    if asked["fileForStdin"]:
        # The shell reads nothing but its own script: file and command are its arguments.
        command = ["/bin/sh", "-c", 'exec "$@" < "$0"', asked["fileForStdin"], *command]
    started = await room.client.execs.detach(row.status.vm, command, env=asked["env"], directory=asked["path"] or "")
    details = {"timestamp": time.time(), "to": row.status.name, **asked}
    try:
        await asyncio.to_thread(room.book.add, BookedCommand(started, row.status.vm, details))
    except CommandFailed:
        await _end(room, row, started)
        raise
    return started


async def _end(room: Room, row: RegistryRow, command: str) -> None:
    """Kill a command that nobody would know of, if it can be reached; its time limit ends it else."""
    try:
        await room.client.execs.kill(row.status.vm, command, 9)
    except (BrokerError, CommandFailed):
        return


async def _note_ends(room: Room, row: RegistryRow | None, commands: list[str]) -> None:
    """Note which commands of a VM have ended, and forget those of which it has nothing; a VM that cannot be asked now
    is asked again the next time."""
    try:
        if row is None:
            await asyncio.to_thread(room.book.forget, commands)
            return
        found = {one.id: one for one in await room.client.execs.list(row.status.vm)}
    except (BrokerError, CommandFailed):
        return
    ended = [one for one in commands if one in found and found[one].state is not ExecState.RUNNING]
    await asyncio.to_thread(room.book.note_ends, ended)
    await asyncio.to_thread(room.book.forget, [one for one in commands if one not in found])


async def _booked(room: Room, command: str) -> BookedCommand:
    booked = await asyncio.to_thread(room.book.find, command)
    if booked is None:
        raise _gone(command, "it was not started here, or was forgotten")
    return booked


def _gone(command: str, why: str) -> Exception:
    return fault(
        FaultCode.NO_SUCH_COMMAND, f"no command has the id {command[:100]!r}: {why}", "start it again by runCmd"
    )


def _results(ended: ExecEnded | None, output: _Output, cut_bytes: int = 0) -> dict[str, Any]:
    status = ended.exit_status if ended is not None else -1
    by_signal = _BY_SIGNAL < status <= _BY_SIGNAL + _SIGNALS
    timed_out = ended is not None and ended.timed_out
    return {
        "out": output.of(Stream.STDOUT),
        "err": output.of(Stream.STDERR),
        "finished": ended is not None and not by_signal and not timed_out,
        "exitCodeOrSignal": status - _BY_SIGNAL if by_signal else status,
        "resources": _resources(ended),
        "cutBytes": ended.cut_bytes if ended is not None else cut_bytes,
    }


def _resources(ended: ExecEnded | None) -> dict[str, float]:
    used: dict[str, float] = dict.fromkeys(_USAGE, 0)
    if ended is not None:
        used["ru_utime"] = max(0.0, ended.cpu_seconds - ended.system_seconds)
        used["ru_stime"] = ended.system_seconds
        used["ru_maxrss"] = ended.peak_rss_bytes // 1024
    return used


def _words(args: Words | str) -> list[str]:
    if isinstance(args, str):
        return [] if args in _NOTHING else [args]
    return [str(one) for one in args]


def _environment(env: dict[str, str] | str) -> dict[str, str]:
    if isinstance(env, dict):
        return env
    if env in _NOTHING:
        return {}
    raise fault(FaultCode.BAD_ARGUMENT, f"runCmd: env = {env!r}: must be a struct of names and values", "give {}")


def _or_none(text: str | None) -> str | None:
    return None if text is None or text in _NOTHING else text


METHODS = [
    method("runCmd", Generation.BOTH, run_cmd),
    method("listFinishedCmds", Generation.BOTH, list_finished_cmds),
    method("getCmdResults", Generation.BOTH, get_cmd_results),
    method("getCmdDetails", Generation.FIRST, get_cmd_details),
]
