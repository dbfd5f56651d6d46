"""The storage adapter's transfers: who may offer or get which file, and the way between the wire and the store.

A file comes into a staging directory that all storage adapters of a machine share, so that another one can go on with
it; it moves to the store when its SHA-256 was found right.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import UnionType

from adapters.errors import AdapterError
from adapters.metrics import Metrics
from adapters.outgoing import may_answer
from adapters.storage.errors import StoreError, TooLarge
from adapters.storage.store import Store, StoredFile
from broker.connection import Delivery
from broker.dead_letters import Burials
from broker.errors import TransferFailed
from broker.routes import kind_of, sender_of
from broker.transfer import Transfers
from broker.transfer.desk import Desk, Room
from broker.transfer.leftovers import name_of_partial, remove_left_behind
from broker.transfer.partial import hold
from broker.transfer.sending import digest_file
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
#: so that none takes everybody's room.
ROOM = Room(at_work=32, at_work_of_one=4, known=1000, known_of_one=36)
#: Age at which a file in the staging directory that nobody holds is nobody's any more, seconds.
LEFT_BEHIND_S = 86400.0
#: Files of transfers that broke off, kept at most.
MOST_LEFT_BEHIND = 1000
#: How often they are looked for, seconds.
SWEEP_S = 600.0
#: Offers in a row that a receiver may leave unanswered before it counts as gone.
OFFERS_TO_THE_SILENT = 5

#: What is said in a transfer that is open, beside its chunks.
CONTROLS = FileWindow | FileWait | FileDone | FileAbort | FileOffer

#: Says how many bytes a VM may store of an attempt: None where it does not hold it.
MayStore = Callable[[str, OutputFile], Awaitable[int | None]]


class Courier:
    """See the module."""

    def __init__(
        self,
        transfers: Transfers,
        store: Store,
        staging: Path,
        may_store: MayStore,
        burials: Burials,
        metrics: Metrics,
        *,
        most_input_bytes: int = 64 << 30,
    ) -> None:
        self._transfers, self._store, self._staging = transfers, store, staging
        self._may_store, self._burials = may_store, burials
        self._metrics = metrics
        self._most_input_bytes = most_input_bytes
        #: Bytes of outputs on their way, by attempt.
        self._promised: Counter[tuple[str, int]] = Counter()
        self.desk = Desk(transfers, ROOM)
        staging.mkdir(parents=True, exist_ok=True)

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
        paths = self._staging.iterdir()
        for path in remove_left_behind(paths, now_s=time.time(), keep_s=LEFT_BEHIND_S, most=MOST_LEFT_BEHIND):
            log.info("left behind, removed", extra={"path": path.name})
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
        file = await self._permitted(sender, offer)
        if file is None:
            self._refuse(sender, offer, ErrorCode.FORBIDDEN, f"{sender} may not store {offer.file!r}")
            return
        if not await asyncio.to_thread(self._store.holds, file, offer.size, offer.sha256):
            with await self._promise(sender, offer, file):
                await self._receive(sender, offer, file)
        self._transfers.tell(sender, offer.reply, FileDone(transfer=offer.id))

    async def _receive(self, sender: str, offer: FileOffer, file: StoredFile) -> None:
        """Take a file to a place of this call's own, and from there to the store."""
        partial = self._staging / f"in-{name_of_partial(sender, offer)}"
        whole = self._staging / f"in-{secrets.token_hex(16)}"
        try:
            await self._transfers.receive_file(
                offer, whole, partial, sender, offer.reply, confirm=lambda: self._keep(sender, whole, file)
            )
            self._metrics.moved("in", offer.size)
        finally:
            await asyncio.to_thread(whole.unlink, missing_ok=True)

    async def _promise(self, sender: str, offer: FileOffer, file: StoredFile) -> AbstractContextManager[None]:
        """Count a file against what its attempt may store, until it is there or given up. Raises TooLarge before the
        first byte is taken."""
        if isinstance(file, InputFile):
            _refuse_over(self._most_input_bytes, offer.size, f"input {file.sha256}")
            return nullcontext()
        most = await self._may_store(sender, file) or 0
        others = await asyncio.to_thread(self._store.stored_bytes, file) + self._promised[file.job, file.attempt]
        name = f"output {file.name!r} of {file.job}"
        _refuse_over(most, others + offer.size, f"{name} and the others of its attempt" if others else name)
        return self._promised_while(file, offer.size)

    @contextmanager
    def _promised_while(self, file: OutputFile, size: int) -> Iterator[None]:
        key = (file.job, file.attempt)
        self._promised[key] += size
        try:
            yield
        finally:
            self._promised[key] -= size
            if not self._promised[key]:
                del self._promised[key]

    async def _keep(self, sender: str, whole: Path, file: StoredFile) -> None:
        """Move a whole file to the store; a store that will not have it fails the transfer, and so does an attempt
        that has ended while its output came: what a job has left changes no more."""
        if isinstance(file, OutputFile) and await self._may_store(sender, file) is None:
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
        path, is_copy = await asyncio.to_thread(self._store.local, get.file, self._staging)
        held = hold(path) if is_copy else -1
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
                os.close(held)
                await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _permitted(self, sender: str, offer: FileOffer) -> StoredFile | None:
        """Give the file if the sender may store it: consoles inputs, VMs outputs of the attempts that they hold."""
        if isinstance(offer.file, InputFile) and kind_of(sender) == "console" and offer.file.sha256 == offer.sha256:
            return offer.file
        if isinstance(offer.file, OutputFile) and await self._may_store(sender, offer.file) is not None:
            return offer.file
        return None

    def _refuse(self, sender: str, message: FileOffer | FileGet, code: ErrorCode, text: str) -> None:
        self._transfers.tell(sender, message.reply, FileAbort(transfer=message.id, code=code, message=clip(text)))


def _refuse_over(most: int, size: int, what: str) -> None:
    if size > most:
        text = f"{what}: {size} bytes are over the limit of {most >> 20} MiB"
        raise TooLarge(f"{text}; a job asks for more by requirements.disk_mib")
