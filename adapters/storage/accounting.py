"""To which accounting group a sender belongs: VMs of one host to one, since who has the host has them all; anybody
else to its own.

Asked of the ledger, and kept for a while. All VMs that no host has reported are taken for one host's: who makes VMs
and does not report them gains nothing by it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from adapters.errors import AdapterError
from schemas.ids import Kind, kind_of

log = logging.getLogger(__name__)

#: Name of the group of VMs whose host is not known.
UNREPORTED = "hosts that have not reported"
#: How long an answer is believed, seconds; a host reports its VMs at least every minute.
KNOWN_S, UNKNOWN_S = 600.0, 20.0
#: VMs that are remembered.
MOST_KNOWN = 20_000


class AccountingGroups:
    """See the module. Belongs to one loop."""

    def __init__(self, host_of: Callable[[str], Awaitable[str]], clock: Callable[[], float] = time.monotonic) -> None:
        """``host_of`` gives a VM's host, empty where none has reported it; it may raise AdapterError."""
        self._host_of, self._clock = host_of, clock
        self._known: dict[str, tuple[str, float]] = {}
        self._asking: dict[str, asyncio.Task[str]] = {}
        #: Called with a sender and its group when that was found.
        self.on_found: Callable[[str, str], None] = lambda *_: None

    def known(self, sender: str) -> str:
        """Name a sender's group without waiting: as unreported until the ledger has been asked."""
        if kind_of(sender) is not Kind.VM:
            return sender
        group, until_s = self._known.get(sender, (UNREPORTED, 0.0))
        if self._clock() >= until_s:
            self._ask(sender)
        return group

    async def find(self, sender: str) -> str:
        """Name a sender's group."""
        if kind_of(sender) is not Kind.VM:
            return sender
        group, until_s = self._known.get(sender, ("", 0.0))
        return group if self._clock() < until_s else await asyncio.shield(self._ask(sender))

    async def close(self) -> None:
        """Ask nothing more. Idempotent."""
        tasks = [*self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, sender: str) -> asyncio.Task[str]:
        task = self._asking.get(sender)
        if task is None:
            task = self._asking[sender] = asyncio.create_task(self._find(sender))
            task.add_done_callback(lambda _: self._asking.pop(sender, None))
        return task

    async def _find(self, sender: str) -> str:
        try:
            host = await self._host_of(sender)
        except AdapterError as error:
            log.warning("whose VM it is cannot be asked", extra={"vm": sender, "why": str(error)})
            host = ""
        group, keep_s = (host, KNOWN_S) if host else (UNREPORTED, UNKNOWN_S)
        if len(self._known) >= MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[sender] = group, self._clock() + keep_s
        self.on_found(sender, group)
        return group
