"""What an agent was told and what became of it, on disk before it is acknowledged.

Records of what happened, in a ``RecordFile``; many share one sync of the disk (group commit). On a full disk nothing
new is taken, but what is at hand is brought to its end, which is what gives room. Ended entries are kept for
``keep_s``, longer than any deadline, so that a command that comes again is answered and not run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from broker import durable
from broker.backoff import backoff
from broker.rpc.record_file import RecordFile, frame

log = logging.getLogger(__name__)

#: Above this, and twice what was needed last time, the file is written anew without what is not needed, bytes.
COMPACT_ABOVE_BYTES = 16 << 20
#: Ended entries that are kept at most; the newest.
MOST_ENDED = 50_000

#: Records of what shall begin; a full disk refuses them. All others may use the reserve.
_NEW = frozenset({"accept", "start", "starts"})


class Entry(Struct, kw_only=True):
    """A command and where it is. ``reply`` is set when it has ended; ``command`` is dropped then."""

    id: str
    sender: str
    at_ms: int
    command: bytes | None = None
    started: bool = False
    #: How it went, for a process that comes after this one to tell.
    note: bytes = b""
    reply: bytes | None = None

    @property
    def ended(self) -> bool:
        """It has a final answer."""
        return self.reply is not None


class _Batch:
    """Records that have gathered for one write, and the future of all who wait for it."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.durable: asyncio.Future[None] | None = None

    def add(self, record: bytes) -> asyncio.Future[None]:
        self.records.append(record)
        if self.durable is None:
            self.durable = asyncio.get_running_loop().create_future()
        return self.durable

    def settle(self, error: BaseException | None) -> None:
        """Tell all who wait that it is durable, or why it is not."""
        if self.durable is None or self.durable.done():
            return
        if error is None:
            self.durable.set_result(None)
        else:
            self.durable.set_exception(error)


class Journal:
    """See the module. Opened once, by one process; its methods belong to one event loop."""

    def __init__(self, path: Path, *, keep_s: float = 86400.0, steady: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._keep_ms = int(keep_s * 1000)
        self._steady = steady
        #: What is added to the steady clock, ms: time goes on where the last entry of the file was made.
        self._origin_ms = 0
        self._entries: dict[str, Entry] = {}
        self._inherited: list[Entry] = []
        #: What is new, and what brings something to its end: that may use the reserve.
        self._new, self._ending = _Batch(), _Batch()
        #: Answers that the disk has not taken: they go with each write until it does.
        self._owed: list[bytes] = []
        self._paying: asyncio.Task[None] | None = None
        #: Set while a flush waits for more that is in no hurry.
        self._gathering: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._compact_above = COMPACT_ABOVE_BYTES
        self._file = RecordFile(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    def open(self) -> None:
        """Read what an earlier process left, then write the file anew. Idempotent after ``close``.

        On a full disk the file that is there goes on: it has its reserve.
        """
        durable.make_directory(self._path.parent)
        for record in self._file.read():
            self._replay(record)
        self._inherited = list(self._entries.values())
        self._origin_ms = max((entry.at_ms for entry in self._inherited), default=0) - int(self._steady() * 1000)
        self._forget()
        try:
            self._rewrite(list(self._entries.values()))
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
        if self._paying is not None:
            self._paying.cancel()
            with suppress(OSError):
                await self.barrier()
        await self._idle.wait()
        await asyncio.to_thread(self._thread.shutdown)
        self._file.close()

    def get(self, command_id: str) -> Entry | None:
        """Give what is known of a command."""
        return self._entries.get(command_id)

    def unfinished(self) -> list[Entry]:
        """List the commands that an earlier process accepted and that have no answer, oldest first."""
        return [entry for entry in self._inherited if not entry.ended]

    async def accept(self, command_id: str, sender: str, command: bytes) -> Entry:
        """Note a command. When this returns it survives kill -9 and may be acknowledged.

        It is known from the call on, so that it is not run twice; when it raises (OSError), it was never told.
        """
        entry = Entry(id=command_id, sender=sender, at_ms=self._now_ms(), command=command)
        self._entries[command_id] = entry
        try:
            await self._append(["accept", command_id, sender, entry.at_ms, command])
        except BaseException:
            if self._entries.get(command_id) is entry:
                del self._entries[command_id]
            raise
        return entry

    async def barrier(self) -> None:
        """Wait until what was noted before is durable, or has failed and is forgotten."""
        await self._append(["barrier"])

    async def start(self, command_id: str) -> None:
        """Note that its effect may begin now; a restart then answers ``interrupted``. Raises OSError: it may not."""
        await self._append(["start", command_id])
        self._entries[command_id].started = True

    async def start_all(self, command_ids: Sequence[str]) -> None:
        """Note it of several at once. Raises OSError: none may."""
        await self._append(["starts", *command_ids])
        for command_id in command_ids:
            self._entries[command_id].started = True

    async def note(self, command_id: str, note: bytes, *, within_s: float = 0.0) -> None:
        """Note how it went, in place of an earlier note. When this returns it survives kill -9; it has not ended.

        It may wait ``within_s`` for others to share a sync with.
        """
        self._entries[command_id].note = note
        await self._append(["note", command_id, note], within_s)

    async def end(self, command_id: str, reply: bytes) -> None:
        """Note its final answer. When this returns it may be sent.

        It is durable then, or owed: a disk that takes nothing holds up no answer, and gets it as soon as it takes
        something. Who is killed before that finds the command as one that was cut short.
        """
        entry = self._entries[command_id]
        entry.reply, entry.command, entry.note = reply, None, b""
        record: list[object] = ["end", command_id, reply]
        try:
            await self._append(record)
        except OSError as error:
            log.error("answer not journalled, again soon", extra={"command": command_id, "why": str(error)})
            self._owed.append(frame(record))
            if self._paying is None or self._paying.done():
                self._paying = asyncio.create_task(self._pay(), name="journal owes")

    async def _pay(self) -> None:
        for wait_s in backoff(0.5, 10.0):
            await asyncio.sleep(wait_s)
            with suppress(OSError):
                await self.barrier()
            if not self._owed:
                return

    def _now_ms(self) -> int:
        """Give the time that was served: a volunteer's clock that is set right makes no entry old."""
        return self._origin_ms + int(self._steady() * 1000)

    async def _append(self, record: list[object], within_s: float = 0.0) -> None:
        batch = self._new if record[0] in _NEW else self._ending
        durable = batch.add(frame(record))
        self._flush_soon(within_s)
        await asyncio.shield(durable)

    def _flush_soon(self, within_s: float) -> None:
        """Have what has gathered flushed: with the flush after the one that is under way, else now or within a time."""
        loop = asyncio.get_running_loop()
        if self._idle.is_set():
            self._idle.clear()
            if within_s:
                self._gathering = loop.call_later(within_s, self._flush)
            else:
                loop.call_soon(self._flush)
        elif self._gathering is not None and not within_s:
            self._gathering.cancel()
            self._gathering = None
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Hand everything that has gathered to the thread; what gathers meanwhile goes with the next flush."""
        self._gathering = None
        new, ending = self._new, self._ending
        if new.durable is None and ending.durable is None:
            self._idle.set()
            return
        self._new, self._ending = _Batch(), _Batch()
        owed = len(self._owed)
        last_words = b"".join([*self._owed, *ending.records])
        written = self._thread.submit(self._file.append, b"".join(new.records), last_words)
        loop = asyncio.get_running_loop()
        written.add_done_callback(lambda done: loop.call_soon_threadsafe(self._settle, new, ending, done, owed))

    def _settle(self, new: _Batch, ending: _Batch, written: Future[OSError | None], owed: int) -> None:
        error = written.exception()
        if error is None:
            del self._owed[:owed]
        ending.settle(error)
        new.settle(error or written.result())
        if self._file.end > self._compact_above:
            self._forget()
            self._thread.submit(self._compact, list(self._entries.values()))
        self._flush()

    def _replay(self, record: list[object]) -> None:
        match record:
            case ["accept", str(command_id), str(sender), int(at_ms), bytes(command)] if (
                command_id not in self._entries
            ):
                self._entries[command_id] = Entry(id=command_id, sender=sender, at_ms=at_ms, command=command)
            case ["start", str(command_id)] if command_id in self._entries:
                self._entries[command_id].started = True
            case ["starts", *command_ids]:
                for entry in filter(None, map(self._entries.get, map(str, command_ids))):
                    entry.started = True
            case ["note", str(command_id), bytes(note)] if command_id in self._entries:
                self._entries[command_id].note = note
            case ["end", str(command_id), bytes(reply)] if command_id in self._entries:
                entry = self._entries[command_id]
                entry.reply, entry.command, entry.note = reply, None, b""

    def _forget(self) -> None:
        """Drop ended entries that are too old or too many."""
        oldest = self._now_ms() - self._keep_ms
        ended = [i for i, e in self._entries.items() if e.ended]
        surplus = set(ended[: max(0, len(ended) - MOST_ENDED)])
        self._entries = {
            i: e for i, e in self._entries.items() if not e.ended or (e.at_ms >= oldest and i not in surplus)
        }

    def _compact(self, entries: list[Entry]) -> None:
        """Rewrite, in the thread, between two flushes. One that fails leaves the old file in use, to be tried later."""
        try:
            self._rewrite(entries)
        except Exception as error:
            self._compact_above = 2 * self._file.end
            log.exception("journal not compacted", extra={"path": str(self._path), "why": str(error)})

    def _rewrite(self, entries: list[Entry]) -> None:
        self._file.rewrite(b"".join(frame(record) for entry in entries for record in _retell(entry)))
        self._compact_above = max(COMPACT_ABOVE_BYTES, 2 * self._file.end)


def _retell(entry: Entry) -> Iterator[list[object]]:
    yield ["accept", entry.id, entry.sender, entry.at_ms, entry.command or b""]
    if entry.started:
        yield ["start", entry.id]
    if entry.note:
        yield ["note", entry.id, entry.note]
    if entry.reply is not None:
        yield ["end", entry.id, entry.reply]
