"""Parts of outputs, read for the sites whose jobs have left them: each is asked for and answered by itself.

Nothing is kept between two parts, so a site may go on after any failure of its own or ours, at any adapter.
"""

from __future__ import annotations

import asyncio
import logging

from adapters.errors import AdapterError, LedgerError
from adapters.intake import Intake
from adapters.ledger import outputs
from adapters.ledger.outputs import LeftOutput
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.storage.contract import Store
from broker.carrier import Carrier
from broker.delivery import Delivery
from broker.inbound import Letter, take_in
from broker.outbound import send
from broker.routes import reply
from schemas.codec import clip
from schemas.envelope import Failed, Reply
from schemas.errors import ErrorCode
from schemas.files import OutputFile
from schemas.ids import Kind
from schemas.sites import OutputPart, OutputRead

log = logging.getLogger(__name__)

_AGAIN = "ask for that part again in a while"
_ASK = "`job.show` tells what a job has left"


class OutputReads:
    """Answers ``vc.reads``."""

    def __init__(
        self, connection: Carrier, writer: LedgerWriter, store: Store, metrics: Metrics, intake: Intake
    ) -> None:
        """``intake`` refuses what is no question of a site's."""
        self._connection, self._writer, self._store = connection, writer, store
        self._metrics, self._intake = metrics, intake

    async def on_delivery(self, delivery: Delivery) -> None:
        """Answer a question, whatever becomes of the answer: one that is lost is asked for again."""
        letter = take_in(delivery)
        if not isinstance(letter, Letter) or letter.kind is not Kind.SITE or not isinstance(letter.message, OutputRead):
            self._intake.on_delivery(delivery)
            return
        answer = await self._answer(letter.sender, letter.message)
        send(self._connection, reply(self._connection.user, letter.sender, ""), answer, mandatory=False)
        delivery.ack()

    async def _answer(self, site: str, message: OutputRead) -> Reply:
        try:
            return await self._part(site, message)
        except LedgerError as error:
            hint = _ASK if error.code is ErrorCode.NOT_FOUND else _AGAIN
            return Failed(call=message.id, code=error.code, message=clip(str(error)), hint=hint)
        except (AdapterError, OSError) as error:
            log.error("output not read", extra={"job": message.job, "site": site, "why": str(error)})
            code = getattr(error, "code", ErrorCode.STORE)
            return Failed(call=message.id, code=code, message=clip(str(error)), hint=_AGAIN)
        except Exception as error:
            log.exception("question failed", extra={"job": message.job, "site": site})
            text = clip(f"{type(error).__name__}: {error}")
            return Failed(call=message.id, code=ErrorCode.INTERNAL, message=text, hint="tell the centre's operator")

    async def _part(self, site: str, message: OutputRead) -> OutputPart:
        """Read a part. Raises AdapterError, OSError."""
        found: LeftOutput = await self._writer.read(lambda tx: outputs.find(tx, message.job, message.name, site))
        entry, data = found.entry, b""
        if message.offset < entry.size:
            file = OutputFile(job=message.job, attempt=found.attempt, name=entry.name)
            most = min(message.size, entry.size - message.offset)
            data = await asyncio.to_thread(self._store.read, file, message.offset, most)
            self._metrics.moved("out", len(data))
        return OutputPart(
            call=message.id,
            attempt=found.attempt,
            offset=message.offset,
            size=entry.size,
            sha256=entry.sha256,
            data=data,
        )
