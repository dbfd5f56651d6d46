"""Commands that run in this VM without a console: begun, listed, followed, signalled, and forgotten in time.

What they print goes to a spool each, and what became of them to a record beside it. An agent that ends takes them with
it; the next one finds their records and calls them interrupted. Whoever began one may follow and signal it, and nobody
else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from broker import durable
from broker.daemon.tasks import OwnedTasks
from broker.rpc import Call
from guest_agent import exec_start
from guest_agent.console_stream import ConsoleStream
from guest_agent.errors import BadPath, ExecBusy, ExecInterrupted, GuestError, NoSuchExec, NotYours, SpoolFailed
from guest_agent.exec_start import StartedCommand
from guest_agent.minders import Minders
from guest_agent.spool import Place, Spool, SpoolSink
from schemas.execs import ExecDetach, ExecEnded, ExecRow, ExecState, Stream

log = logging.getLogger(__name__)

#: Detached commands that run in a VM at once; ended ones that are kept, for how long, and how much of their output.
MOST_RUNNING, MOST_ENDED, KEEP_S, KEEP_BYTES = 16, 32, 7 * 86400.0, 256 << 20
#: How often those are looked for that have been kept for long, seconds.
SWEEP_S = 600.0
#: Words of a command, and characters of each, that are kept of it.
MOST_WORDS, MOST_OF_A_WORD = 10, 100
_RECORD = "record.json"
#: An id names a directory.
_ID = re.compile("[0-9A-Za-z-]{1,64}")


class DetachedRecord(Struct, kw_only=True):
    """What is kept of a command on disk."""

    id: str
    principal: str
    since_ms: int
    command: list[str]
    state: ExecState = ExecState.RUNNING
    ended_ms: int = 0
    end: ExecEnded | None = None


class DetachedCommand:
    """A command, at work or ended: its record and its spool."""

    def __init__(self, directory: Path, record: DetachedRecord) -> None:
        self.directory, self.record = directory, record
        self.spool = Spool(directory)
        self.started: StartedCommand | None = None
        #: Since when somebody follows it, by the guest's clock in ms.
        self.followed_ms = 0

    @property
    def is_running(self) -> bool:
        """It has not ended."""
        return self.record.state is ExecState.RUNNING

    @property
    def row(self) -> ExecRow:
        """What a listing shows of it."""
        record, end = self.record, self.record.end
        return ExecRow(
            id=record.id,
            principal=record.principal,
            since_ms=record.since_ms,
            state=record.state,
            exit_status=None if end is None else end.exit_status,
            command=record.command,
            cut_bytes=self.spool.cut_bytes if end is None else end.cut_bytes,
        )

    def write(self) -> None:
        """Put the record on the disk. Raises OSError."""
        durable.replace(self.directory / _RECORD, msgspec.json.encode(self.record))

    def end(self, state: ExecState, end: ExecEnded | None = None) -> None:
        """Note its end; where the disk does not take it, the next agent calls it interrupted."""
        self.record.state, self.record.end, self.record.ended_ms = state, end, _now_ms()
        self.started = None
        self.spool.close()
        try:
            self.write()
        except OSError as error:
            log.error("end of a command not noted", extra={"command": self.record.id, "why": str(error)})

    async def follow(self, call: Call, stream: ConsoleStream) -> ExecEnded:
        """Put all its output on the way to a console, as that has room; give its end. Raises ExecInterrupted."""
        has_room = asyncio.Event()
        stream.on_room = has_room.set
        place = Place()
        while True:
            has_ended = not self.is_running
            if pieces := self.spool.read(place):
                for kind, data in pieces:
                    stream.put(kind, data)
                while not stream.has_room:
                    has_room.clear()
                    await has_room.wait()
            elif has_ended:
                break
            else:
                await self.spool.more()
        if self.record.end is None:
            raise ExecInterrupted(f"id = {self.record.id}: the command was interrupted, its agent ended before it")
        return msgspec.structs.replace(self.record.end, call=call.message.id, output_messages=stream.numbers)


class DetachedExecs:
    """See the module. Belongs to one loop."""

    def __init__(self, minders: Minders, area: Path, directory: Path) -> None:
        """Keep them in ``directory``, which is the agent's alone."""
        self._minders, self._area, self._directory = minders, area, directory
        self._running = OwnedTasks("detached commands")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._known = {one.record.id: one for one in _recovered(directory)}

    async def run(self) -> None:
        """Forget in time what has ended, until cancelled."""
        while True:
            self.sweep()
            await asyncio.sleep(SWEEP_S)

    async def close(self) -> None:
        """End all that runs. Idempotent."""
        await self._running.cancel()

    def rows(self) -> list[ExecRow]:
        """List them, oldest first."""
        return [one.row for one in self._known.values()]

    async def begin(self, call: Call, order: ExecDetach) -> None:
        """Begin a command. Raises ExecBusy, SpoolFailed, CannotRun, BadPath, and nothing runs then."""
        running = sum(one.is_running for one in self._known.values())
        if running >= MOST_RUNNING:
            raise ExecBusy(
                f"detached commands = {running}: {MOST_RUNNING} may run in a VM at once",
                "end one with `volcloud vm kill`, or wait; `volcloud vm ps` lists them",
            )
        if not _ID.fullmatch(order.id):
            text = f"id = {order.id!r}: must be of letters, digits and '-', 64 at most"
            raise BadPath(text, hint="let the client choose it")
        self.sweep()
        command = self._made(call, order)
        try:
            await call.started()
            out, err = (SpoolSink(command.spool, stream) for stream in (Stream.STDOUT, Stream.STDERR))
            command.started = await exec_start.start(self._minders, order, self._area, out, err)
        except BaseException:
            self._forget(command)
            raise
        self._running.spawn(self._attend(command, command.started, order))

    def find(self, exec_id: str, sender: str) -> DetachedCommand:
        """Give the sender's own command. Raises NoSuchExec, NotYours."""
        command = self._known.get(exec_id)
        if command is None:
            raise NoSuchExec(f"id = {exec_id[:100]!r}: this VM keeps no detached command of that id")
        check_yours(exec_id, command.record.principal, sender)
        return command

    async def follow(self, call: Call, exec_id: str, stream: ConsoleStream) -> ExecEnded:
        """Follow the sender's own command to its end, for one console at a time. Raises ExecBusy, NoSuchExec, NotYours,
        ExecInterrupted."""
        command = self.find(exec_id, call.sender)
        if command.followed_ms:
            since_s = (_now_ms() - command.followed_ms) / 1000
            raise ExecBusy(
                f"id = {exec_id}: somebody has been attached to it for {since_s:.0f} s, and one may be at a time",
                "end that `volcloud vm attach`; one that was killed is given up after half a minute",
            )
        command.followed_ms = _now_ms()
        sending = asyncio.create_task(stream.send_all())
        following = asyncio.create_task(command.follow(call, stream))
        try:
            await asyncio.wait([sending, following], return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                raise ExecInterrupted(f"id = {exec_id}: its console is gone; the command runs on")
            stream.finish()
            await sending
            return following.result()
        finally:
            command.followed_ms = 0
            for task in (sending, following):
                task.cancel()
            await asyncio.gather(sending, following, return_exceptions=True)

    def signal(self, exec_id: str, sender: str, number: int) -> None:
        """Signal the sender's own command. Raises NoSuchExec, NotYours."""
        command = self.find(exec_id, sender)
        if command.started is None:
            raise NoSuchExec(f"id = {exec_id}: the command has ended, there is nothing to signal")
        command.started.payload.signal(number)

    def sweep(self) -> None:
        """Forget ended commands that are too old, too many or too large, oldest first."""
        ended = [one for one in self._known.values() if not one.is_running]
        kept_bytes = 0
        for rank, one in enumerate(sorted(ended, key=lambda one: -one.record.ended_ms)):
            kept_bytes += size_of(one.directory)
            is_old = _now_ms() - one.record.ended_ms > KEEP_S * 1000
            if (is_old or rank >= MOST_ENDED or kept_bytes > KEEP_BYTES) and not one.followed_ms:
                self._forget(one)

    def _made(self, call: Call, order: ExecDetach) -> DetachedCommand:
        """Make room for a command on the disk. Raises SpoolFailed."""
        directory = self._directory / order.id
        record = DetachedRecord(id=order.id, principal=call.sender, since_ms=_now_ms(), command=clipped(order.command))
        try:
            directory.mkdir(mode=0o700)
            command = DetachedCommand(directory, record)
            command.write()
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise SpoolFailed(f"the VM's disk does not take what the command would print: {error.strerror}") from error
        self._known[order.id] = command
        return command

    async def _attend(self, command: DetachedCommand, started: StartedCommand, order: ExecDetach) -> None:
        try:
            ended = await started.payload.wait(order.timeout_s)
        except GuestError as error:
            log.error("detached command lost", extra={"command": order.id, "why": str(error)})
            command.end(ExecState.INTERRUPTED)
            return
        finally:
            started.close()
        command.spool.close()
        command.end(ExecState.ENDED, exec_start.ended_of(order.id, ended, cut_bytes=command.spool.cut_bytes))
        self.sweep()

    def _forget(self, command: DetachedCommand) -> None:
        self._known.pop(command.record.id, None)
        if command.is_running:
            command.record.state = ExecState.INTERRUPTED  # it never began: who follows it is told
        command.spool.close()
        shutil.rmtree(command.directory, ignore_errors=True)


def size_of(directory: Path) -> int:
    """Add up what is in a directory, bytes; what is not there, or cannot be read, counts nothing."""
    total = 0
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            total += path.stat().st_size
    return total


def check_yours(exec_id: str, principal: str, sender: str) -> None:
    """Raise NotYours where another principal began a command."""
    if principal != sender:
        raise NotYours(f"id = {exec_id}: {principal} began it, and {sender} may not follow or end it")


def clipped(command: Iterable[str]) -> list[str]:
    """Give the beginning of a command, for a listing."""
    words = [*command]
    more = ["…"] if len(words) > MOST_WORDS else []
    return [word if len(word) <= MOST_OF_A_WORD else f"{word[:MOST_OF_A_WORD]}…" for word in words[:MOST_WORDS]] + more


def _recovered(directory: Path) -> list[DetachedCommand]:
    """Read what an agent before us has left; what had not ended then is interrupted."""
    found = []
    for place in sorted(directory.iterdir()):
        try:
            record = msgspec.json.decode((place / _RECORD).read_bytes(), type=DetachedRecord)
            command = DetachedCommand(place, record)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning("record of a command cannot be read, it goes", extra={"path": str(place), "why": str(error)})
            shutil.rmtree(place, ignore_errors=True)
            continue
        if record.state is ExecState.RUNNING:
            command.end(ExecState.INTERRUPTED)
        found.append(command)
    return found


def _now_ms() -> int:
    return int(time.time() * 1000)
