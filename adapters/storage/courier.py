"""The storage adapter's transfers: who may offer or get which file, and the way between the wire and the store.

A file comes into a staging directory that all storage adapters of a machine share, so that another one can go on with
it; it moves to the store when its SHA-256 was found right.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from adapters.errors import AdapterError
from adapters.intake import may_answer
from adapters.metrics import Metrics
from adapters.storage.errors import StoreError
from adapters.storage.store import Store, StoredFile
from broker.connection import Delivery
from broker.errors import TransferFailed
from broker.routes import kind_of, sender_of
from broker.transfer import Transfers
from broker.transfer.sending import digest_file
from schemas.envelope import Message
from schemas.errors import DecodeError, ErrorCode
from schemas.files import FileAbort, FileDone, FileGet, FileOffer, InputFile, OutputFile

log = logging.getLogger(__name__)

#: Transfers at work at once: their windows together fill at most half of the chunk queue.
MOST_OPEN = 32
#: Openings that wait for one to end; more are dropped, their senders ask again.
MOST_WAITING = 1000
#: The same for one sender, so that none takes everybody's room.
MOST_OPEN_OF_ONE = 4
MOST_WAITING_OF_ONE = 32
#: Age at which a copy in the staging directory is nobody's any more: its adapter was killed, seconds.
LEFT_BEHIND_S = 86400.0
#: Offers in a row that a receiver may leave unanswered before it counts as gone.
OFFERS_TO_THE_SILENT = 5

#: Says whether a VM may store an output of an attempt: it holds it.
MayStore = Callable[[str, OutputFile], Awaitable[bool]]
#: Moves a delivery to the dead letters, with a reason and its detail.
Bury = Callable[[Delivery, str, str], Awaitable[None]]


class _Desk:
    """One sender's transfers: at work and waiting."""

    def __init__(self) -> None:
        self.count = 0
        self.room = asyncio.Semaphore(MOST_OPEN_OF_ONE)


class Courier:
    """See the module."""

    def __init__(
        self, transfers: Transfers, store: Store, staging: Path, may_store: MayStore, bury: Bury, metrics: Metrics
    ) -> None:
        self._transfers, self._store, self._staging = transfers, store, staging
        self._may_store, self._bury = may_store, bury
        self._metrics = metrics
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(MOST_OPEN)
        self._desks: defaultdict[str, _Desk] = defaultdict(_Desk)
        staging.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(staging)

    def on_opening(self, delivery: Delivery) -> Awaitable[None] | None:
        """Take a delivery of ``vc.offers``; whoever opens a transfer asks until it is done."""
        return self._take_up(delivery, self._on_opening)

    def on_message(self, delivery: Delivery) -> Awaitable[None] | None:
        """Take a chunk, a window or an end."""
        return self._take_up(delivery, self._on_message)

    async def close(self) -> None:
        """End what is going on; the other ends ask again, and another adapter goes on."""
        for task in list(self._serving.values()):
            task.cancel()
        await asyncio.gather(*self._serving.values(), return_exceptions=True)

    def _take_up(self, delivery: Delivery, handle: Callable[[str, Message], None]) -> Awaitable[None] | None:
        """Acknowledge what can be read and hand it on; what cannot goes to the dead letters."""
        sender = sender_of(delivery.routing_key, delivery.user_id)
        try:
            message = delivery.read()
        except DecodeError as error:
            self._metrics.refused("undecodable")
            return self._bury(delivery, "undecodable", error.reason)
        delivery.ack()
        if sender is None:
            self._metrics.refused("foreign_key")
        else:
            handle(sender, message)
        return None

    def _on_opening(self, sender: str, message: Message) -> None:
        if may_answer(sender) and isinstance(message, FileOffer | FileGet):
            self._open(sender, message)
        else:
            self._metrics.refused("not_taken")

    def _on_message(self, sender: str, message: Message) -> None:
        if not self._transfers.on_message(sender, message):
            self._metrics.refused("no_such_transfer")

    def _open(self, sender: str, message: FileOffer | FileGet) -> None:
        if message.id in self._serving:
            if isinstance(message, FileOffer):
                self._transfers.on_message(sender, message)
            return
        if len(self._serving) >= MOST_WAITING or self._desks[sender].count >= MOST_OPEN_OF_ONE + MOST_WAITING_OF_ONE:
            self._metrics.refused("flood")
            return
        desk = self._desks[sender]
        desk.count += 1
        task = asyncio.create_task(self._serve(sender, message, desk.room))
        self._serving[message.id] = task
        task.add_done_callback(lambda _: self._ended(sender, message.id))

    def _ended(self, sender: str, transfer: str) -> None:
        self._serving.pop(transfer, None)
        desk = self._desks[sender]
        desk.count -= 1
        if not desk.count:
            del self._desks[sender]

    async def _serve(self, sender: str, message: FileOffer | FileGet, own_room: asyncio.Semaphore) -> None:
        try:
            async with own_room, self._room:
                if isinstance(message, FileOffer):
                    await self._take(sender, message)
                else:
                    await self._give(sender, message)
        except TransferFailed as failure:
            log.info("transfer failed", extra={"transfer": message.id, "peer": sender, "why": str(failure)})
        except AdapterError as error:
            log.warning("transfer refused", extra={"transfer": message.id, "peer": sender, "why": str(error)})
            self._refuse(sender, message, error.code, str(error))
        except OSError as error:
            log.error("transfer failed here", extra={"transfer": message.id, "peer": sender, "why": str(error)})
            self._refuse(sender, message, ErrorCode.STORE, f"the adapter's disk: {error.strerror or error}")

    async def _take(self, sender: str, offer: FileOffer) -> None:
        file = await self._permitted(sender, offer)
        if file is None:
            self._refuse(sender, offer, ErrorCode.FORBIDDEN, f"{sender} may not store {offer.file!r}")
            return
        if not await asyncio.to_thread(self._store.holds, file, offer.size, offer.sha256):
            whole = self._staging / f"in-{_key(offer)}"
            partial = self._staging / f"in-{_key(offer)}.part"
            await self._receive(sender, offer, whole, partial, file)
        self._transfers.tell(sender, offer.reply, FileDone(transfer=offer.id))

    async def _receive(self, sender: str, offer: FileOffer, whole: Path, partial: Path, file: StoredFile) -> None:
        try:
            await self._transfers.receive_file(
                offer, whole, partial, sender, offer.reply, confirm=lambda: self._keep(whole, file)
            )
            self._metrics.moved("in", offer.size)
        finally:
            await asyncio.to_thread(whole.unlink, missing_ok=True)

    async def _keep(self, whole: Path, file: StoredFile) -> None:
        """Move a whole file to the store; a store that will not have it fails the transfer."""
        try:
            await asyncio.to_thread(self._store.put, whole, file)
        except StoreError as error:
            log.error("store refused", extra={"why": str(error)})
            raise TransferFailed(ErrorCode.STORE, str(error)) from error

    async def _give(self, sender: str, get: FileGet) -> None:
        if not isinstance(get.file, InputFile | OutputFile) or kind_of(sender) not in ("vm", "console"):
            self._refuse(sender, get, ErrorCode.FORBIDDEN, f"{sender} may not have {get.file!r}")
            return
        if isinstance(get.file, OutputFile) and kind_of(sender) != "console":
            self._refuse(sender, get, ErrorCode.FORBIDDEN, "outputs are for consoles")
            return
        path, is_copy = await asyncio.to_thread(self._store.local, get.file, self._staging)
        try:
            size, sha256 = await asyncio.to_thread(digest_file, path)
            if isinstance(get.file, InputFile) and get.file.sha256 != sha256:
                log.error("the store's file is damaged", extra={"path": str(path), "sha256": sha256})
                self._refuse(sender, get, ErrorCode.CONFLICT, f"the store's file is damaged: input {get.file.sha256}")
                return
            offer = FileOffer(id=get.id, file=get.file, size=size, sha256=sha256)
            await self._transfers.send_file(path, offer, sender, get.reply, most_offers=OFFERS_TO_THE_SILENT)
            self._metrics.moved("out", size)
        finally:
            if is_copy:
                await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _permitted(self, sender: str, offer: FileOffer) -> StoredFile | None:
        """Give the file if the sender may store it: consoles inputs, VMs outputs of the attempts that they hold."""
        if isinstance(offer.file, InputFile) and kind_of(sender) == "console" and offer.file.sha256 == offer.sha256:
            return offer.file
        if isinstance(offer.file, OutputFile) and await self._may_store(sender, offer.file):
            return offer.file
        return None

    def _refuse(self, sender: str, message: FileOffer | FileGet, code: ErrorCode, text: str) -> None:
        self._transfers.tell(sender, message.reply, FileAbort(transfer=message.id, code=code, message=text))


def _remove_left_behind(staging: Path) -> None:
    for copy in staging.glob("out-*"):
        with contextlib.suppress(FileNotFoundError):  # another adapter shares the directory
            if time.time() - copy.stat().st_mtime > LEFT_BEHIND_S:
                copy.unlink()


def _key(offer: FileOffer) -> str:
    """Name a file on its way by what it is: the same file offered again goes on where it stopped."""
    return hashlib.sha256(f"{offer.id} {offer.sha256}".encode()).hexdigest()[:40]
