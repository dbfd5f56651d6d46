"""VMs that are gone: the key manager is asked to delete their principals and queues, until it says that it has.

What is to be asked is in the registry's file, so no crash between a VM's end and the answer leaves a login behind.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator

from broker.backoff import backoff
from broker.daemon.wakeup import Wakeup
from broker.errors import BrokerError, RemoteError
from host_agent.registry import VmRegistry
from schemas.errors import ErrorCode

log = logging.getLogger(__name__)

#: Asks the key manager to delete a VM's principal and queues; returns once it has.
Revoke = Callable[[str], Awaitable[None]]


class Leaving:
    """See the module."""

    def __init__(self, registry: VmRegistry, revoke: Revoke) -> None:
        self._registry, self._revoke = registry, revoke
        self._wakeup = Wakeup()

    def look(self) -> None:
        """A VM is gone: do not wait until the next look."""
        self._wakeup.wake()

    async def run(self) -> None:
        """See all of them off, those that an earlier agent left too; until cancelled.

        One that cannot be seen off holds up no other: all are asked for in turn, with growing waits between turns.
        """
        waits = _waits()
        while True:
            self._wakeup.clear()
            for vm in self._registry.leaving:
                await self._see_off(vm)
            if self._registry.leaving:
                await self._wakeup.sleep(next(waits))
            else:
                waits = _waits()
                await self._wakeup.sleep(None)

    async def _see_off(self, vm: str) -> None:
        if vm not in self._registry.leaving:
            return  # it was taken back while others were seen off
        try:
            await self._ask(vm)
            self._registry.left(vm)
        except (BrokerError, OSError) as error:
            log.warning("vm not revoked, again soon", extra={"vm": vm, "why": str(error)})

    async def _ask(self, vm: str) -> None:
        try:
            await self._revoke(vm)
            log.info("vm revoked", extra={"vm": vm})
        except RemoteError as error:
            # A no is an answer: it was never ours, or is no VM's name.
            if error.code not in (ErrorCode.FORBIDDEN, ErrorCode.BAD_REQUEST, ErrorCode.NOT_FOUND):
                raise
            log.error("vm not revoked", extra={"vm": vm, "why": str(error)})


def _waits() -> Iterator[float]:
    return backoff(0.5, 300.0)
