"""A grid in memory, and a source that speaks to it: what other sources are measured by, and tests are made of.

``MemoryGrid`` is the grid: it holds jobs, counts what it is asked, and refuses what a grid may refuse. ``Failing`` is
any source with faults put in between: before a call reaches it, or after the call was carried out and its answer lost.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from adapters.errors import SourceRefused
from adapters.ledger.matching import unmet
from adapters.sources.contract import (
    GRID_PAUSE_S,
    Acquired,
    GridEnding,
    GridInput,
    GridJob,
    GridProgress,
    GridWork,
    LocalFile,
    Offer,
    Stop,
)
from broker.daemon.plugins import Plugin, PluginSettings
from schemas.ledger import JobState

T = TypeVar("T")

#: States of a job at this grid.
WAITING, TAKEN = "waiting", "taken"
#: Begins what is kept with a job that ``taken`` has named, before the taking's name.
_MARK = b"taken in "


@dataclass
class MemoryJob:
    """A job at this grid."""

    id: str
    work: GridWork | None
    files: Mapping[str, bytes] = field(default_factory=dict)
    secret: bytes = b""
    state: str = WAITING
    attempt: int = 1
    #: Each final status that was set, once; what its sandbox holds; what was registered.
    finals: list[GridEnding] = field(default_factory=list)
    outputs: dict[str, bytes] = field(default_factory=dict)
    registered: int = 0
    #: In which call it was taken, until anything was said of it.
    taking: str = ""
    #: The last that was heard of it while it had not ended.
    progress: GridProgress | None = None
    stop: str = ""


class MemoryGrid:
    """See the module. Any thread may use it."""

    def __init__(self) -> None:
        self.jobs: dict[str, MemoryJob] = {}
        self.calls: Counter[str] = Counter()
        self.lock = threading.RLock()
        self._numbers = count(1)

    def submit(self, work: GridWork | None, files: Mapping[str, bytes] | None = None, secret: bytes = b"") -> str:
        """Submit a job as its user does; gives its id."""
        with self.lock:
            name = str(next(self._numbers))
            self.jobs[name] = MemoryJob(name, work, files or {}, secret)
            return name

    def kill(self, name: str, why: str = "killed by its user") -> None:
        """Kill a job as its user does."""
        with self.lock:
            self.jobs[name].stop = why

    def ended(self) -> list[MemoryJob]:
        """Give the jobs that have a final status."""
        with self.lock:
            return [job for job in self.jobs.values() if job.finals]


class MemorySource:
    """A ``GridSource`` for a ``MemoryGrid``."""

    #: As the contract; of a grid in memory final statuses stand by themselves, unless somebody tries another one.
    affirm_after_s = 0.0
    longest_pause_s = GRID_PAUSE_S
    names_takings = True

    def __init__(self, grid: MemoryGrid) -> None:
        self.grid = grid

    def acquire(self, offers: Sequence[Offer], most: int, taking: str = "") -> Sequence[Acquired]:
        """As the contract."""
        with self.grid.lock:
            self.grid.calls["acquire"] += 1
            waiting = [job for job in self.grid.jobs.values() if job.state == WAITING and _fits(job.work, offers)]
            for job in waiting[:most]:
                job.state, job.taking = TAKEN, taking
            return [Acquired(job=_named(job), work=job.work) for job in waiting[:most]]

    def taken(self, takings: Sequence[str]) -> Sequence[GridJob]:
        """As the contract."""
        with self.grid.lock:
            self.grid.calls["taken"] += 1
            jobs = self.grid.jobs.values()
            found = [job for job in jobs if job.state == TAKEN and job.taking in set(takings) - {""}]
            return [msgspec.structs.replace(_named(job), data=_MARK + job.taking.encode()) for job in found]

    def stage_in(self, job: GridJob, wanted: GridInput, target: Path) -> None:
        """As the contract."""
        files = self._of(job).files
        if wanted.where not in files:
            raise SourceRefused(f"input {wanted.name}: the grid has no file {wanted.where}")
        target.write_bytes(files[wanted.where])

    def beat(self, running: Sequence[GridProgress]) -> Sequence[Stop]:
        """As the contract."""
        with self.grid.lock:
            self.grid.calls["beat"] += 1
            stops = []
            for one in running:
                job = self.grid.jobs.get(one.job.id)
                if job is None or job.attempt != one.job.attempt:
                    stops.append(Stop(one.job.id, one.job.attempt, "the grid knows no such try"))
                    continue
                job.progress, job.taking = one, ""
                if job.stop:
                    stops.append(Stop(job.id, job.attempt, job.stop))
            return stops

    def stage_out(self, ending: GridEnding, local: LocalFile) -> str:
        """As the contract."""
        job = self._of(ending.job)
        job.outputs = {one.name: local(one.name).read_bytes() for one in ending.outputs}
        return f"sandbox-of-{job.id}"

    def register(self, ending: GridEnding) -> None:
        """As the contract."""
        job = self._of(ending.job)
        job.registered = 1

    def finish(self, endings: Sequence[GridEnding]) -> Mapping[str, str]:
        """As the contract."""
        with self.grid.lock:
            self.grid.calls["finish"] += 1
            refused = {}
            for ending in endings:
                job = self.grid.jobs.get(ending.job.id)
                if job is None:
                    refused[ending.job.id] = "the grid knows no such job"
                elif not job.finals:
                    job.finals.append(ending)
                    job.state = str(ending.state)
            return refused

    def affirm(self, endings: Sequence[GridEnding]) -> Mapping[str, str]:
        """As the contract."""
        with self.grid.lock:
            self.grid.calls["affirm"] += 1
            for ending in endings:
                job = self.grid.jobs.get(ending.job.id)
                if job is not None and job.attempt == ending.job.attempt:
                    job.state = str(ending.state)
            return {}

    def release(self, jobs: Sequence[GridJob], why: str) -> None:
        """As the contract."""
        with self.grid.lock:
            self.grid.calls["release"] += 1
            for one in jobs:
                job = self.grid.jobs.get(one.id)
                is_as_named = not one.data.startswith(_MARK) or (job and one.data == _MARK + job.taking.encode())
                if job is not None and job.state == TAKEN and is_as_named:
                    job.state = WAITING

    def close(self) -> None:
        """As the contract."""
        self.grid.calls["close"] += 1

    def _of(self, job: GridJob) -> MemoryJob:
        with self.grid.lock:
            found = self.grid.jobs.get(job.id)
        if found is None:
            raise SourceRefused(f"job {job.id}: the grid knows no such job")
        return found


def _named(job: MemoryJob) -> GridJob:
    return GridJob(id=job.id, attempt=job.attempt, data=job.secret)


def _fits(work: GridWork | None, offers: Sequence[Offer]) -> bool:
    return work is None or any(not unmet(work.requirements, offer.machine) for offer in offers)


class Failing:
    """A source with faults: ``fault`` is asked before and after each call, and gives what to raise, or None."""

    def __init__(self, source: Any, fault: Callable[[str, str], Exception | None]) -> None:
        """``fault`` is called with the method's name and with ``before`` or ``after``; it may also wait."""
        self._source, self._fault = source, fault

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._source, name)
        if not callable(method):
            return method

        def call(*arguments: Any) -> Any:
            self._may_fail(name, "before")
            result = method(*arguments)
            self._may_fail(name, "after")
            return result

        return call

    def _may_fail(self, name: str, when: str) -> None:
        error = self._fault(name, when)
        if error is not None:
            raise error


class MemorySettings(PluginSettings, frozen=True, kw_only=True, tag="memory"):
    """Settings of a grid in memory, to try an adapter with: so many jobs that do nothing wait in it."""

    #: How many.
    jobs: int = 0
    #: What each runs.
    executable: str = "/bin/true"


def _make(settings: MemorySettings, name: str) -> MemorySource:
    grid = MemoryGrid()
    for _ in range(settings.jobs):
        grid.submit(GridWork(executable=settings.executable))
    return MemorySource(grid)


plugin = Plugin(MemorySettings, _make)


def final_states(grid: MemoryGrid) -> Counter[JobState]:
    """Count the final statuses that were set, by what they say."""
    return Counter(ending.state for job in grid.ended() for ending in job.finals)
