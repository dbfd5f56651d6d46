"""Moving to the dead letters what a receiver of the centre cannot take, with the reason beside it.

Each principal within its share: what goes beyond is counted, and who goes far beyond is cut off, by the key manager.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from broker.carrier import Carrier
from broker.delivery import Delivery
from broker.errors import NotDelivered
from broker.offences import Measure, Offences
from broker.outbound import send
from broker.routes import DEAD, payer_of, within
from schemas.codec import clip
from schemas.enrol import PrincipalCut

log = logging.getLogger(__name__)

#: Longest reason that goes into a header, characters.
MAX_REASON = 1000


class LetterOrigin(NamedTuple):
    """Where a letter comes from, as far as the broker vouches for it."""

    sender: str
    exchange: str
    key: str
    #: The queue of the agent that rejected it; empty where the centre itself could not take it.
    queue: str = ""


class DeadLetterPublisher:
    """The dead letters that one process of the centre makes."""

    def __init__(
        self,
        connection: Carrier,
        *,
        cut_off: Callable[[str, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``cut_off`` takes a principal and the reason; without it the key manager is told."""
        self._connection, self._clock = connection, clock
        self._cut_off = cut_off or self._ask_for_cut
        self._offences = Offences()

    async def publish(
        self, delivery: Delivery, reason: str, text: str, *, origin: LetterOrigin | None = None, owner: str = ""
    ) -> bool:
        """Publish a message to ``vc.dead``, then acknowledge it. Settles it whatever happens.

        False: dropped, because ``owner``, else its sender, has had its share, or a part of its bundle lies there.
        A message of a bundle takes the bundle along: sent again, the others have no effect. The origin goes into
        headers: nobody may publish under another's ``user_id``. Killed in the midst it comes again, so a letter may lie
        there twice, never not at all.
        """
        if not delivery.spoil():
            delivery.ack()
            return False
        who = owner or payer_of(delivery.exchange, delivery.routing_key, delivery.user_id)
        measure = self._offences.judge(who, len(delivery.whole), self._clock())
        if measure is Measure.CUT_OFF:
            self._cut_off(who, clip(f"too many messages that nobody can take, the last one {reason}: {text}", 200))
        if measure is not Measure.KEEP:
            delivery.ack()
            return False
        log.warning("message refused", extra={"reason": reason, "detail": clip(text), "sender": who})
        try:
            await self._send(delivery, f"{reason}: {text}"[:MAX_REASON], origin or _origin_of(delivery))
        except NotDelivered as error:
            log.error("dead letter not delivered", extra={"sender": who, "why": str(error)})
            delivery.reject()
        else:
            delivery.ack()
        return True

    def charge(self, who: str, reason: str, size_bytes: int = 0, *, offences: int = 1) -> None:
        """Count a message that had no effect, and is no letter either, against its sender. ``offences`` 0: its bytes
        alone."""
        if self._offences.charge(who, size_bytes, self._clock(), offences=offences) is Measure.CUT_OFF:
            self._cut_off(who, clip(f"too many messages without effect, the last one {reason}", 200))

    def is_beyond(self, who: str) -> bool:
        """Say whether somebody has gone beyond all bounds: nothing that it sends need be read."""
        return self._offences.is_beyond(who, self._clock())

    def tell(self) -> None:
        """Log what was dropped since this was called last, a line for each principal."""
        for who, count in self._offences.take_dropped().items():
            log.warning("messages dropped, beyond its share", extra={"sender": who, "count": count})

    async def _send(self, delivery: Delivery, reason: str, origin: LetterOrigin) -> None:
        headers = {"x-volcloud-reason": reason}
        headers |= {f"x-volcloud-{name}": value for name, value in origin._asdict().items()}
        message_id = delivery.properties.message_id or "unnamed"
        await self._connection.deliver(DEAD, "", delivery.whole, message_id=message_id, headers=headers)

    def _ask_for_cut(self, who: str, reason: str) -> None:
        """One message more or less of many: a lost one is followed by another a minute later."""
        log.error("principal to be cut off", extra={"sender": who, "why": reason})
        message = PrincipalCut(target="keys", principal=who, reason=reason)
        send(self._connection, within(self._connection.user, "cut"), message)


def _origin_of(delivery: Delivery) -> LetterOrigin:
    return LetterOrigin(delivery.user_id, delivery.exchange, delivery.routing_key)
