"""A grid, a ledger, a store and source adapters between them in one process, with guests played by the desk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select

from adapters.ledger import sources
from adapters.ledger.acquisitions import owner_of
from adapters.metrics import Metrics
from adapters.sources import acquiring, delivering, lane, lost_takings, reporting, staging
from adapters.sources.adapter import SourceAdapter
from adapters.sources.config import SourceAdapterConfig
from adapters.sources.contract import GridSource
from adapters.sources.memory import MemoryGrid, MemorySource
from adapters.storage.store import FsspecStore
from broker.memory import MemoryCarrier
from schemas.codec import decode, unbundle
from schemas.files import OutputFile
from schemas.grids import SourceList, SourceRow
from schemas.jobs import JobAssign, OutputEntry
from tests.broker.polling import until
from tests.contract.ledger_fixtures import Desk, fresh_sqlite

OWNER = owner_of("lyon")


class Rig:
    """A grid, a ledger, a store, and adapters between them."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.grid = directory, MemoryGrid()
        self.desk = Desk(fresh_sqlite(directory))
        self.store = FsspecStore(f"file://{directory}/store")
        self.wires: list[MemoryCarrier] = []
        #: What each source's adapter has measured.
        self.registries: dict[str, CollectorRegistry] = {}

    @asynccontextmanager
    async def adapter(
        self, source: Any = None, grid_store: Any = None, catalogue: Any = None, **settings: Any
    ) -> AsyncIterator[SourceAdapter]:
        """Run an adapter for as long as the context lasts; ``source`` is the grid's unless said."""
        fields = {"credential": "", "ledger": "", "store": "", "name": "lyon", "source": {"kind": "memory"}}
        quick = {"staging": str(self.directory / "staging"), "beat_every_s": 0.05, "longest_pause_s": 2.0}
        config = SourceAdapterConfig(**{**fields, **quick, **settings})  # type: ignore[arg-type]
        wire = MemoryCarrier("adapter-source-lyon")
        self.wires.append(wire)
        self.registries[config.name] = CollectorRegistry()
        metrics = Metrics(wire.user, self.registries[config.name])
        port: GridSource = source or MemorySource(self.grid)
        parts = (port, config, grid_store, catalogue)
        adapter = SourceAdapter(wire, self.desk.ledger, self.store, metrics, *parts)
        running = asyncio.create_task(adapter.run())
        try:
            yield adapter
        finally:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    async def start(self, vm: str = "vm-1") -> JobAssign:
        """Have a VM ask until it has a job."""
        before = len(self.assigned(vm))
        self.desk.ask(vm)
        await until(lambda: len(self.assigned(vm)) > before)
        return self.assigned(vm)[-1]

    async def until(self, condition: Callable[[], object], every_s: float = 0.0, step_s: float = 60) -> None:
        """Wait, while the ledger's clock goes on by a step at each look, or each so many seconds of ours: what an
        adapter has taken is its own for minutes, and a call to a real grid takes a while."""
        passed_s = -every_s

        def look() -> object:
            nonlocal passed_s
            if time.monotonic() - passed_s >= every_s:
                passed_s = time.monotonic()
                self.desk.pass_s(step_s)
            return condition()

        await until(look, 30)

    @asynccontextmanager
    async def clock(self) -> AsyncIterator[None]:
        """Have the ledger's clock go as ours does."""

        async def tick() -> None:
            while True:
                began_s = time.monotonic()
                await asyncio.sleep(0.02)
                self.desk.pass_s(time.monotonic() - began_s)

        ticking = asyncio.create_task(tick())
        try:
            yield
        finally:
            ticking.cancel()

    def assigned(self, vm: str) -> list[JobAssign]:
        """Give what a VM was assigned."""
        return [one for one in self._all_assigned() if one.target == vm]

    def assigned_of(self, source: str) -> list[JobAssign]:
        """Give which jobs of a source were assigned, to whichever VM."""
        return [one for one in self._all_assigned() if one.job.startswith(f"{owner_of(source)}/")]

    def _all_assigned(self) -> list[JobAssign]:
        """By the desk's transactions or an adapter's."""
        sent = [decode(one) for wire in self.wires for _, _, body in wire.sent for one in unbundle(body)]
        return [*self.desk.assigned(), *(one for one in sent if isinstance(one, JobAssign))]

    def leave(self, job: JobAssign, content: bytes = b"hi\n", name: str = "stdout", **more: Any) -> None:
        """Have its guest end a job with an output."""
        self.leave_all(job, {name: content}, **more)

    def leave_all(self, job: JobAssign, outputs: Mapping[str, bytes], **more: Any) -> None:
        """Have its guest end a job with outputs, by their names."""
        entries = []
        for name, content in outputs.items():
            self.store.put_bytes(content, OutputFile(job=job.job, attempt=job.attempt, name=name))
            entries.append(OutputEntry(name=name, size=len(content), sha256=sha256(content).hexdigest()))
        self.desk.complete(job, outputs=entries, **{"exit_status": 0, **more})

    def seen(self, name: str = "lyon") -> SourceRow:
        """Give what is listed of a source; blank while its adapter has not said anything."""
        page = self.desk.ledger.read(lambda tx: sources.listed(tx, SourceList()))
        blank = SourceRow(source=name, kind="", seen_ms=0)
        return next((row for row in page.sources if row.source == name), blank)

    def count(self, table: Any) -> int:
        return int(self.desk.ledger.read(lambda tx: tx.execute(select(func.count()).select_from(table)).scalar_one()))


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have adapters of this process look often, and wait little after a failure."""
    for module in (acquiring, lost_takings, staging, delivering, reporting):
        monkeypatch.setattr(module, "LOOK_S", 0.05)
    monkeypatch.setattr(lane, "FIRST_S", 0.05)
