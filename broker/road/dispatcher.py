"""Dispatch of what comes to one end of a road: to who reads its queue; settled once that one has acknowledged it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from broker.daemon.tasks import OwnedTasks
from broker.delivery import Settle, Subscription
from broker.errors import NotDelivered, Unroutable
from broker.inbound import receiver
from broker.road.session import Session
from broker.routes import DOWN, matches
from schemas.road import Say, Verdict

#: Takes a message that nobody at this end reads, to pass it on; it is settled as that went. Raises NotDelivered.
Otherwise = Callable[[Say], Awaitable[None]]
#: Says whose a message is.
SpeaksFor = Callable[[Say], str]


class _Method:
    """A delivery's method and properties, as an AMQP library gives them."""

    redelivered, delivery_mode = False, 2
    correlation_id = reply_to = headers = None

    def __init__(self, said: Say, sender: str) -> None:
        self.delivery_tag, self.exchange, self.routing_key = said.number, said.exchange, said.key
        self.user_id, self.message_id = sender, said.message_id


class Dispatcher:
    """See the module. What became of each message that came since the last ``forget`` is written to the other
    end."""

    def __init__(
        self, session: Session, write: Callable[[bytes], None], sender_of: SpeaksFor, otherwise: Otherwise | None
    ) -> None:
        self._session, self._write = session, write
        self._sender_of, self._otherwise = sender_of, otherwise
        #: Called with what is wrong with a message that was of no use to anybody.
        self.on_offence: Callable[[str], None] = lambda what: None
        self._readers: list[tuple[Subscription, Callable[..., None]]] = []
        self._handling = OwnedTasks("road's handlers")
        self._passing = OwnedTasks("road's messages to others")
        self._life = 0

    def add(self, subscription: Subscription) -> None:
        """Have what comes to a queue read."""
        self._readers.append((subscription, receiver(subscription, self, self._handling.spawn)))

    def forget(self) -> None:
        """The other end is another one: nobody is told what is settled of what was heard before,
        and what is still being passed on is let go."""
        self._life += 1
        self._passing.abort()

    async def close(self) -> None:
        """Cancel what is at work."""
        await self._handling.cancel()
        await self._passing.cancel()

    def dispatch(self, said: Say) -> None:
        """Hand a message to its reader."""
        method = _Method(said, self._sender_of(said))
        for subscription, receive in self._readers:
            if _reads(subscription, said):
                return receive(None, method, method, said.body)
        if self._otherwise is None:
            self.on_offence("messages for nobody")
            return self._settle(self._life, said.number, Verdict.UNROUTABLE, f"nobody reads {said.key} there")
        self._passing.spawn(self._pass_on(self._life, said, self._otherwise))
        return None

    def open(self, tag: int) -> Settle:
        """Give what settles a message; as with a broker, what is rejected has arrived all the same."""
        life = self._life
        return lambda _rejected: self._settle(life, tag, Verdict.TAKEN)

    def drop(self, tag: int) -> None:
        """Settle one that nobody reads."""
        self._settle(self._life, tag, Verdict.TAKEN)

    async def _pass_on(self, life: int, said: Say, otherwise: Otherwise) -> None:
        try:
            await otherwise(said)
        except Unroutable as error:
            self.on_offence("messages for nobody")
            self._settle(life, said.number, Verdict.UNROUTABLE, str(error))
        except NotDelivered as error:
            self._settle(life, said.number, Verdict.REFUSED, str(error))
        else:
            self._settle(life, said.number, Verdict.TAKEN)

    def _settle(self, life: int, number: int, verdict: Verdict, reason: str = "") -> None:
        if life == self._life:
            self._write(self._session.settle(number, verdict, reason))


def _reads(subscription: Subscription, said: Say) -> bool:
    if subscription.bind_to is None:
        return said.exchange == DOWN and said.key == subscription.queue
    exchange, pattern = subscription.bind_to
    return said.exchange == exchange and matches(pattern, said.key)
