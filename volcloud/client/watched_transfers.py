"""Files as a client moves them: to and from VMs, inputs to the store, outputs out of it.

The transfers themselves are ``broker.transfer``'s. One that stands still for too long is given up here, since no
receiver ever gives up by itself.
"""

from __future__ import annotations

import asyncio
import glob
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from broker import durable
from broker.errors import TransferFailed
from broker.transfer import Transfers, into_file
from broker.transfer.landing import PART, Open
from broker.transfer.leftovers import remove_left_behind
from broker.transfer.peer import ANY_ADAPTER
from broker.transfer.sending import read_digest
from schemas.errors import ErrorCode
from schemas.files import FileGet, FileName, FileOffer, GuestFile, InputFile, OutputFile
from schemas.ids import Kind, kind_of
from schemas.jobs import OutputEntry
from volcloud.errors import BadInput, CommandFailed, Unreachable, VolcloudError

T = TypeVar("T")

#: Called with (bytes so far, size); the size is 0 while it is not known.
Progress = Callable[[int, int], None]
#: Tells a person something that is no error.
Say = Callable[[str], None]
#: A transfer without a byte for this long is given up, seconds; a receiver finds a broken run after 3.
STILL_S = 45.0
#: So long nobody is left without a word on what is waited for, seconds.
SAY_S = 8.0
#: A partial file beside a target that nobody holds is a killed console's after this long, seconds.
KEEP_PARTIAL_S = 60.0


def say_nothing(_: str) -> None:
    """Leave a person without word, for programs."""


class WatchedTransfers:
    """See the module. Raises TransferFailed when the other side says no, CommandFailed or Unreachable when it says
    nothing, BadInput for a local file that cannot be used; a local target is whole or as it was."""

    def __init__(
        self, transfers: Transfers, say: Say = say_nothing, *, still_s: float = STILL_S, say_s: float = SAY_S
    ) -> None:
        """``say`` tells a person what is waited for, once a silence."""
        self.transfers, self.say = transfers, say
        self._still_s, self.say_s = still_s, say_s

    async def push(self, local: Path, vm: str, path: str, progress: Progress | None = None) -> str:
        """Send a file into a VM; give its SHA-256. An executable one stays so; to a directory, it goes into it."""
        executable = await asyncio.to_thread(os.access, local, os.X_OK)
        file = GuestFile(path=path, executable=executable, source=local.name)
        return await self._send(local, vm, lambda _: file, progress)

    async def pull(self, vm: str, path: str, local: Path, progress: Progress | None = None) -> FileOffer:
        """Take a file out of a VM."""
        return await self._take(vm, GuestFile(path=path), local, 0, progress)

    async def upload(self, local: Path, progress: Progress | None = None) -> str:
        """Put a file in the store as a job's input; give its SHA-256. One that is there already succeeds at once."""
        return await self._send(local, ANY_ADAPTER, lambda sha256: InputFile(sha256=sha256), progress)

    async def download(self, output: OutputFile, entry: OutputEntry, local: Path, progress: Progress | None) -> None:
        """Take an output of a job: out of the ledger's record where it rides in it, else out of the store."""
        if entry.content is not None or entry.size == 0:
            await asyncio.to_thread(_write, local, entry.content or b"")
            return
        await self._take(ANY_ADAPTER, output, local, entry.size, progress, of=entry)

    async def _send(self, local: Path, peer: str, name: Callable[[str], FileName], progress: Progress | None) -> str:
        try:
            size, sha256 = await self._read(local)
        except OSError as error:
            raise BadInput(f"{local}: cannot be read: {error.strerror}", "name a file that can be read") from error
        offer = FileOffer(file=name(sha256), size=size, sha256=sha256)
        watch = TransferWatch(size, progress)
        work = self.transfers.send_file(local, offer, peer, progress=watch.on_bytes)
        await self.while_moving(work, offer.id, watch, peer, str(local))
        return sha256

    async def _read(self, local: Path) -> tuple[int, str]:
        """Give a file's size and SHA-256; one that takes long to read is told of."""
        reading = asyncio.ensure_future(read_digest(local))
        try:
            await asyncio.wait([reading], timeout=self.say_s)
            if not reading.done():
                self.say(f"{local}: is read for its SHA-256, before its first byte is sent")
            return await reading
        finally:
            reading.cancel()

    async def _take(
        self,
        peer: str,
        file: FileName,
        local: Path,
        size: int,
        progress: Progress | None,
        of: OutputEntry | None = None,
    ) -> FileOffer:
        """Take a file; what is offered of an output is what a job's record says, or is refused before its first byte:
        a guest wrote that record, and whoever reads it may have bounds."""
        get = FileGet(file=file)
        partial = durable.beside(local, f"{get.id[-12:]}{PART}")
        await asyncio.to_thread(make_partial, partial)
        watch = TransferWatch(size, progress)

        def partial_of(offer: FileOffer) -> Open:
            if of is not None and (offer.size, offer.sha256) != (of.size, of.sha256):
                raise TransferFailed(ErrorCode.CONFLICT, f"output {of.name!r}: the store's file is not the job's")
            return into_file(local, partial, kept=0)

        try:
            work = self.transfers.fetch(get, partial_of, peer, progress=watch.on_bytes)
            return await self.while_moving(work, get.id, watch, peer, local.name)
        finally:
            await asyncio.to_thread(remove_partials, local, partial)

    async def while_moving(
        self, work: Coroutine[Any, Any, T], transfer: str, watch: TransferWatch, peer: str, what: str
    ) -> T:
        """Wait for a transfer unless it stands still; a broker that is away is waited for, and blamed on nobody."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=min(1.0, self._still_s / 4, self.say_s / 4))
                is_heard = self.transfers.is_heard(transfer)
                if not task.done() and watch.is_to_be_told(self.say_s):
                    self.say(_waited_for(peer if is_heard else "", what, self.say_s, self._still_s))
                if not is_heard:
                    watch.wait_on()
                if not task.done() and watch.still_s() > self._still_s:
                    raise _silence(peer, what, self._still_s)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class TransferWatch:
    """When a transfer last moved, and whether it was told that it does not; ``on_bytes`` is told how far it is."""

    def __init__(self, size: int, progress: Progress | None) -> None:
        self._size, self._progress = size, progress
        self._moved_at = self._heard_at = time.monotonic()
        self._is_told = False

    def wait_on(self) -> None:
        """What is silent is not the other end."""
        self._moved_at = time.monotonic()

    def on_bytes(self, count: int) -> None:
        """It has moved, or the other end has said that it is there."""
        self._moved_at = self._heard_at = time.monotonic()
        self._is_told = False
        if self._progress is not None:
            self._progress(count, self._size)

    def still_s(self) -> float:
        """Give how long it has not moved."""
        return time.monotonic() - self._moved_at

    def is_to_be_told(self, after_s: float) -> bool:
        """Say whether nothing has been heard for so long, and nobody was told: once a silence."""
        is_due = not self._is_told and time.monotonic() - self._heard_at > after_s
        self._is_told = self._is_told or is_due
        return is_due


def _waited_for(peer: str, what: str, silent_s: float, still_s: float) -> str:
    """Say what is waited for; without a peer it is the broker."""
    if not peer:
        return f"{what}: the broker has taken nothing for {silent_s:.0f} s; it is waited for"
    who = "storage adapter" if kind_of(peer) is Kind.ADAPTER else peer
    says = "`volcloud status` tells" if kind_of(peer) is Kind.ADAPTER else "`volcloud vm list` tells"
    return f"{what}: no word of the {who} for {silent_s:.0f} s; given up after {still_s:.0f} s; {says} how it is"


def _silence(peer: str, what: str, still_s: float) -> VolcloudError:
    if kind_of(peer) is Kind.ADAPTER:
        text = f"{what}: no storage adapter answered for {still_s:.0f} s"
        return Unreachable(text, "see with `volcloud status` whether one runs, and its log in DIR/log")
    text = f"{what}: {peer} did not answer for {still_s:.0f} s"
    return CommandFailed(text, "see with `volcloud vm list` whether its agent is ready, then try again")


def make_partial(partial: Path) -> None:
    """Make the file that a transfer fills: a person's file has the mode that his umask gives, as with cp."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def _write(path: Path, content: bytes) -> None:
    """Put a small output in its file, with the mode that the person's umask gives; what a console that was killed has
    left of it goes."""
    durable.remove_unfinished(path.parent, path.name)
    durable.replace(path, content, mode=0o666)


def remove_partials(local: Path, own: Path) -> None:
    """Remove a pull's partial file, and those that consoles which were killed have left of earlier ones."""
    others = local.parent.glob(glob.escape(durable.beside(local, "").name) + f"*{PART}")
    remove_left_behind([own], now_s=time.time(), keep_s=0.0, most=0)
    remove_left_behind(others, now_s=time.time(), keep_s=KEEP_PARTIAL_S, most=0)
