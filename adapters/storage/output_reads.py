"""Parts of outputs, read for the sites whose jobs have left them: each is asked for and answered by itself.

Nothing is kept between two parts but where an output lies, so a site may go on after any failure of its own or ours, at
any adapter. What a guest has said of an output is compared with what the store has.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from adapters.ledger import outputs
from adapters.ledger.outputs import LastAttempt
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.site_door import Refuse, SiteDoor, failed
from adapters.storage.contract import Store
from broker.carrier import Carrier
from schemas.envelope import Message, Reply
from schemas.errors import ErrorCode
from schemas.files import OutputFile
from schemas.jobs import OutputEntry
from schemas.sites import OutputPart, OutputRead

#: Parts that are read at a time, of different sites; and outputs whose places are remembered.
AT_ONCE, MOST_KNOWN = 4, 1000


class OutputReads:
    """Answers ``vc.reads``."""

    def __init__(
        self, connection: Carrier, writer: LedgerWriter, store: Store, metrics: Metrics, refuse: Refuse
    ) -> None:
        self._writer, self._store, self._metrics = writer, store, metrics
        self.door = SiteDoor(connection, refuse, frozenset({OutputRead}), self._answer, at_once=AT_ONCE)
        self._known: OrderedDict[tuple[LastAttempt, str], OutputEntry] = OrderedDict()

    async def _answer(self, site: str, message: Message) -> Reply:
        assert isinstance(message, OutputRead)
        last, entry = await self._writer.read(lambda tx: self._find(tx, site, message))
        self._remember((last, message.name), entry)
        wanted, data = min(message.size, max(0, entry.size - message.offset)), b""
        if wanted:
            file = OutputFile(job=message.job, attempt=last.attempt, name=entry.name)
            data = await asyncio.to_thread(self._store.read, file, message.offset, wanted)
            self._metrics.moved("out", len(data))
        if len(data) < wanted:
            text = f"{message.name}: the store has less than the {entry.size} bytes that its guest has told of"
            return failed(message, ErrorCode.CONFLICT, text, "`job.retry` or a new job makes it")
        return OutputPart(
            call=message.id,
            attempt=last.attempt,
            offset=message.offset,
            total=entry.size,
            sha256=entry.sha256,
            data=data,
        )

    def _find(self, tx: Tx, site: str, message: OutputRead) -> tuple[LastAttempt, OutputEntry]:
        """Find what is asked for; the list of what an attempt has left may be long, and is read once for many parts."""
        last = outputs.last_of(tx, message.job, site)
        known = self._known.get((last, message.name))
        return last, known or outputs.find(tx, last, message.name)

    def _remember(self, key: tuple[LastAttempt, str], entry: OutputEntry) -> None:
        self._known[key] = entry
        self._known.move_to_end(key)
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
