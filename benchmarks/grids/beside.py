"""One more source adapter beside a system that is up, and the moments at which it has begun and has told everything."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select

from adapters.ledger import tables
from adapters.ledger.acquisitions import owner_of
from adapters.ledger.deliveries import ENDED
from adapters.ledger.engine import Ledger
from adapters.ledger.transaction import Tx
from adapters.sources.config import SourceAdapterConfig
from benchmarks.arena import Arena, RoleFailed
from broker.node import read_node_address
from schemas.ledger import JobState
from volcloud.centre.toml_text import render_toml

#: How often it is looked whether an adapter has begun, and whether it has told all, seconds.
_BEGUN_S, _TOLD_S = 0.002, 0.05
#: What takes longer has failed, seconds.
_PATIENCE_S = 600.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_jobs, _deliveries, _sources = tables.jobs, tables.deliveries, tables.sources


class Source:
    """A source by its name, as the ledger knows it, and its adapter, a process."""

    def __init__(self, name: str, ledger: Ledger, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self._ledger, self._process, self._log = name, ledger, process, log

    def wait_begun(self) -> float:
        """Wait until it asks its grid, or tells it something, for the first time; gives when."""
        return self._when(self._has_begun, _BEGUN_S)

    def wait_told(self, jobs: int) -> float:
        """Wait until so many jobs are done and their grid has been told; gives when. The first that fails ends it."""
        return self._when(lambda tx: self._is_told(tx, jobs), _TOLD_S)

    def _has_begun(self, tx: Tx) -> bool:
        asks = select(_sources.c.source).where(_sources.c.source == self.name, _sources.c.claimed_until_ms > 0)
        tells = select(_deliveries.c.job).where(_deliveries.c.source == self.name, _deliveries.c.taken_by != "")
        return any(tx.execute(statement.limit(1)).first() for statement in (asks, tells))

    def _is_told(self, tx: Tx, jobs: int) -> bool:
        is_untold = (_deliveries.c.source == self.name) & (_deliveries.c.what == ENDED)
        owed = tx.execute(select(_deliveries.c.error).where(is_untold)).scalars().all()
        if errors := [error for error in owed if error]:
            raise RoleFailed(f"{len(errors)} of {len(owed)} are not told, as: {errors[0]}; see {self._log}")
        is_its = _jobs.c.owner == owner_of(self.name)
        counted = select(_jobs.c.state, func.count()).where(is_its).group_by(_jobs.c.state)
        states = dict(tx.execute(counted).tuples().all())
        if states.get(JobState.HELD) or states.get(JobState.CANCELLED):
            raise RoleFailed(f"jobs of {self.name}: {states}; see {self._log}")
        return not owed and states.get(JobState.DONE, 0) == jobs

    def _when(self, is_so: Callable[[Tx], bool], every_s: float) -> float:
        deadline = time.perf_counter() + _PATIENCE_S
        while not self._ledger.read(is_so):
            if self._process.poll() is not None or time.perf_counter() > deadline:
                raise RoleFailed(f"the adapter of {self.name} has ended, or takes too long; see {self._log}")
            time.sleep(every_s)
        return time.perf_counter()


@contextmanager
def beside_system(data: Path, name: str, source: dict[str, Any]) -> Iterator[Source]:
    """Run an adapter for a source beside a system, on its broker, its ledger and its store."""
    arena = Arena(data.parent, read_node_address(data / "node"), "")
    places = {"ledger": f"sqlite:///{data / 'ledger.db'}", "store": f"file://{data / 'store'}"}
    with adapter(arena, name, source=source, **places) as one:
        yield one


@contextmanager
def adapter(arena: Arena, name: str, **settings: Any) -> Iterator[Source]:
    """Run an adapter with a login of its own; it is gone afterwards, also when we are killed."""
    credential = arena.admit(owner_of(name))
    staging = str(arena.directory / f"staging-{name}")
    config = SourceAdapterConfig(credential=str(credential), name=name, staging=staging, **settings)
    path, log = arena.directory / f"{name}.toml", arena.directory / f"{name}.log"
    path.write_text(render_toml(config))
    ledger = Ledger(config.ledger, instance="benchmark")
    ledger.open()
    command = [sys.executable, "-m", "adapters.sources.main", "--config", str(path)]
    with log.open("ab") as errors:
        process = subprocess.Popen(command, stdout=errors, stderr=errors, preexec_fn=_die_with_us)
    try:
        yield Source(name, ledger, process, log)
    finally:
        process.terminate()
        process.wait(60)
        # Else its share of the slots would be kept for it for a minute, and the next one have less.
        ledger.write(lambda tx: tx.execute(delete(_sources).where(_sources.c.source == name)))
        ledger.close()


def _die_with_us() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
