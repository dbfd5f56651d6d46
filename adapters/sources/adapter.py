"""The source adapter put together: one grid, asked for jobs, told how far they are and how they ended.

It talks to the grid, the ledger and the store, and publishes what the ledger says; it takes no message of anybody's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from adapters.catalogues.contract import Catalogue
from adapters.catalogues.plugins import make_catalogue
from adapters.errors import LedgerError
from adapters.grid_stores.contract import GridStore
from adapters.grid_stores.plugins import make_grid_store
from adapters.ledger import acquisitions, deliveries, sources
from adapters.ledger.engine import Ledger
from adapters.ledger.policy import Policy
from adapters.ledger.transaction import Tx
from adapters.ledger_writer import LedgerWriter
from adapters.metrics import Metrics
from adapters.sources.acquiring import Acquiring
from adapters.sources.beating import Beating
from adapters.sources.config import OF_A_SOURCE, SourceAdapterConfig
from adapters.sources.contract import GridSource, names_takings
from adapters.sources.delivering import AT_ONCE, Delivering
from adapters.sources.lane import Lane, Troubles
from adapters.sources.lost_takings import LostTakings
from adapters.sources.plugins import make_source
from adapters.sources.staging import GridStageIn
from adapters.sources.workplace import Workplace
from adapters.storage.contract import Store
from adapters.storage.store import FsspecStore
from broker.address import read_address
from broker.backoff import backoff
from broker.carrier import Carrier
from broker.connection import CENTRE_WAIT_MOST_S, Connection

log = logging.getLogger(__name__)

#: How often the ledger is told how the source is, seconds; and how long what was taken is tried to be given back.
TELL_S, GIVE_BACK_S = 5.0, 5.0


class SourceAdapter:
    """One instance; several may share a source."""

    def __init__(
        self,
        connection: Carrier,
        ledger: Ledger,
        store: Store,
        metrics: Metrics,
        source: GridSource,
        config: SourceAdapterConfig,
        grid_store: GridStore | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        self._connection, self._metrics = connection, metrics
        self._name, self._kind = config.name, str(config.source.get("kind", ""))
        self._writer = LedgerWriter(connection, ledger, metrics)
        self._troubles = Troubles()
        self._lanes: list[tuple[Lane, Callable[[], Awaitable[float]]]] = []
        self._workplace = Workplace(Path(config.staging))
        directory = self._workplace.path
        acquire, stage = self._lane("acquire"), self._lane("stage-in", AT_ONCE)
        beat, deliver, report = self._lane("beat"), self._lane("deliver", AT_ONCE), self._lane("report")
        most, longest_s = config.most_at_once, config.longest_pause_s or source.longest_pause_s
        parts = (self._name, source, self._writer)
        acquiring = Acquiring(*parts, acquire, most, longest_s, stage.wake)
        delivering = Delivering(*parts, store, directory, deliver, report, grid_store, catalogue, acquiring.learn)
        staging = GridStageIn(*parts, store, directory, stage, delivering.look_soon)
        self._ending = [staging.close, delivering.close]
        self._closing = [one.close for one in (source, grid_store, catalogue) if one is not None]
        self._lanes = [
            (acquire, acquiring.turn),
            (stage, staging.turn),
            (beat, Beating(self._name, source, self._writer, beat, config.beat_every_s).turn),
            (deliver, delivering.turn),
            (report, delivering.reporting.turn),
        ]
        if names_takings(source):
            lost = self._lane("give-back")
            self._lanes.append((lost, LostTakings(*parts, lost).turn))

    def _lane(self, name: str, threads: int = 1) -> Lane:
        return Lane(name, self._troubles, threads)

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._take_back()
        await self._connection.open()
        try:
            async with asyncio.TaskGroup() as group:
                for lane, turn in self._lanes:
                    group.create_task(lane.run(turn), name=lane.name)
                group.create_task(self._tell(), name="tell")
        finally:
            for end in self._ending:
                await end()
            await self._give_back()
            for lane, _ in self._lanes:
                lane.close()
            for close in self._closing:
                await asyncio.to_thread(close)
            await asyncio.to_thread(self._workplace.close)
            await self._connection.close()
            await self._writer.close()

    async def _take_back(self) -> None:
        """Go on at once with what we were at when we were ended. Waits for a ledger that takes no write."""

        for wait_s in backoff(0.2, 10.0):
            try:
                await self._writer.write(partial(_renew_nothing, self._name, True))
                return
            except LedgerError as error:
                log.error("ledger takes no write, waiting", extra={"why": str(error)})
                await asyncio.sleep(wait_s)

    async def _give_back(self) -> None:
        """Have what we have taken, and are not at any more, taken by whoever comes: it is not what has ended us."""
        try:
            async with asyncio.timeout(GIVE_BACK_S):
                await self._writer.write(partial(_renew_nothing, self._name, False))
        except (LedgerError, TimeoutError) as error:
            log.warning("what was taken is not given back", extra={"why": str(error) or "the ledger is slow"})

    async def _tell(self) -> None:
        while True:
            self._metrics.in_trouble.set(1 if str(self._troubles) else 0)
            self._metrics.connected.set(1 if self._connection.is_up else 0)
            self._metrics.reconnects.set(self._connection.links)
            try:
                await self._writer.write(lambda tx: sources.seen(tx, self._name, self._kind, str(self._troubles)))
                await self._writer.publish_stale()
            except LedgerError as error:
                log.error("the ledger is not told of the source", extra={"why": str(error)})
            await asyncio.sleep(TELL_S)


def _renew_nothing(name: str, has_ended: bool, tx: Tx) -> None:
    acquisitions.renew(tx, name, (), has_ended=has_ended)
    deliveries.renew(tx, name, (), has_ended=has_ended)


def _made(config: SourceAdapterConfig) -> tuple[GridSource, GridStore | None, Catalogue | None]:
    """Make what the tables of the settings name. Raises ConfigError, and AdapterError of the part's own kind."""
    place = f"{config.written_in}." if config.written_in else ""
    words = (config.written_in, OF_A_SOURCE) if place else ()
    source = make_source(config.source, config.name, *words)
    grid_store = make_grid_store(config.grid_store, f"{place}grid_store") if config.grid_store else None
    catalogue = make_catalogue(config.catalogue, f"{place}catalogue") if config.catalogue else None
    return source, grid_store, catalogue


async def run(config: SourceAdapterConfig) -> None:
    """Run an adapter with this configuration until cancelled."""
    address = read_address(Path(config.credential))
    metrics = Metrics(address.user, CollectorRegistry())
    source, grid_store, catalogue = await asyncio.to_thread(_made, config)
    policy = Policy(lease_s=config.lease_s, beat_s=config.beat_s, staging_s=config.staging_s)
    ledger = Ledger(config.ledger, instance=address.user, policy=policy)
    await asyncio.to_thread(ledger.open)
    connection = Connection(address, name=address.user, wait_most_s=CENTRE_WAIT_MOST_S)
    try:
        store = FsspecStore(config.store, ledger.served_s)
        adapter = SourceAdapter(connection, ledger, store, metrics, source, config, grid_store, catalogue)
        # Last: who gets an answer takes the adapter for one that works.
        metrics.serve(config.metrics_port, config.metrics_address)
        await adapter.run()
    finally:
        await asyncio.to_thread(ledger.close)
