"""What consoles and clients ask of the centre: answered from the ledger; orders go through the intake.

Every question is acknowledged, whatever became of its answer: one that cannot be given would be asked again for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from adapters.errors import AdapterError
from adapters.intake import Intake, body_of
from adapters.ledger import queries
from adapters.ledger.transaction import Tx
from broker.connection import Connection, Delivery
from broker.routes import kind_of, reply, sender_of
from schemas.codec import clip, encode, op_of
from schemas.envelope import Failed, Message, Reply
from schemas.errors import DecodeError, ErrorCode
from schemas.ledger import HostList, Hosts, JobList, JobRecord, JobRow, Jobs, JobShow, Registry, RegistryList

log = logging.getLogger(__name__)

#: Texts of a job in an answer that would not fit otherwise, characters; a full page of jobs fits then.
BRIEF_TEXT = 100
#: Events of a job in such an answer: the last.
BRIEF_EVENTS = 100
#: What a reading question is answered by.
ANSWERS: dict[type[Message], Callable[[Tx, Any], Reply]] = {
    JobList: queries.list_jobs,
    JobShow: queries.show,
    HostList: lambda tx, message: Hosts(call=message.id, hosts=queries.hosts(tx)),
    RegistryList: lambda tx, message: Registry(call=message.id, vms=queries.registry(tx, message.pattern)),
}


class Calls:
    """Answers ``vc.calls``."""

    def __init__(self, connection: Connection, intake: Intake) -> None:
        self._connection, self._intake = connection, intake

    async def on_delivery(self, delivery: Delivery) -> None:
        """Answer a question; hand everything else to the intake, which knows what is taken and what is not."""
        sender = sender_of(delivery.routing_key, delivery.user_id)
        try:
            message = delivery.read()
        except DecodeError:
            message = None
        if sender is None or message is None or kind_of(sender) != "console" or type(message) not in ANSWERS:
            self._intake.on_delivery(delivery)
            return
        answer = await self._answer(message)
        self._connection.send(*reply(self._connection.user, sender, message.reply), _fitting(answer), mandatory=False)
        delivery.ack()

    async def _answer(self, message: Message) -> Reply:
        work = ANSWERS[type(message)]
        try:
            answer: Reply = await self._intake.read(lambda tx: work(tx, message))
        except AdapterError as error:
            return Failed(call=message.id, code=error.code, message=str(error), hint="`volcloud job list` shows all")
        except Exception as error:
            log.exception("question failed", extra={"op": op_of(message)})
            text = clip(f"{type(error).__name__}: {error}")
            return Failed(call=message.id, code=ErrorCode.INTERNAL, message=text, hint="look into the adapter's log")
        return answer


def _fitting(answer: Reply) -> bytes:
    """Render an answer; of one that is too long, what a person misses least is left out."""
    try:
        return encode(answer)
    except DecodeError:
        return body_of(_brief(answer))


def _brief(answer: Reply) -> Reply:
    """Shorten texts, never a page: who turns pages takes a short one for the last."""
    match answer:
        case Jobs():
            return msgspec.structs.replace(answer, jobs=[_brief_row(row) for row in answer.jobs])
        case JobRecord():
            return _brief_record(answer)
    return answer


def _brief_row(row: JobRow) -> JobRow:
    return msgspec.structs.replace(row, reason=clip(row.reason, BRIEF_TEXT))


def _brief_record(record: JobRecord) -> JobRecord:
    """The last attempt keeps its outputs: they are the ones to fetch."""
    replace = msgspec.structs.replace
    attempts = [replace(a, cause=clip(a.cause, BRIEF_TEXT)) for a in record.attempts]
    last = max((a.attempt for a in attempts), default=0)
    return replace(
        record,
        job=_brief_row(record.job),
        attempts=[a if a.attempt == last else replace(a, outputs=[]) for a in attempts],
        events=[replace(e, detail=clip(e.detail, BRIEF_TEXT)) for e in record.events[-BRIEF_EVENTS:]],
    )
