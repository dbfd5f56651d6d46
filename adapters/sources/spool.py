"""A directory as a grid: whoever can write into it feeds jobs, with no grid, no login and no program of ours.

``new/NAME.json`` is a job: ``executable``, ``arguments``, ``environment``, ``inputs`` (names of files in ``files/``),
``outputs``, ``requirements``, ``priority``, ``wall_time_s``. It is written elsewhere and renamed into place. What is
taken is in ``taken/``, with ``NAME.status`` beside it; a file ``taken/NAME.kill`` stops it, as does taking its file
away. In the end there is ``done/NAME.json`` with state, exit status and cause, once, and ``out/NAME/`` with what it
left. A rename is what makes a job somebody's, so any number of adapters may share the directory, also over a network
file system.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import msgspec

from adapters.errors import SourceRefused, SourceUnavailable
from adapters.sources.contract import (
    MOST_INPUT_BYTES,
    Acquired,
    GridEnding,
    GridInput,
    GridJob,
    GridProgress,
    LocalFile,
    Offer,
    Stop,
)
from adapters.sources.inflow import flowing_in
from adapters.sources.remembered import Remembered
from adapters.sources.spool_files import (
    copy,
    keep_date,
    listed,
    name_of,
    names_in,
    ns_of,
    read_file,
    status_of,
    write,
    written_ns,
)
from adapters.sources.spool_inbox import SpoolInbox
from adapters.sources.spool_tree import DONE, FILES, NEW, OUT, TAKEN, SpoolTree, let_in
from broker.daemon.plugins import Plugin, PluginSettings
from broker.durable import sync_directory
from broker.trees.held import open_regular_below

log = logging.getLogger(__name__)

#: After how long a job that was taken, and of which no adapter says how it is, is given again, seconds.
SILENT_S = 900.0


class SpoolSettings(PluginSettings, frozen=True, kw_only=True, tag="spool"):
    """Settings of a directory of jobs."""

    #: The directory; what is missing of it is made. Say an absolute path.
    directory: Annotated[str, msgspec.Meta(min_length=1)] = "spool"
    #: After how long a job that was taken, and of which no adapter says how it is, is given again: an adapter has ended
    #: before it was written down. Where two centres share the directory one may not be away for as long.
    silent_s: Annotated[float, msgspec.Meta(ge=10, le=86400)] = SILENT_S


class SpoolSource:
    """See the module."""

    #: As the contract: what is in ``done/`` stays as it is.
    affirm_after_s = 0.0
    longest_pause_s = 5.0
    #: What was taken and never written down is given again by ``acquire``.
    names_takings = False

    def __init__(self, directory: Path, silent_s: float | None = None) -> None:
        """Makes the directories that are missing; where that cannot be, the first call says why."""
        self._directory, self._tree = directory, SpoolTree(directory)
        self._silent_s = SILENT_S if silent_s is None else silent_s
        self._lock = threading.Lock()
        #: What was told of each job; what is wrong with each file; and when what was silent was given again, seconds.
        self._told: Remembered[str, dict[str, Any]] = Remembered()
        self._troubles: Remembered[str, str] = Remembered()
        self._again_s: Remembered[str, float] = Remembered()
        self._inbox = SpoolInbox(directory, self._does)
        with contextlib.suppress(OSError):
            self._tree.make()

    def acquire(self, offers: Sequence[Offer], most: int, taking: str = "") -> Sequence[Acquired]:
        """As the contract: the first names first. What is wrong with one file is that file's trouble."""
        with _mapped(self._directory):
            mark = self._tree.make()
            new, taken = listed(self._directory / NEW), listed(self._directory / TAKEN)
        with self._lock:
            return list(islice(chain(self._lost(taken, mark), self._inbox.taken(new, offers, mark)), most))

    def taken(self, takings: Sequence[str]) -> Sequence[GridJob]:
        """As the contract: it is not asked."""
        return ()

    def stage_in(self, job: GridJob, wanted: GridInput, target: Path) -> None:
        """As the contract."""
        files = self._directory / FILES
        name = f"input {wanted.name}: {files}/{wanted.where}"
        try:
            descriptor = open_regular_below(files, wanted.where)
        except OSError as error:
            raise SourceRefused(f"{name}: {error.strerror}") from error
        with _mapped(files), os.fdopen(descriptor, "rb") as there:
            size = os.fstat(there.fileno()).st_size
            if size > MOST_INPUT_BYTES:
                raise SourceRefused(f"{name}: it has more than {MOST_INPUT_BYTES >> 30} GiB")
            with flowing_in(target, name, size) as flow:
                copy(there, flow, name)

    def beat(self, running: Sequence[GridProgress]) -> Sequence[Stop]:
        """As the contract: one is stopped by a file beside it, or by taking its own file away."""
        with _mapped(self._directory / TAKEN):
            mark = self._tree.mark() if running else b""
            there = frozenset(listed(self._directory / TAKEN)) if running else frozenset()
        ours = [one for one in running if one.job.data in (mark, b"")]
        with self._lock:
            found = ((one, self._said_of(one, there)) for one in ours)
            stops = [Stop(one.job.id, one.job.attempt, why) for one, why in found if why]
        foreign = next((one.job for one in running if one.job.data not in (mark, b"")), None)
        if not stops and foreign is not None:
            self._tree.demand_that_of(foreign)
        return stops

    def stage_out(self, ending: GridEnding, local: LocalFile) -> str:
        """As the contract: a directory that is there whole or not at all, durably."""
        name = name_of(ending.job)
        target, part = self._directory / OUT / name, self._directory / OUT / f".{name}.part"
        with _mapped(target):
            self._tree.demand_that_of(ending.job)
            if not target.exists() and not self._is_others(ending.job):
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                for one in ending.outputs:
                    place = part / one.name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(local(one.name), place)
                let_in(part)
                part.rename(target)
                sync_directory(target.parent)
        return f"{OUT}/{name}"

    def register(self, ending: GridEnding) -> None:
        """As the contract: there is no catalogue."""

    def finish(self, endings: Sequence[GridEnding]) -> Mapping[str, str]:
        """As the contract."""
        refused = {}
        for ending in endings:
            try:
                self._tree.demand_that_of(ending.job)
                self._finish(ending)
            except SourceUnavailable as error:
                refused[ending.job.id] = str(error)
            except OSError as error:
                refused[ending.job.id] = f"{error.filename}: {error.strerror}"
        return refused

    def affirm(self, endings: Sequence[GridEnding]) -> Mapping[str, str]:
        """As the contract."""
        return {}

    def release(self, jobs: Sequence[GridJob], why: str) -> None:
        """As the contract. One whose name is a new job's by now waits where it is, and is given again."""
        for one in jobs:
            self._does(self._taken(one).name, partial(self._give_back, one))

    def close(self) -> None:
        """As the contract: nothing is open."""

    def _give_back(self, job: GridJob) -> None:
        taken = self._taken(job)
        new = self._directory / NEW / taken.name
        self._tree.demand_that_of(job)
        if written_ns(taken) == ns_of(job) is not None and not os.path.lexists(new):
            self._does(f"{new.name}, given back", partial(keep_date, taken, new))  # else it is another job then
            taken.rename(new)

    def _said_of(self, one: GridProgress, there: frozenset[str]) -> str:
        """Write a job's status down, if it is another than it was; gives why the job is to be stopped."""
        taken = self._taken(one.job)
        if taken.name not in there or self._is_others(one.job):
            self._told.forget(one.job.id)
            return f"{TAKEN}/{taken.name} is not there any more"
        told = {"state": str(one.state), "started_ms": one.started_ms}
        if self._told.get(one.job.id) != told and self._does(taken.name, partial(write, status_of(taken), told)):
            self._told.put(one.job.id, told)
        kill = taken.with_suffix(".kill").name
        return f"{kill} is there" if kill in there else ""

    def _does(self, name: str, work: Callable[[], object]) -> bool:
        """Do something with one file; what stands in its way is that file's trouble alone, and is logged once."""
        try:
            work()
        except (OSError, SourceUnavailable) as error:
            words = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            if self._troubles.put(name, words):
                log.warning("a job's file makes trouble", extra={"job": name, "why": words})
            return False
        self._troubles.forget(name)
        return True

    def _lost(self, taken: Sequence[str], mark: bytes) -> Iterator[Acquired]:
        """Give again what was taken long ago, and of which no adapter speaks: it may never have been written down."""
        there = frozenset(taken)
        for name in names_in(taken):
            if status_of(Path(name)).name in there or not self._is_silent(name):
                continue
            if (found := read_file(self._directory / TAKEN, name, mark)) is not None:
                log.warning("given again: nobody speaks of it", extra={"job": name})
                yield found

    def _is_silent(self, name: str) -> bool:
        """Whether a job was taken long ago. Once it is given again it is not for as long."""
        now_s, again_s = time.monotonic(), self._again_s.get(name)
        if again_s is not None and now_s - again_s < self._silent_s:
            return False
        try:
            is_silent = (self._directory / TAKEN / f"{name}.json").stat().st_ctime <= time.time() - self._silent_s
        except OSError:
            return False  # another adapter has ended it
        if is_silent:
            self._again_s.put(name, now_s)
        return is_silent

    def _is_others(self, job: GridJob) -> bool:
        """Whether what was taken under a job's name is another job, put there once that one was cleared away."""
        its_ns = written_ns(self._taken(job))
        return its_ns is not None and its_ns != ns_of(job)

    def _finish(self, ending: GridEnding) -> None:
        self._told.forget(ending.job.id)
        if self._is_others(ending.job):
            return
        final = self._directory / DONE / f"{name_of(ending.job)}.json"
        if not final.exists():
            told = {"state": str(ending.state), "exit_status": ending.exit_status, "cause": ending.cause}
            outputs = [{"name": one.name, "size": one.size, "sha256": one.sha256} for one in ending.outputs]
            left = {"outputs": outputs, "missing": self._missing(ending), "sandbox": ending.sandbox}
            write(final, told | left)
        taken = self._taken(ending.job)
        for path in (taken, status_of(taken), taken.with_suffix(".kill")):
            path.unlink(missing_ok=True)

    def _missing(self, ending: GridEnding) -> list[str]:
        """Name the outputs that a job was to leave, and has not."""
        asked = read_file(self._directory / TAKEN, name_of(ending.job))
        wanted = asked.work.outputs if asked is not None and asked.work else []
        left = [one.name for one in ending.outputs]
        return [name for name in wanted if name not in left and not fnmatch.filter(left, name)]

    def _taken(self, job: GridJob) -> Path:
        return self._directory / TAKEN / f"{name_of(job)}.json"


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceUnavailable(f"{error.filename or path}: {error.strerror}") from error


def _make(settings: SpoolSettings, name: str) -> SpoolSource:
    return SpoolSource(Path(settings.directory), settings.silent_s)


plugin = Plugin(SpoolSettings, _make)
