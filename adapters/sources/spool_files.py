"""Files of a spool, most of them strangers': job files, what is told beside them, and what is copied."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from adapters.errors import SourceRefused
from adapters.ledger.events import readable
from adapters.sources.contract import MOST_INPUT_BYTES, Acquired, GridInput, GridJob, GridWork
from adapters.sources.inflow import Inflow
from adapters.sources.spool_tree import tell
from broker import durable
from broker.durable import BLOCK_BYTES
from broker.trees.held import open_regular_below
from schemas.description import Requirements
from schemas.nearest import nearest
from schemas.wanted import explain

#: Longest job file, and line beside one, bytes; and names that a job may have.
MOST_JOB_BYTES, MOST_LINE_BYTES = 4 << 20, 4096
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


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


def listed(directory: Path) -> list[str]:
    """List a directory; where it is away, as one on another machine may be, that is an error and not nothing."""
    return [path.name for path in directory.iterdir()]


def names_in(files: Sequence[str]) -> list[str]:
    """Give the names of job files, in order: others are nobody's."""
    names = (name.removesuffix(".json") for name in files if name.endswith(".json"))
    return sorted(name for name in names if NAME.fullmatch(name))


def strange_names_in(files: Sequence[str]) -> list[str]:
    """Give the names of job files that none may have; hidden ones are on their way."""
    names = (name.removesuffix(".json") for name in files if name.endswith(".json"))
    return sorted(name for name in names if not NAME.fullmatch(name) and name[:1] not in ("", "."))


def status_of(taken: Path) -> Path:
    """Name the file beside a job that was taken, in which is told how it is."""
    return taken.with_suffix(".status")


def write(path: Path, value: Any) -> None:
    """Tell something, durably, whole or not at all. Raises OSError."""
    tell(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")


def copy(there: BinaryIO, flow: Inflow, name: str) -> None:
    """Copy a file that may grow meanwhile."""
    left = MOST_INPUT_BYTES
    while block := there.read(BLOCK_BYTES):
        left -= len(block)
        if left < 0:
            raise SourceRefused(f"{name}: it has more than {MOST_INPUT_BYTES >> 30} GiB")
        flow.write(block)


def read_file(directory: Path, name: str, mark: bytes = b"") -> Acquired | None:
    """Read a job file of the spool with this mark; one that makes no sense is a job with a flaw. None: another adapter
    has taken it."""
    file_name = f"{name}.json"
    try:
        with os.fdopen(open_regular_below(directory, file_name), "rb") as file:
            content, facts = file.read(MOST_JOB_BYTES + 1), os.fstat(file.fileno())
    except OSError:
        return None  # another adapter's by now, or no file
    job = GridJob(id=f"{name}-{_unsigned(facts.st_mtime_ns):x}", data=mark)
    if len(content) > MOST_JOB_BYTES:
        return Acquired(job=job, work=None, flaw=f"{file_name} has more than {MOST_JOB_BYTES} bytes")
    try:
        return Acquired(job=job, work=_work(_read(content)))
    except Exception as error:  # noqa: BLE001  whatever it is: it is a stranger's file
        return Acquired(job=job, work=None, flaw=readable(f"{file_name}: {error or type(error).__name__}"))


def _read(content: bytes) -> SpoolFile:
    """Raises ValueError, with the field, what it is and what it may be."""
    told = msgspec.json.decode(content)
    known = list(SpoolFile.__struct_fields__)
    for key in told if isinstance(told, dict) else ():
        if key not in known:
            near = nearest(key, known)
            advice = f"did you mean {near!r}?" if near else f"it has {', '.join(known)}"
            raise ValueError(f"unknown key {key[:40]!r}: {advice}")
    try:
        return msgspec.convert(told, SpoolFile)
    except msgspec.ValidationError as error:
        raise ValueError(explain(str(error), SpoolFile, told)) from error


def name_of(job: GridJob) -> str:
    """Give the name of a job's file: its id says also when that was taken, so that a name may be used again."""
    return job.id.rpartition("-")[0] or job.id


def ns_of(job: GridJob) -> int | None:
    """Say when a job's file was taken, as its id has it."""
    try:
        return int(job.id.rpartition("-")[2], 16)
    except ValueError:
        return None  # of a source that bore the name before


def written_ns(path: Path) -> int | None:
    """Say when a file was written, or dated; None where there is none."""
    try:
        return _unsigned(path.stat(follow_symlinks=False).st_mtime_ns)
    except FileNotFoundError:
        return None


def keep_date(taken: Path, new: Path) -> None:
    """Say beside where it will be that a job which is given back is the one that it was. Raises OSError."""
    tell(kept_of(new), f"{written_ns(taken)}\n".encode())


def kept_of(new: Path) -> Path:
    """Name the file beside a job that was given back which says so."""
    return new.with_suffix(".kept")


def date_anew(new: Path) -> bool:
    """Have a job written now that is about to be taken, unless it was given back: whoever fed it may have kept the time
    of one that was fed before, under the same name. False: it is another user's, see ``make_ours``. Raises OSError."""
    if read_line(kept_of(new)) == str(written_ns(new)):
        return True
    now_ns = time.time_ns()
    try:
        os.utime(new, ns=(now_ns, now_ns), follow_symlinks=False)
    except PermissionError:
        return False
    return True


def make_ours(taken: Path) -> None:
    """Put a copy of ours, which is written now, in the place of a job that was taken; its owner may have let few read
    it. Raises OSError."""
    with os.fdopen(open_regular_below(taken.parent, taken.name), "rb") as file:
        content = file.read(MOST_JOB_BYTES + 1)
    durable.replace(taken, content)


def read_line(path: Path) -> str:
    """Read what is told in a file beside a job; of one that is not there, or is no file, nothing."""
    try:
        with os.fdopen(open_regular_below(path.parent, path.name), "rb") as file:
            return file.read(MOST_LINE_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""


def _unsigned(ns: int) -> int:
    """Of a file dated before 1970 as well a number without a sign."""
    return ns % (1 << 64)


def _work(asked: SpoolFile) -> GridWork:
    """Take over what a job file asks for. Raises ValueError for what no job may ask."""
    for name in asked.inputs:
        if name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"inputs: {name!r} must be a path below files/, without ..")
    inputs = [GridInput(name=name.rpartition("/")[2], where=name) for name in asked.inputs]
    fields = {field: getattr(asked, field) for field in SpoolFile.__struct_fields__} | {"inputs": inputs}
    return msgspec.convert(msgspec.to_builtins(fields), GridWork)
