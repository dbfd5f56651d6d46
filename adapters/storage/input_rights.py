"""Who may have which input of the store: a console any, a VM what its attempts name, a host what one of its VMs may.

A digest opens nothing by itself. A host is asked for by its own name and the name of its VM, which says whose it is; so
it learns nothing that it could not ask that VM for, whose memory it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from adapters.errors import LedgerUnavailable
from broker.backoff import backoff
from schemas.ids import Kind, host_of, kind_of

log = logging.getLogger(__name__)

#: Says whether a VM holds an attempt that names an input. It may raise LedgerUnavailable.
MayHave = Callable[[str, str], Awaitable[bool]]


class InputRights:
    """See the module."""

    def __init__(self, may_have: MayHave) -> None:
        self._may_have = may_have

    async def refusal(self, sender: str, sha256: str, vm: str = "") -> str:
        """Say why a sender may not have an input, for ``vm`` where it is that one's host; empty: it may.

        Raises LedgerUnavailable.
        """
        kind = kind_of(sender)
        if kind is Kind.CONSOLE:
            return ""
        if kind is Kind.HOST and host_of(vm) != sender:
            return f"{sender} may not ask for {vm[:128] or 'no VM'}: it is no VM of its own"
        if kind not in (Kind.HOST, Kind.VM):
            return f"{sender} may not have inputs"
        asking = vm if kind is Kind.HOST else sender
        if await self._may_have(asking, sha256):
            return ""
        return f"{asking} may not have the input {sha256}: it holds no attempt of a job that names it"

    async def patient_refusal(self, sender: str, sha256: str, vm: str = "") -> str:
        """As ``refusal``; waits for a ledger that is away."""
        for wait_s in backoff(0.2, 10.0):
            try:
                return await self.refusal(sender, sha256, vm)
            except LedgerUnavailable as error:
                log.error("ledger unavailable, waiting", extra={"why": str(error)})
                await asyncio.sleep(wait_s)
        raise AssertionError("backoff has no end")
