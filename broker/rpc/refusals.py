"""What an agent cannot take: rejected, counted, and told to the centre, since an agent cannot write the dead letters.

One word for each body, and no more of them on their way at once than a few: who floods an agent fills a counter.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter

from broker.carrier import Carrier
from broker.daemon.tasks import OwnedTasks
from broker.delivery import Delivery
from broker.errors import NotDelivered
from broker.outbound import deliver
from broker.routes import up
from schemas.codec import clip
from schemas.envelope import Refused

log = logging.getLogger(__name__)

#: Words on refused messages that may be on their way; what comes faster is counted only.
MOST_REPORTS = 16


class Refusals:
    """See the module."""

    def __init__(self, connection: Carrier) -> None:
        self._connection = connection
        #: Messages refused since the start, by reason; goes out with the beats.
        self.counts: Counter[str] = Counter()
        self._reports = OwnedTasks("refusals")

    def refuse(self, delivery: Delivery, reason: str, text: str) -> None:
        """Reject a delivery, to the dead letters, count it, and report why."""
        self.counts[reason] += 1
        log.warning("message refused", extra={"reason": reason, "detail": text, "sender": delivery.user_id})
        is_first = delivery.spoil()
        delivery.reject()
        if not is_first or len(self._reports) >= MOST_REPORTS:
            return
        digest = hashlib.sha256(delivery.whole).hexdigest()
        report = Refused(sha256=digest, sender=delivery.user_id, reason=clip(f"{reason}: {text}"))
        self._reports.spawn(self._report(report))

    async def close(self) -> None:
        """Cancel what has not been told."""
        await self._reports.cancel()

    async def _report(self, report: Refused) -> None:
        try:
            await deliver(self._connection, up(self._connection.user, "refused"), report)
        except NotDelivered as error:
            log.info("refusal not reported", extra={"why": str(error)})
