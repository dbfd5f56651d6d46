"""Inputs of this host's guests put together: the store, its fetches, and who of the guests is served.

A host whose driver has no medium, or that keeps no inputs, serves nobody; its guests fetch for themselves.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from broker.carrier import Carrier
from broker.token_buckets import TokenBuckets
from host_agent.hypervisors.contract import Hypervisor
from host_agent.inputs.centre import CentreInputs
from host_agent.inputs.fetches import InputFetches
from host_agent.inputs.guests import InputGuests
from host_agent.inputs.serving import DOUBTS, DOUBTS_PER_S, WANTS, WANTS_PER_S, InputHouse, Served
from host_agent.inputs.store import InputStore
from host_agent.inputs.sums import InputSums
from schemas.vms import InputFacts

log = logging.getLogger(__name__)


class HostInputs:
    """See the module. Belongs to one loop."""

    def __init__(
        self,
        directory: Path,
        hypervisor: Hypervisor,
        connection: Carrier,
        me: str,
        *,
        limit_bytes: int,
        spare_bytes: int,
    ) -> None:
        self._hypervisor = hypervisor
        self._store = InputStore(directory.absolute(), limit_bytes=limit_bytes, spare_bytes=spare_bytes)
        self._centre = CentreInputs(connection, me)
        self._fetches = InputFetches(self._store, self._centre.fetch)
        self._served = Served()
        self.guests = InputGuests()

    async def open(self) -> None:
        """Be ready to serve, before guests are met; a disk that fails is logged, and nobody is served then."""
        medium = self._hypervisor.capabilities.inputs
        if not self._store.limit_bytes or medium is None:
            return
        try:
            await asyncio.to_thread(self._store.open)
        except OSError as error:
            log.error("no inputs are kept for guests", extra={"why": str(error)})
            return
        await self._centre.consume()
        wants, doubts = TokenBuckets(WANTS, WANTS_PER_S), TokenBuckets(DOUBTS, DOUBTS_PER_S)
        self.guests.house = InputHouse(
            self._store, self._fetches, InputSums(), self._centre, medium, self._served, wants, doubts
        )

    async def close(self) -> None:
        """Give up what is at work; what guests are shown is taken away. Idempotent."""
        await self.guests.close()
        await self._fetches.close()

    def facts(self) -> InputFacts | None:
        """Say what is kept and what was served; None where nobody is served, or the disk fails."""
        if not self.guests.serves:
            return None
        try:
            files, kept_bytes = self._store.kept()
        except OSError as error:
            log.error("kept inputs cannot be counted", extra={"why": str(error)})
            return None
        served = self._served
        return InputFacts(
            limit_bytes=self._store.limit_bytes,
            kept_bytes=kept_bytes,
            files=files,
            fetches=self._fetches.made,
            fetched_bytes=self._fetches.fetched_bytes,
            served=served.files,
            served_bytes=served.octets,
            hits=served.hits,
            refused=served.refused,
            evictions=self._store.evictions,
        )
