"""What an adapter says to a sender beside the outbox: answers that nobody stores, and refusals with dead letters."""

from __future__ import annotations

from adapters.metrics import Metrics
from broker.carrier import Carrier
from broker.dead_letters import DeadLetterPublisher
from broker.delivery import Delivery
from broker.outbound import answer_of
from broker.routes import reply, sender_of
from schemas.codec import clip
from schemas.envelope import Failed, Message, Reply
from schemas.errors import ErrorCode
from schemas.ids import Kind, kind_of
from schemas.ledger import JobVerdict

#: Kinds of principal that an adapter may write to; a one-time login listens to the key manager alone.
ANSWERED = frozenset({Kind.HOST, Kind.VM, Kind.SITE, Kind.CONSOLE})


def may_answer(principal: str) -> bool:
    """Say whether the broker lets an adapter write to a sender: an answer to any other would cost the link."""
    return kind_of(principal) in ANSWERED


class Replies:
    """See the module. Belongs to the adapter's loop."""

    def __init__(self, connection: Carrier, metrics: Metrics) -> None:
        self._connection, self._metrics = connection, metrics
        self.dead_letters = DeadLetterPublisher(connection)

    def answer(self, sender: str, message: Message, answer: Reply) -> None:
        """Send an answer that nobody stores: it is asked for again if it is lost."""
        route = reply(self._connection.user, sender, message.reply)
        self._connection.send(*route, answer_of(answer), message_id=answer.id, mandatory=False)

    async def refuse(
        self, delivery: Delivery, reason: str, text: str, sender: str = "", message: Message | None = None
    ) -> None:
        """Move the message to the dead letters, and tell the sender, where it can be told."""
        self._metrics.refused(reason)
        text = clip(text)
        if not await self.dead_letters.publish(delivery, reason, text):
            return  # a flood is not answered either
        call = message.id if message is not None else delivery.properties.message_id
        known = sender or sender_of(delivery.routing_key, delivery.user_id)
        if call and known and may_answer(known):
            refusal = _refusal(delivery.routing_key, call[:64], text)
            self.answer(delivery.user_id, message or refusal, refusal)


def _refusal(routing_key: str, call: str, text: str) -> Reply:
    """Say no in the words that the sender waits for: a submission is answered by a verdict."""
    if routing_key.endswith(".submit"):
        return JobVerdict(call=call, accepted=False, job="", reasons=[text])
    return Failed(call=call, code=ErrorCode.BAD_REQUEST, message=text, hint="mend the message, then send it again")
