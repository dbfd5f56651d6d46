"""What consoles and clients ask of the centre: answered from the ledger; orders go through the intake."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from adapters.errors import AdapterError
from adapters.intake import Intake
from adapters.ledger import queries
from adapters.ledger.transaction import Tx
from broker.connection import Connection, Delivery
from broker.routes import kind_of, reply, sender_of
from schemas.codec import decode, encode
from schemas.envelope import Failed, Message, Reply
from schemas.errors import DecodeError
from schemas.ledger import HostList, Hosts, JobList, JobShow, Registry, RegistryList

log = logging.getLogger(__name__)

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
            message = decode(delivery.body)
        except DecodeError:
            message = None
        if sender is None or message is None or kind_of(sender) != "console" or type(message) not in ANSWERS:
            self._intake.on_delivery(delivery)
            return
        answer = await self._answer(message)
        self._connection.send(*reply(self._connection.user, sender, message.reply), encode(answer), mandatory=False)
        delivery.ack()

    async def _answer(self, message: Message) -> Reply:
        work = ANSWERS[type(message)]
        try:
            answer: Reply = await self._intake.read(lambda tx: work(tx, message))
        except AdapterError as error:
            return Failed(call=message.id, code=error.code, message=str(error), hint="`volcloud job list` shows all")
        return answer
