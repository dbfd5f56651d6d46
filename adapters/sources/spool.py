"""A directory as a grid: whoever can write into it feeds jobs, with no grid, no login and no program of ours.

``new/NAME.json`` is a job: ``executable``, ``arguments``, ``environment``, ``inputs`` (names of files in ``files/``),
``outputs``, ``requirements``, ``priority``, ``wall_time_s``. It is written elsewhere and renamed into place. What is
taken is in ``taken/``, with ``NAME.status`` beside it; a file ``taken/NAME.kill`` stops it, as does taking its file
away. In the end there is
``done/NAME.json`` with state, exit status and cause, once, and ``out/NAME/`` with what it left. A rename is what makes
a job somebody's, so any number of adapters may share the directory, also over a network file system.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec

from adapters.errors import SourceRefused, SourceUnavailable
from adapters.ledger.events import readable
from adapters.ledger.matching import unmet
from adapters.sources.contract import (
    MOST_INPUT_BYTES,
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
from broker import durable
from broker.daemon.plugins import Plugin, PluginSettings
from broker.durable import BLOCK_BYTES, sync_directory
from broker.trees.held import open_regular_below
from schemas.description import Requirements

log = logging.getLogger(__name__)

#: Longest job file, bytes; and names that a job may have.
MOST_JOB_BYTES = 4 << 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
#: Jobs of which is remembered what was told last.
MOST_SAID = 10_000
#: After how long a job that was taken, and of which no adapter says how it is, is given again, seconds.
SILENT_S = 900.0
#: Mode of what is told: others read it.
PUBLIC = 0o644
NEW, FILES, TAKEN, OUT, DONE = "new", "files", "taken", "out", "done"


class SpoolFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job file: as ``GridWork``, with inputs by their names in ``files/``."""

    executable: str
    arguments: list[str] = []
    environment: dict[str, str] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    requirements: Requirements = Requirements()
    priority: int = 0
    wall_time_s: float = 86400.0


class SpoolSettings(PluginSettings, frozen=True, kw_only=True, tag="spool"):
    """Settings of a directory of jobs."""

    directory: Annotated[str, msgspec.Meta(min_length=1)] = "spool"


class SpoolSource:
    """See the module."""

    #: As the contract: what is in ``done/`` stays as it is.
    affirm_after_s = 0.0

    def __init__(self, directory: Path) -> None:
        """Makes the directories that are missing. Raises SourceRefused."""
        self._directory = directory
        #: What was told of each job last.
        self._said: dict[str, dict[str, Any]] = {}
        with _told(directory, SourceRefused):
            for name in (NEW, FILES, TAKEN, OUT, DONE):
                (directory / name).mkdir(parents=True, exist_ok=True)

    def acquire(self, offers: Sequence[Offer], most: int) -> Sequence[Acquired]:
        """As the contract: the oldest names first."""
        with _told(self._directory):
            names = sorted(name.removesuffix(".json") for name in self._listed(NEW) if name.endswith(".json"))
            again = chain(self._lost(), self._acquired(names, offers))
            return list(islice(again, most))

    def stage_in(self, job: GridJob, wanted: GridInput, target: Path) -> None:
        """As the contract."""
        files = self._directory / FILES
        try:
            descriptor = open_regular_below(files, wanted.where)
        except OSError as error:
            raise SourceRefused(f"input {wanted.name}: {files}/{wanted.where}: {error.strerror}") from error
        with _told(files), os.fdopen(descriptor, "rb") as there, target.open("xb") as file:
            _copy(there, file, f"input {wanted.name}: {files}/{wanted.where}")

    def beat(self, running: Sequence[GridProgress]) -> Sequence[Stop]:
        """As the contract: one is stopped by a file beside it, or by taking its own file away."""
        stops = []
        with _told(self._directory / TAKEN):
            there = frozenset(self._listed(TAKEN)) if running else frozenset()
            for one in running:
                job = self._taken(one.job)
                kill = job.with_suffix(".kill").name
                if job.name not in there:
                    stops.append(Stop(one.job.id, one.job.attempt, f"{TAKEN}/{job.name} is not there any more"))
                elif kill in there:
                    stops.append(Stop(one.job.id, one.job.attempt, f"{kill} is there"))
                self._tell(job, {"state": str(one.state), "started_ms": one.started_ms})
        return stops

    def stage_out(self, ending: GridEnding, local: LocalFile) -> str:
        """As the contract: a directory that is there whole or not at all."""
        name = _name_of(ending.job)
        target, part = self._directory / OUT / name, self._directory / OUT / f".{name}.part"
        with _told(target):
            if not target.exists():
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                for one in ending.outputs:
                    place = part / one.name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(local(one.name), place)
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
                self._finish(ending)
            except OSError as error:
                refused[ending.job.id] = f"{error.filename}: {error.strerror}"
        return refused

    def affirm(self, endings: Sequence[GridEnding]) -> Mapping[str, str]:
        """As the contract."""
        return {}

    def release(self, jobs: Sequence[GridJob], why: str) -> None:
        """As the contract."""
        with _told(self._directory / NEW):
            for one in jobs:
                taken = self._taken(one)
                if taken.exists():
                    taken.rename(self._directory / NEW / taken.name)

    def close(self) -> None:
        """As the contract: nothing is open."""

    def _listed(self, name: str) -> list[str]:
        """List a directory; where it is away, as one on another machine may be, that is an error and not nothing."""
        return [path.name for path in (self._directory / name).iterdir()]

    def _tell(self, job: Path, told: dict[str, Any]) -> None:
        """Write a job's status down, if it is another than it was; what stands in its way is its own trouble."""
        if self._said.get(job.name) == told or not job.exists():
            return
        try:
            self._write(job.with_suffix(".status"), told)
        except OSError as error:
            log.warning("a status cannot be written", extra={"job": job.name, "why": str(error)})
        while len(self._said) >= MOST_SAID:
            self._said.popitem()
        self._said[job.name] = told

    def _lost(self) -> Iterator[Acquired]:
        """Give again what was taken long ago, and of which no adapter speaks: it may never have been written down."""
        for taken in sorted((self._directory / TAKEN).glob("*.json")):
            if _is_silent(taken) and (found := _read(taken.parent, taken.stem)) is not None:
                log.warning("given again: nobody speaks of it", extra={"job": taken.stem})
                yield found

    def _acquired(self, names: Sequence[str], offers: Sequence[Offer]) -> Iterator[Acquired]:
        for name in names:
            new = self._directory / NEW / f"{name}.json"
            if self._is_taken(name):
                continue
            found = _read(new.parent, name)
            if found is None or (found.work and not _fits(found.work, offers)):
                continue
            try:
                new.rename(self._directory / TAKEN / new.name)
            except FileNotFoundError:
                continue  # another adapter's
            except OSError as error:
                log.warning("a job cannot be taken", extra={"job": name, "why": str(error)})
                continue
            yield found

    def _is_taken(self, name: str) -> bool:
        """Whether a job of that name is not cleared away yet: then the new one waits, and is told why."""
        there = [path for path in (f"{TAKEN}/{name}.json", f"{DONE}/{name}.json", f"{OUT}/{name}") if self._has(path)]
        refused = self._directory / NEW / f"{name}.refused"
        if there and not refused.exists():
            words = f"{there[0]} is there: take it away, or choose another name\n"
            durable.replace(refused, words.encode(), mode=PUBLIC)
        if not there:
            refused.unlink(missing_ok=True)
        return bool(there)

    def _has(self, path: str) -> bool:
        return os.path.lexists(self._directory / path)

    def _finish(self, ending: GridEnding) -> None:
        final = self._directory / DONE / f"{_name_of(ending.job)}.json"
        if not final.exists():
            told = {"state": str(ending.state), "exit_status": ending.exit_status, "cause": ending.cause}
            outputs = [{"name": one.name, "size": one.size, "sha256": one.sha256} for one in ending.outputs]
            self._write(final, told | {"outputs": outputs, "sandbox": ending.sandbox})
        taken = self._taken(ending.job)
        for path in (taken, taken.with_suffix(".status"), taken.with_suffix(".kill")):
            path.unlink(missing_ok=True)

    def _taken(self, job: GridJob) -> Path:
        return self._directory / TAKEN / f"{_name_of(job)}.json"

    def _write(self, path: Path, value: Any) -> None:
        durable.replace(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n", mode=PUBLIC)


def _is_silent(taken: Path) -> bool:
    """Whether a job was taken long ago and nobody says how it is. Once that is so it is not for as long again."""
    try:
        facts = taken.stat()
        if taken.with_suffix(".status").exists() or facts.st_ctime > time.time() - SILENT_S:
            return False
        os.utime(taken, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    except FileNotFoundError:
        return False  # another adapter has ended it
    return True


def _copy(there: BinaryIO, file: BinaryIO, name: str) -> None:
    left = MOST_INPUT_BYTES
    if os.fstat(there.fileno()).st_size <= left:
        while left >= 0 and (block := there.read(BLOCK_BYTES)):
            left -= file.write(block)
        if left >= 0:
            return
    raise SourceRefused(f"{name}: it has more than {MOST_INPUT_BYTES >> 30} GiB")


def _read(directory: Path, name: str) -> Acquired | None:
    """Read a job file; one that makes no sense is a job with a flaw. None: another adapter has taken it."""
    if not NAME.fullmatch(name):
        return None
    file_name = f"{name}.json"
    try:
        with os.fdopen(open_regular_below(directory, file_name), "rb") as file:
            content, written_ns = file.read(MOST_JOB_BYTES + 1), os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None  # another adapter's by now, or no file
    job = GridJob(id=f"{name}-{written_ns:x}")
    if len(content) > MOST_JOB_BYTES:
        return Acquired(job=job, work=None, flaw=f"{file_name} has more than {MOST_JOB_BYTES} bytes")
    try:
        return Acquired(job=job, work=_work(msgspec.json.decode(content, type=SpoolFile)))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return Acquired(job=job, work=None, flaw=readable(f"{file_name}: {error}"))


def _name_of(job: GridJob) -> str:
    """Give the name of a job's file: its id says also when that was written, so that a name may be used again."""
    return job.id.rpartition("-")[0] or job.id


def _work(asked: SpoolFile) -> GridWork:
    """Take over what a job file asks for. Raises ValueError for what no job may ask."""
    for name in asked.inputs:
        if name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"inputs: {name!r} must be a path below files/, without ..")
    inputs = [GridInput(name=name.rpartition("/")[2], where=name) for name in asked.inputs]
    fields = {field: getattr(asked, field) for field in SpoolFile.__struct_fields__} | {"inputs": inputs}
    return msgspec.convert(msgspec.to_builtins(fields), GridWork)


def _fits(work: GridWork, offers: Sequence[Offer]) -> bool:
    return any(not unmet(work.requirements, one.machine) for one in offers)


@contextmanager
def _told(path: Path, kind: type[Exception] = SourceUnavailable) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise kind(f"{error.filename or path}: {error.strerror}") from error


def _make(settings: SpoolSettings, name: str) -> SpoolSource:
    return SpoolSource(Path(settings.directory))


plugin = Plugin(SpoolSettings, _make)
