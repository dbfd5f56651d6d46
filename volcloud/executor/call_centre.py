"""What the executor asks of the centre and tells a person: questions are asked until they are answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from broker.errors import BrokerError
from schemas.ledger import MAX_LISTED, JobState
from schemas.plain_text import plain
from volcloud.client.async_client import AsyncClient
from volcloud.client.centre_caller import insist
from volcloud.client.shown import JobPage
from volcloud.errors import CommandFailed, VolcloudError

log = logging.getLogger(__name__)

#: For how long an order for what is not wanted any more is given again, seconds.
PUT_AWAY_S = 60.0
#: What may go wrong between us and the centre, and with our own disk.
FAULTS = (VolcloudError, BrokerError, OSError)


class CallCentre:
    """See the module."""

    def __init__(self, client: AsyncClient, say: Callable[[str], None]) -> None:
        self.jobs, self._client, self._say = client.jobs, client, say
        self._told = ""

    def name(self, batch: str) -> str:
        """Give the full name of a batch of ours, or of a job of one."""
        return f"{self._client.user}/{batch}"

    async def insist(self, ask: Callable[[], Any]) -> Any:
        """Ask for as long as nobody answers, and say so."""
        return await insist(ask, deadline=None, on_trouble=self._on_trouble)

    async def list(self, batch: str, *, states: Iterable[JobState] = (), limit: int = MAX_LISTED) -> JobPage:
        """List jobs of a batch."""
        ask = partial(self.jobs.list, owner=self._client.user, job=batch, states=states, limit=limit)
        page: JobPage = await self.insist(ask)
        return page

    async def order(self, give: Callable[[str], Any], name: str) -> None:
        """Have jobs cancelled or deleted; where that cannot be for a while it is told. That there are none is no
        fault."""
        try:
            await insist(partial(give, name), deadline=time.monotonic() + PUT_AWAY_S, on_trouble=self._on_trouble)
        except CommandFailed as error:
            log.debug("nothing to put away", extra={"job": name, "why": str(error)})
        except FAULTS as error:
            if getattr(error, "code", None) != "not_found":
                self.tell(f"{name} is not wanted any more, and stays at the centre: {error}")

    def news(self) -> None:
        """Something moves again: what was told may be told anew."""
        self._told = ""

    def tell(self, text: str) -> None:
        """Tell a person, once; who cannot be told holds nothing up."""
        if text == self._told:
            return
        self._told = text
        try:
            self._say(plain(text))
        except BaseException:  # it ends neither the loop nor the calls
            log.exception("nobody could be told", extra={"what": text})

    def _on_trouble(self, trouble: Exception) -> None:
        self.tell(f"{trouble}; it is asked again")
