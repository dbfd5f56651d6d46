"""What agents have rejected, and their words on it: moved to the dead letters, each agent within its share.

An agent may reject whatever it is sent and say of it what it likes. So both go by the centre, and the agent whose queue
it was, not who had sent it, is charged.
"""

from __future__ import annotations

from typing import Any

from broker.connection import Delivery
from broker.dead_letters import DeadLetterPublisher, LetterOrigin
from broker.routes import UP, sender_of


class Rejected:
    """Reads ``vc.rejected``."""

    def __init__(self, dead_letters: DeadLetterPublisher) -> None:
        self._dead_letters = dead_letters

    async def on_delivery(self, delivery: Delivery) -> None:
        """Move one message to the dead letters."""
        if delivery.exchange == UP:
            await self._move_word(delivery)
            return
        death = _newest_death(delivery.properties.headers or {})
        queue = str(death.get("queue") or "")
        origin = LetterOrigin(delivery.user_id, str(death.get("exchange") or ""), delivery.routing_key, queue)
        text = f"from {queue or 'a queue that it does not name'}"
        owner = queue.replace(".", "-", 1)
        await self._dead_letters.publish(
            delivery, str(death.get("reason") or "rejected"), text, origin=origin, owner=owner
        )

    async def _move_word(self, delivery: Delivery) -> None:
        if sender_of(delivery.routing_key, delivery.user_id) is None:
            await self._dead_letters.publish(
                delivery, "foreign_key", "user_id is not the first word of the routing key"
            )
        else:
            await self._dead_letters.publish(delivery, "refused", "an agent's word on what it rejected")


def _newest_death(headers: dict[str, Any]) -> dict[str, Any]:
    """Give the broker's own note on why it moved a message; its newest comes first."""
    deaths = headers.get("x-death")
    newest = deaths[0] if isinstance(deaths, list) and deaths else None
    return newest if isinstance(newest, dict) else {}
