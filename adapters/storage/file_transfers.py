"""A transfer served: who may offer or get which file, and the way between the wire and the store.

A file comes into a staging directory that all storage adapters of a machine share, so that another one can go on with
it; it moves to the store when its SHA-256 was found right.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from pathlib import Path

from adapters.errors import AdapterError, StoreError
from adapters.metrics import Metrics
from adapters.storage.contract import Store, StoredFile
from adapters.storage.digests import Digest, Digests
from adapters.storage.input_rights import InputRights
from adapters.storage.rights import Rights
from adapters.storage.staging import Staging
from broker.errors import TransferFailed
from broker.transfer import Transfers, into_file
from broker.transfer.leftovers import name_of_transfer
from broker.transfer.receiving import WINDOW_S
from broker.transfer.sending import digest_file
from broker.transfer.threads import in_thread
from schemas.codec import clip
from schemas.errors import ErrorCode
from schemas.files import FileAbort, FileDone, FileGet, FileOffer, InputFile, OutputFile
from schemas.ids import Kind, kind_of

log = logging.getLogger(__name__)

#: Offers in a row, half a minute of them, that a receiver may leave unanswered before it counts as gone.
OFFERS_TO_THE_SILENT = 3


class FileTransfers:
    """See the module."""

    def __init__(
        self,
        transfers: Transfers,
        store: Store,
        staging: Staging,
        rights: Rights,
        input_rights: InputRights,
        metrics: Metrics,
    ) -> None:
        self._transfers, self._store, self._staging = transfers, store, staging
        self._rights, self._input_rights, self._metrics = rights, input_rights, metrics
        self._digests = Digests()

    async def serve(self, sender: str, message: FileOffer | FileGet) -> None:
        """Take or give what is asked for; whatever goes wrong is told to who asked, and ends this transfer alone.

        Cancelled, it leaves what came to whoever serves the same transfer next."""
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
                    into_file(place.whole, place.partial),
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
        if not isinstance(get.file, InputFile | OutputFile):
            self._refuse(sender, get, ErrorCode.FORBIDDEN, f"{sender} may not have {get.file!r}")
            return
        if refusal := await self._refusal(sender, get, get.file):
            self._refuse(sender, get, ErrorCode.FORBIDDEN, refusal)
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

    async def _refusal(self, sender: str, get: FileGet, file: StoredFile) -> str:
        if isinstance(file, InputFile):
            return await self._input_rights.patient_refusal(sender, file.sha256, get.vm)
        return "" if kind_of(sender) is Kind.CONSOLE else "outputs are for consoles"

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
