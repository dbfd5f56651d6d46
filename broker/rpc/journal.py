"""What an agent was told and what became of it, on disk before it is acknowledged.

Entries in memory, and a ``RecordFile`` that tells of them, written by ``GroupCommit``. Ended entries are kept for
``keep_s``, longer than any deadline, so that a command that comes again is answered and not run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from broker import durable
from broker.rpc import entries
from broker.rpc.entries import Entries, Entry
from broker.rpc.group_commit import GroupCommit
from broker.rpc.record_file import RecordFile, frame

log = logging.getLogger(__name__)

#: Above this, and twice what was needed last time, the file is written anew without what is not needed, bytes.
COMPACT_ABOVE_BYTES = 16 << 20


class Journal:
    """See the module. Opened once, by one process; its methods belong to one event loop."""

    def __init__(self, path: Path, *, keep_s: float = 86400.0, steady: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._keep_ms = int(keep_s * 1000)
        self._steady = steady
        #: What is added to the steady clock, ms: time goes on where the last entry of the file was made.
        self._origin_ms = 0
        self._entries = Entries()
        self._inherited: list[Entry] = []
        self._compact_above = COMPACT_ABOVE_BYTES
        self._file = RecordFile(path)
        self._commit = GroupCommit(self._file, self._on_written)

    def open(self) -> None:
        """Read what an earlier process left, then write the file anew. Idempotent after ``close``.

        On a full disk the file that is there goes on: it has its reserve.
        """
        durable.make_directory(self._path.parent)
        for record in self._file.read():
            self._entries.replay(record)
        self._inherited = self._entries.all()
        self._origin_ms = max((entry.at_ms for entry in self._inherited), default=0) - int(self._steady() * 1000)
        self._forget()
        try:
            self._rewrite(self._entries.all())
        except OSError as error:
            log.warning("journal not written anew", extra={"path": str(self._path), "why": str(error)})
            self._go_on(error)

    def _go_on(self, error: OSError) -> None:
        """Use the file that is there; without one, raise what kept it from being made."""
        try:
            self._file.go_on()
        except FileNotFoundError:
            raise error from None

    async def close(self) -> None:
        """Wait until all is durable, or the disk takes nothing, and let go of the file."""
        await self._commit.close()
        self._file.close()

    def get(self, command_id: str) -> Entry | None:
        """Give what is known of a command."""
        return self._entries.get(command_id)

    def unfinished(self) -> list[Entry]:
        """List the commands that an earlier process accepted and that have no answer, oldest first."""
        return [entry for entry in self._inherited if not entry.ended]

    async def accept(self, command_id: str, sender: str, command: bytes, *, started: bool = False) -> Entry:
        """Note a command, and that its effect may begin now if it is ``started``. When this returns it survives kill -9
        and may be acknowledged.

        It is known from the call on, so that it is not run twice; when it raises (OSError), it was never told.
        """
        entry = Entry(id=command_id, sender=sender, at_ms=self._now_ms(), command=command, started=started)
        self._entries.add(entry)
        try:
            await self._commit.append(*entries.retold(entry))
        except BaseException:
            self._entries.drop(entry)
            raise
        return entry

    async def barrier(self) -> None:
        """Wait until what was noted before is durable, or has failed and is forgotten."""
        await self._commit.barrier()

    async def start(self, command_id: str) -> None:
        """Note that its effect may begin now; a restart then answers ``interrupted``. Raises OSError: it may not."""
        await self.start_all([command_id])

    async def start_all(self, command_ids: Sequence[str]) -> None:
        """Note it of several at once. Raises OSError: none may."""
        await self._commit.append(entries.started(*command_ids))
        for command_id in command_ids:
            self._entries[command_id].started = True

    async def note(self, command_id: str, note: bytes, *, within_s: float = 0.0) -> None:
        """Note how it went, in place of an earlier note. When this returns it survives kill -9; it has not ended.

        It may wait ``within_s`` for others to share a sync with.
        """
        self._entries[command_id].note = note
        await self._commit.append(entries.noted(command_id, note), within_s=within_s)

    async def end(self, command_id: str, reply: bytes) -> None:
        """Note its final answer. When this returns it may be sent.

        It is durable then, or owed: a disk that takes nothing holds up no answer, and gets it as soon as it takes
        something. Who is killed before that finds the command as one that was cut short.
        """
        self._entries[command_id].end(reply)
        record = entries.ended(command_id, reply)
        try:
            await self._commit.append(record)
        except OSError as error:
            log.error("answer not journalled, again soon", extra={"command": command_id, "why": str(error)})
            self._commit.owe(record)

    def _now_ms(self) -> int:
        """Give the time that was served: a volunteer's clock that is set right makes no entry old."""
        return self._origin_ms + int(self._steady() * 1000)

    def _forget(self) -> None:
        self._entries.forget(self._now_ms() - self._keep_ms)

    def _on_written(self) -> None:
        if self._file.end > self._compact_above:
            self._forget()
            kept = self._entries.all()
            self._commit.between_writes(lambda: self._compact(kept))

    def _compact(self, kept: list[Entry]) -> None:
        """Rewrite, in the thread, between two flushes. One that fails leaves the old file in use, to be tried later."""
        try:
            self._rewrite(kept)
        except Exception as error:
            self._compact_above = 2 * self._file.end
            log.exception("journal not compacted", extra={"path": str(self._path), "why": str(error)})

    def _rewrite(self, kept: list[Entry]) -> None:
        self._file.rewrite(b"".join(frame(record) for entry in kept for record in entries.retold(entry)))
        self._compact_above = max(COMPACT_ABOVE_BYTES, 2 * self._file.end)
