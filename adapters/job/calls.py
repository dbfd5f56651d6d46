"""What consoles and clients ask of the centre: questions are answered from the ledger, orders carried out in portions.

Every question is acknowledged, whatever became of its answer: one that cannot be given would be asked again for ever.
An order is acknowledged when it is done, or after some seconds, with an answer that says that there is more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

import msgspec

from adapters.errors import AdapterError, LedgerUnavailable
from adapters.ledger import assignments, deletion, history, listing, orders, owners, queries, registry, showing, sources
from adapters.ledger.orders import Portion
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from broker.backoff import backoff
from broker.carrier import Carrier
from broker.delivery import Delivery
from broker.inbound import Letter, take_in
from broker.outbound import answer_of, body_of
from broker.routes import reply
from schemas.codec import clip, op_of
from schemas.envelope import Failed, Message, Reply
from schemas.errors import DecodeError, ErrorCode
from schemas.events import EventList, HostDetails, HostShow, VmShow
from schemas.grids import SourceDelete, SourceList, SourceRetry
from schemas.ids import Kind
from schemas.ledger import (
    HostList,
    Hosts,
    JobCancel,
    JobDelete,
    JobList,
    JobRecord,
    JobRetry,
    JobRow,
    Jobs,
    JobsChanged,
    JobShow,
    Registry,
    RegistryList,
)
from schemas.owners import OwnerList, OwnerSet

log = logging.getLogger(__name__)

#: Texts of a job in an answer that would not fit otherwise, characters; a full page of jobs fits then.
BRIEF_TEXT = 100
#: Events of a job in such an answer: the last.
BRIEF_EVENTS = 100
#: What a question is answered by.
ANSWERS: dict[type[Message], Callable[..., Reply]] = {
    JobList: listing.list_jobs,
    JobShow: queries.show,
    HostList: registry.hosts,
    RegistryList: registry.vms,
    HostShow: showing.host,
    VmShow: showing.vm,
    EventList: history.events,
    OwnerList: owners.listed,
    OwnerSet: owners.put,
    SourceList: sources.listed,
    SourceRetry: sources.retry,
    SourceDelete: sources.forget,
}
#: Those of them that change something, and are carried out in one transaction.
CHANGES: frozenset[type[Message]] = frozenset({OwnerSet, SourceRetry, SourceDelete})
#: What carries out a portion of an order.
ORDERS: dict[type[Message], Callable[..., Portion]] = {
    JobCancel: orders.cancel,
    JobRetry: orders.retry,
    JobDelete: deletion.delete_named,
}
#: How long an order is worked at before its sender is told that there is more, seconds.
ORDER_S = 5.0


class Calls:
    """Answers ``vc.calls``."""

    def __init__(self, connection: Carrier, writer: LedgerWriter, others: Callable[[Delivery], None]) -> None:
        """``others`` takes what is no call."""
        self._connection, self._writer, self._others = connection, writer, others

    async def on_delivery(self, delivery: Delivery) -> None:
        """Answer a question; hand everything else to the intake, which knows what is taken and what is not."""
        letter = take_in(delivery)
        if not isinstance(letter, Letter) or not _is_a_call(letter):
            self._others(delivery)
            return
        sender, message = letter.sender, letter.message
        answer = await (self._answer(message) if type(message) in ANSWERS else self._carry_out(sender, message))
        route = reply(self._connection.user, sender, message.reply)
        self._connection.send(*route, fitting(answer), message_id=answer.id, mandatory=False)
        delivery.ack()

    async def _answer(self, message: Message) -> Reply:
        try:
            return await answer_of_ledger(self._writer, message)
        except AdapterError as error:
            return Failed(call=message.id, code=error.code, message=str(error), hint=error.hint)
        except Exception as error:
            log.exception("question failed", extra={"op": op_of(message)})
            text = clip(f"{type(error).__name__}: {error}")
            return Failed(call=message.id, code=ErrorCode.INTERNAL, message=text, hint="look into the adapter's log")

    async def _carry_out(self, sender: str, message: Message) -> Reply:
        """Work at an order portion by portion; between them the writer takes what else has come."""
        ends = time.monotonic() + ORDER_S
        changed, pending, portion = 0, 0, None
        while portion is None or (not portion.is_last and time.monotonic() < ends):
            try:
                portion = await self._portion(sender, message)
            except AdapterError as error:
                return Failed(call=message.id, code=error.code, message=str(error), hint=error.hint)
            changed, pending = changed + portion.changed, pending + portion.pending
        return JobsChanged(call=message.id, changed=changed, pending=pending, more=not portion.is_last)

    async def _portion(self, sender: str, message: Message) -> Portion:
        """Write one portion; waits for a ledger that is away. Raises LedgerError."""
        for wait_s in backoff(0.2, 10.0):
            try:
                return await portion_of_order(self._writer, sender, message)
            except LedgerUnavailable as error:
                log.error("ledger unavailable, waiting", extra={"why": str(error)})
                await asyncio.sleep(wait_s)
        raise AssertionError("backoff has no end")


async def answer_of_ledger(writer: LedgerWriter, message: Message, **confined: str) -> Reply:
    """Give the answer to a question; ``confined`` may name the owner to whose jobs that is. Raises AdapterError."""
    work = partial(ANSWERS[type(message)], **confined)
    in_one = writer.write if type(message) in CHANGES else writer.read
    answer: Reply = await in_one(lambda tx: msgspec.structs.replace(work(tx, message), server_time_ms=tx.now_ms))
    return answer


async def portion_of_order(writer: LedgerWriter, by: str, message: Message, **confined: str) -> Portion:
    """Carry a portion of an order out; ``confined`` as above. Raises LedgerError."""

    def work(tx: Tx) -> Portion:
        done = ORDERS[type(message)](tx, message, by=by, **confined)
        assignments.match(tx)
        return done

    portion: Portion = await writer.write(work)
    return portion


def _is_a_call(letter: Letter) -> bool:
    return letter.kind is Kind.CONSOLE and type(letter.message) in ANSWERS | ORDERS


def fitting(answer: Reply) -> bytes:
    """Render an answer; of one that is too long, what a person misses least is left out, and a page is cut short."""
    shorter = _shorter(answer)
    while not _fits(answer) and shorter != answer:
        answer, shorter = shorter, _shorter(shorter)
    return answer_of(answer)


def _fits(answer: Reply) -> bool:
    try:
        return bool(body_of(answer))
    except DecodeError:
        return False


def _shorter(answer: Reply) -> Reply:
    """Shorten the texts of jobs, whose pages stay whole: who turns them takes a short one for the last."""
    match answer:
        case Jobs():
            return msgspec.structs.replace(answer, jobs=[_brief_row(row) for row in answer.jobs])
        case JobRecord():
            return _brief_record(answer)
        case Hosts() | Registry():
            return registry.shorter(answer)
        case HostDetails():
            return showing.shorter(answer)
    return answer


def _brief_row(row: JobRow) -> JobRow:
    return msgspec.structs.replace(row, reason=clip(row.reason, BRIEF_TEXT))


def _brief_record(record: JobRecord) -> JobRecord:
    """The last attempt keeps its outputs, the ones to fetch, unless nothing else is left that can be left out."""
    replace = msgspec.structs.replace
    attempts = [replace(a, cause=clip(a.cause, BRIEF_TEXT)) for a in record.attempts]
    last = max((a.attempt for a in attempts), default=0)
    brief = replace(
        record,
        job=_brief_row(record.job),
        cause=clip(record.cause, BRIEF_TEXT),
        attempts=[a if a.attempt == last else replace(a, outputs=[]) for a in attempts],
        events=[replace(e, detail=clip(e.detail, BRIEF_TEXT)) for e in record.events[-BRIEF_EVENTS:]],
    )
    return brief if brief != record else replace(record, attempts=[replace(a, outputs=[]) for a in attempts])
