"""The storage adapter's transfers: who is heard, who has a place, who is told to wait. ``file_transfers`` serves each.

What cannot be read, or is not for it, is a dead letter of its sender; what comes too late or too often is
counted against it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from types import UnionType

from adapters.errors import AdapterError, StoreError
from adapters.metrics import Metrics
from adapters.replies import may_answer
from adapters.storage.accounting import AccountingGroups
from adapters.storage.contract import Store
from adapters.storage.file_transfers import FileTransfers
from adapters.storage.input_rights import InputRights, MayHave
from adapters.storage.rights import MayStore, Rights
from adapters.storage.staging import LEFT_BEHIND_S, Staging, key_of
from broker.connection import Delivery
from broker.daemon.tasks import OwnedTasks
from broker.dead_letters import DeadLetterPublisher
from broker.inbound import Refusal, take_in
from broker.transfer import Transfers
from broker.transfer.leftovers import name_of_transfer
from broker.transfer.scheduler import TransferLimits
from broker.transfer.transfer_queue import TransferQueue
from schemas.codec import clip, op_of
from schemas.envelope import Done, Failed, Message
from schemas.errors import ErrorCode
from schemas.files import (
    FileAbort,
    FileChunk,
    FileDone,
    FileGet,
    FileOffer,
    FileWait,
    FileWindow,
)
from schemas.ids import Kind, kind_of
from schemas.inputs import InputRight

log = logging.getLogger(__name__)

#: Windows of all that is at work together fill at most half of the chunk queue; of one sender few are at work or wait,
#: so that none takes everybody's room, nor do all VMs of one host.
LIMITS = TransferLimits(at_work=32, at_work_of_one=4, at_work_of_kin=24, known=1000, known_of_one=36, known_of_kin=750)
#: Questions of hosts, who may have what, that are being looked up at a time.
MOST_ANSWERS = 200
#: How often what killed transfers have left is looked for, seconds.
SWEEP_S = 600.0

#: What is said in a transfer that is open, beside its chunks.
CONTROLS = FileWindow | FileWait | FileDone | FileAbort | FileOffer

#: Names the host of a VM; empty where none has reported it.
HostOf = Callable[[str], Awaitable[str]]


class TransferServer:
    """See the module."""

    def __init__(
        self,
        transfers: Transfers,
        store: Store,
        staging: Path,
        may_store: MayStore,
        may_have: MayHave,
        host_of: HostOf,
        dead_letters: DeadLetterPublisher,
        metrics: Metrics,
        *,
        most_input_bytes: int = 64 << 30,
        most_staged_bytes: int = 0,
    ) -> None:
        """``most_staged_bytes``: see ``Staging``."""
        self._transfers, self._store = transfers, store
        self._dead_letters, self._metrics = dead_letters, metrics
        self._groups = AccountingGroups(host_of)
        self._staging = Staging(staging, self._groups.find, most_bytes=most_staged_bytes, waiting=self._waiting)
        rights = Rights(store, may_store, most_input_bytes)
        self._input_rights = InputRights(may_have)
        self._file_transfers = FileTransfers(transfers, store, self._staging, rights, self._input_rights, metrics)
        self._answering = OwnedTasks("answers on inputs")
        self.queue = TransferQueue(transfers, LIMITS, kin_of=self._groups.known)
        self._groups.on_found = self.queue.recognise

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
        await self.queue.close()
        await self._answering.cancel()
        await self._groups.close()

    async def sweep(self) -> None:
        """Look after the staging directory and the store's unfinished files until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.remove_left_behind, self._waiting())
            except (OSError, StoreError) as error:
                log.error("sweep of the staging failed, again later", extra={"why": str(error)})
            await asyncio.sleep(SWEEP_S)

    def remove_left_behind(self, waiting: Collection[str] = frozenset()) -> None:
        """Remove what transfers that broke off, and killed adapters, have left in the staging directory. Blocking."""
        self._staging.remove_left_behind(waiting)
        for name in self._store.remove_unfinished(LEFT_BEHIND_S):
            log.info("left behind in the store, removed", extra={"name": name})

    def _waiting(self) -> Collection[str]:
        """Give the keys of the files that come or wait to come."""
        return {key_of(sender, name_of_transfer(sender, offer)) for sender, offer in self.queue.offers()}

    def _take_up(self, delivery: Delivery, handle: Callable[[str, Message], bool]) -> Awaitable[None] | None:
        """Acknowledge what can be read and hand it on; what cannot, or is not ours, goes to the dead letters."""
        letter = take_in(delivery)
        if isinstance(letter, Refusal):
            return self._put_aside(delivery, letter.reason, letter.detail)
        if not handle(letter.sender, letter.message):
            text = f"{op_of(letter.message)} is not taken from {letter.sender}"
            return self._put_aside(delivery, "not_taken", text)
        delivery.ack()
        return None

    async def _put_aside(self, delivery: Delivery, reason: str, text: str) -> None:
        self._metrics.refused(reason)
        await self._dead_letters.publish(delivery, reason, text)

    def _drop(self, sender: str, reason: str) -> None:
        """Count what comes too late or too often: honest ends say such things too, if not often."""
        self._metrics.refused(reason)
        self._dead_letters.charge(sender, reason)

    def _on_opening(self, sender: str, message: Message) -> bool:
        if isinstance(message, InputRight) and kind_of(sender) is Kind.HOST:
            self._answer_soon(sender, message)
            return True
        if not may_answer(sender) or not isinstance(message, FileOffer | FileGet):
            return False
        self._open(sender, message)
        return True

    def _answer_soon(self, host: str, message: InputRight) -> None:
        """Answer a host, unless so many are asked about already: it asks again, or its guest asks for itself."""
        if len(self._answering) < MOST_ANSWERS:
            self._answering.spawn(self._answer(host, message))
        else:
            self._metrics.refused("flood")

    async def _answer(self, host: str, message: InputRight) -> None:
        try:
            refusal = await self._input_rights.refusal(host, message.sha256, message.vm)
        except AdapterError as error:
            log.warning("who may have an input cannot be asked", extra={"host": host, "why": str(error)})
            return
        no = Failed(call=message.id, code=ErrorCode.FORBIDDEN, message=clip(refusal), hint="ask for what its jobs name")
        self._transfers.tell(host, "", no if refusal else Done(call=message.id))

    def _on_message(self, sender: str, message: Message, kinds: type[Message] | UnionType) -> bool:
        is_taken = isinstance(message, kinds)
        if is_taken and not self._transfers.on_message(sender, message):
            self._drop(sender, "no_such_transfer")
        return is_taken

    def _open(self, sender: str, message: FileOffer | FileGet) -> None:
        if not self.queue.open(sender, message, lambda: self._file_transfers.serve(sender, message)):
            # Who has many files says of each one every few seconds that it is there: no offence, however many.
            self._metrics.refused("flood")
