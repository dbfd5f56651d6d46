"""What this host asks the storage adapters about inputs: whether a VM may have one, and for the file itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from broker.carrier import Carrier
from broker.delivery import Delivery
from broker.errors import TransferFailed
from broker.inbound import Refusal, take_in
from broker.outbound import deliver
from broker.routes import queue_of, up
from broker.transfer import Transfers
from broker.transfer.landing import Open
from broker.transfer.peer import ANY_ADAPTER
from schemas.envelope import Failed, Reply
from schemas.errors import ErrorCode
from schemas.files import FileGet, InputFile
from schemas.ids import Kind
from schemas.inputs import InputRight

#: How long the centre may take to say who may have what, seconds: a guest waits for it.
ANSWER_S = 5.0
#: One that did not, an older one say, is not asked again for that guest for so long, seconds: it asks for itself then.
NOT_AGAIN_S = 60.0


class CentreInputs:
    """See the module. Belongs to one loop."""

    def __init__(self, connection: Carrier, me: str) -> None:
        self._connection, self._me = connection, me
        self._transfers = Transfers(connection)
        self._asked: dict[str, asyncio.Future[Reply]] = {}
        #: Until when it is not asked for which guest: what is at fault may be of one guest, or of one question.
        self._silent_until_s: dict[str, float] = {}

    async def consume(self) -> None:
        """Take what comes to this host's queue of files."""
        queue = f"{queue_of(self._me)}.files"
        await self._connection.consume(queue, self.on_delivery, prefetch=64)

    async def demand_right(self, vm: str, sha256: str) -> None:
        """Return where a VM of this host's may have an input. Raises TransferFailed: it may not, or nobody answers."""
        if time.monotonic() < self._silent_until_s.get(vm, 0.0):
            raise TransferFailed(ErrorCode.TIMEOUT, "the centre did not say lately who may have what; it may be older")
        ask = InputRight(vm=vm, sha256=sha256)
        answer = self._asked[ask.id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_S):
                await deliver(self._connection, up(self._me, "offer"), ask, persistent=False)
                said = await answer
        except TimeoutError as error:
            self._not_answered(vm, time.monotonic())
            raise TransferFailed(ErrorCode.TIMEOUT, f"the centre says nothing in {ANSWER_S:g} s") from error
        finally:
            del self._asked[ask.id]
        if isinstance(said, Failed):
            raise TransferFailed(said.code, said.message)

    def _not_answered(self, vm: str, now_s: float) -> None:
        still = {one: until_s for one, until_s in self._silent_until_s.items() if until_s > now_s}
        self._silent_until_s = still | {vm: now_s + NOT_AGAIN_S}

    async def fetch(self, sha256: str, vm: str, land: Open, progress: Callable[[int], None]) -> None:
        """Fetch an input for a VM; through silences for ever, until cancelled. Raises TransferFailed."""
        get = FileGet(file=InputFile(sha256=sha256), vm=vm)
        await self._transfers.fetch_file(get, land, ANY_ADAPTER, progress=progress)

    def on_delivery(self, delivery: Delivery) -> None:
        """Take a delivery; what is for nobody is dropped."""
        delivery.ack()
        letter = take_in(delivery)
        if isinstance(letter, Refusal) or letter.kind is not Kind.ADAPTER:
            return
        if isinstance(letter.message, Reply):
            future = self._asked.get(letter.message.call)
            if future is not None and not future.done():
                future.set_result(letter.message)
        else:
            self._transfers.on_message(letter.sender, letter.message)
