"""The storage adapter's transfers: who may offer or get which file, and the way between the wire and the store.

A file comes into a staging directory that all storage adapters of a machine share, so that another one can go on with
it; it moves to the store when its SHA-256 was found right.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import UnionType

from adapters.errors import AdapterError
from adapters.metrics import Metrics
from adapters.outgoing import may_answer
from adapters.storage.digests import Digest, Digests
from adapters.storage.errors import StoreError
from adapters.storage.kin import Kin
from adapters.storage.rights import MayStore, Rights
from adapters.storage.staging import LEFT_BEHIND_S, Staging
from adapters.storage.store import Store, StoredFile
from broker.connection import Delivery
from broker.dead_letters import Burials
from broker.errors import TransferFailed
from broker.routes import kind_of, sender_of
from broker.transfer import Transfers
from broker.transfer.desk import Desk
from broker.transfer.leftovers import name_of_transfer
from broker.transfer.places import Room
from broker.transfer.receiving import WINDOW_S
from broker.transfer.sending import digest_file
from broker.transfer.threads import in_thread
from schemas.codec import clip, op_of
from schemas.envelope import Message
from schemas.errors import DecodeError, ErrorCode
from schemas.files import (
    FileAbort,
    FileChunk,
    FileDone,
    FileGet,
    FileOffer,
    FileWait,
    FileWindow,
    InputFile,
    OutputFile,
)

log = logging.getLogger(__name__)

#: Windows of all that is at work together fill at most half of the chunk queue; of one sender few are at work or wait,
#: so that none takes everybody's room, nor do all VMs of one host.
ROOM = Room(at_work=32, at_work_of_one=4, at_work_of_kin=24, known=1000, known_of_one=36, known_of_kin=750)
#: How often what killed transfers have left is looked for, seconds.
SWEEP_S = 600.0
#: Offers in a row that a receiver may leave unanswered before it counts as gone.
OFFERS_TO_THE_SILENT = 5

#: What is said in a transfer that is open, beside its chunks.
CONTROLS = FileWindow | FileWait | FileDone | FileAbort | FileOffer

#: Names the host of a VM; empty where none has reported it.
HostOf = Callable[[str], Awaitable[str]]


class Courier:
    """See the module."""

    def __init__(
        self,
        transfers: Transfers,
        store: Store,
        staging: Path,
        may_store: MayStore,
        host_of: HostOf,
        burials: Burials,
        metrics: Metrics,
        *,
        most_input_bytes: int = 64 << 30,
        most_staged_bytes: int = 0,
    ) -> None:
        """``most_staged_bytes``: see ``Staging``."""
        self._transfers, self._store = transfers, store
        self._burials, self._metrics = burials, metrics
        self._rights = Rights(store, may_store, most_input_bytes)
        self._kin, self._digests = Kin(host_of), Digests()
        self._staging = Staging(staging, self._kin.find, most_bytes=most_staged_bytes)
        self.desk = Desk(transfers, ROOM, kin_of=self._kin.known)

    def on_opening(self, delivery: Delivery) -> Awaitable[None] | None:
        """Take a delivery of ``vc.offers``; whoever opens a transfer asks until it is done."""
        return self._take_up(delivery, self._on_opening)

    def on_chunk(self, delivery: Delivery) -> Awaitable[None] | None:
        """Take a delivery of the queue for chunks, of which the receivers have granted what comes: nothing else."""
        return self._take_up(delivery, lambda sender, message: self._on_message(sender, message, FileChunk))

    def on_message(self, delivery: Delivery) -> Awaitable[None] | None:
        """Take a window or an end."""
        return self._take_up(delivery, lambda sender, message: self._on_message(sender, message, CONTROLS))

    async def close(self) -> None:
        """End what is going on; the other ends ask again, and another adapter goes on."""
        await self.desk.close()
        await self._kin.close()

    async def sweep(self) -> None:
        """Look after the staging directory and the store's unfinished files until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.remove_left_behind)
            except (OSError, StoreError) as error:
                log.error("sweep of the staging failed, again later", extra={"why": str(error)})
            await asyncio.sleep(SWEEP_S)

    def remove_left_behind(self) -> None:
        """Remove what transfers that broke off, and killed adapters, have left in the staging directory. Blocking."""
        self._staging.remove_left_behind()
        for name in self._store.remove_unfinished(LEFT_BEHIND_S):
            log.info("left behind in the store, removed", extra={"name": name})

    def _take_up(self, delivery: Delivery, handle: Callable[[str, Message], bool]) -> Awaitable[None] | None:
        """Acknowledge what can be read and hand it on; what cannot, or is not ours, goes to the dead letters."""
        sender = sender_of(delivery.routing_key, delivery.user_id)
        if sender is None:
            return self._put_aside(delivery, "foreign_key", "user_id is not the first word of the routing key")
        try:
            message = delivery.read()
        except DecodeError as error:
            return self._put_aside(delivery, "undecodable", error.reason)
        if not handle(sender, message):
            return self._put_aside(delivery, "not_taken", f"{op_of(message)} is not taken from {sender}")
        delivery.ack()
        return None

    async def _put_aside(self, delivery: Delivery, reason: str, text: str) -> None:
        self._metrics.refused(reason)
        await self._burials.bury(delivery, reason, text)

    def _drop(self, sender: str, reason: str) -> None:
        """Count what comes too late or too often: honest ends say such things too, if not often."""
        self._metrics.refused(reason)
        self._burials.charge(sender, reason)

    def _on_opening(self, sender: str, message: Message) -> bool:
        if not may_answer(sender) or not isinstance(message, FileOffer | FileGet):
            return False
        self._open(sender, message)
        return True

    def _on_message(self, sender: str, message: Message, kinds: type[Message] | UnionType) -> bool:
        is_taken = isinstance(message, kinds)
        if is_taken and not self._transfers.on_message(sender, message):
            self._drop(sender, "no_such_transfer")
        return is_taken

    def _open(self, sender: str, message: FileOffer | FileGet) -> None:
        if not self.desk.open(sender, message, lambda: self._serve(sender, message)):
            self._drop(sender, "flood")

    async def _serve(self, sender: str, message: FileOffer | FileGet) -> None:
        try:
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
            self._refuse(sender, message, ErrorCode.STORE, f"the adapter's disk: {error}")

    async def _take(self, sender: str, offer: FileOffer) -> None:
        file = await self._rights.permitted(sender, offer)
        if file is None:
            self._refuse(sender, offer, ErrorCode.FORBIDDEN, f"{sender} may not store {offer.file!r}")
            return
        if not await self._holds(file, offer):
            with await self._rights.promise(sender, offer, file):
                await self._receive(sender, offer, file)
        self._transfers.tell(sender, offer.reply, FileDone(transfer=offer.id))

    async def _holds(self, file: StoredFile, offer: FileOffer) -> bool:
        if not await asyncio.to_thread(self._store.holds, file, offer.size):
            return False
        if isinstance(file, InputFile):
            return True
        return await self._digest(file, lambda: self._store.digest(file)) == (offer.size, offer.sha256)

    async def _digest(self, file: StoredFile, read: Callable[[], Digest]) -> Digest:
        """Give the size and SHA-256 of a stored file; it is read once as long as it stays as it is."""
        return await self._digests.of(await asyncio.to_thread(self._store.state, file), read)

    async def _receive(self, sender: str, offer: FileOffer, file: StoredFile) -> None:
        """Take a file to a place of this call's own, and from there to the store."""
        async with self._staging.room_for(sender, name_of_transfer(sender, offer), offer.size) as place:
            try:
                await self._transfers.receive_file(
                    offer,
                    place.whole,
                    place.partial,
                    sender,
                    offer.reply,
                    confirm=lambda: self._keep(sender, place.whole, file),
                )
                self._metrics.moved("in", offer.size)
            finally:
                await asyncio.to_thread(place.whole.unlink, missing_ok=True)

    async def _keep(self, sender: str, whole: Path, file: StoredFile) -> None:
        """Move a whole file to the store; a store that will not have it fails the transfer, and so does an attempt
        that has ended while its output came: what a job has left changes no more."""
        if not await self._rights.may_still_store(sender, file):
            raise TransferFailed(ErrorCode.FORBIDDEN, f"{sender} may store {file!r} no more: its attempt has ended")
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
        path = await asyncio.to_thread(self._store.local, get.file)
        if path is not None:
            await self._send(sender, get, get.file, path)
            return
        size = await asyncio.to_thread(self._store.size, get.file)
        async with self._staging.room_for(sender, secrets.token_hex(20), size, way="out") as place:
            try:
                await in_thread(self._store.copy, get.file, place.whole)
                await self._send(sender, get, get.file, place.whole)
            finally:
                await asyncio.to_thread(place.whole.unlink, missing_ok=True)

    async def _send(self, sender: str, get: FileGet, file: StoredFile, path: Path) -> None:
        size, sha256 = await self._digest(file, lambda: digest_file(path))
        if isinstance(file, InputFile) and file.sha256 != sha256:
            log.error("the store's file is damaged", extra={"path": str(path), "sha256": sha256})
            self._refuse(sender, get, ErrorCode.CONFLICT, f"the store's file is damaged: input {file.sha256}")
            return
        offer = FileOffer(id=get.id, file=file, size=size, sha256=sha256)
        await self._transfers.send_file(
            path, offer, sender, get.reply, most_offers=OFFERS_TO_THE_SILENT, window_s=WINDOW_S
        )
        self._metrics.moved("out", size)

    def _refuse(self, sender: str, message: FileOffer | FileGet, code: ErrorCode, text: str) -> None:
        self._transfers.tell(sender, message.reply, FileAbort(transfer=message.id, code=code, message=clip(text)))
