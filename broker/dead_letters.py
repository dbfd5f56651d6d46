"""Moving to the dead letters what a receiver of the centre cannot take, with the reason beside it."""

from __future__ import annotations

import logging

from broker.connection import Connection, Delivery
from broker.routes import DEAD

log = logging.getLogger(__name__)

#: Longest reason that goes into a header, characters.
MAX_REASON = 1000


async def bury(connection: Connection, delivery: Delivery, reason: str, text: str) -> None:
    """Publish a message to ``vc.dead``, then acknowledge it. Raises Forbidden.

    A message of a bundle takes the bundle along: sent again, the others have no effect. The origin goes into headers:
    nobody may publish under another's ``user_id``. After a failure it is unacknowledged and comes again, so it may lie
    there twice, never not at all.
    """
    log.warning("message refused", extra={"reason": reason, "detail": text, "sender": delivery.user_id})
    headers = {
        "x-volcloud-reason": f"{reason}: {text}"[:MAX_REASON],
        "x-volcloud-sender": delivery.user_id,
        "x-volcloud-exchange": delivery.exchange,
        "x-volcloud-key": delivery.routing_key,
    }
    message_id = delivery.properties.message_id or "unnamed"
    await connection.deliver(DEAD, "", delivery.whole, message_id=message_id, headers=headers)
    delivery.ack()
