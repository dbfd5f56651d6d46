"""What a record asks to be done, in our own words: from PanDA's fields to a ``GridWork``, one by one. Pure.

A transformation is a program of the machine, or an address from which it is fetched. ``jobPars`` is split as a shell
does, and no shell runs it. What cannot be done (containers, event service, a name that leaves the job's directory)
raises PandaJobError with words for the job's owner.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct

from adapters.errors import PandaJobError
from adapters.sources.contract import Acquired, GridInput, GridJob, GridWork
from adapters.sources.names import flaw_of_name, is_number, quoted
from adapters.sources.panda.files import read_inputs, read_outputs, where_of
from adapters.sources.panda.record import PandaJob, PandaRecord, wire_name
from schemas.description import MAX_ARGUMENTS, MAX_INPUTS, MAX_MIB, MAX_WORD, Requirements
from schemas.wanted import explain

log = logging.getLogger(__name__)

#: What the arguments of a job may take together, bytes: they go into one message.
MOST_ARGUMENT_BYTES = 256 << 10
#: The longest wall time that a job may have, seconds; and what one has that says nothing.
MOST_WALL_S, USUAL_WALL_S = 31 * 86_400.0, 86_400.0
#: Fields that ask for what is not to be had, and what to say of them.
_NOT_HERE = {
    "container": "a container is not to be had on volunteers' machines",
    "event_service": "jobs of the event service are not done here",
    "merge": "jobs of the event service are not done here",
    "hyper_parameters": "jobs that steer themselves over the network are not done here",
    "cloned": "cloned jobs are not done here",
    "pre_process": "a job of several steps is not done here",
    "post_process": "a job of several steps is not done here",
    "co_process": "a job of several steps is not done here",
}


class Sites(NamedTuple):
    """Where files come from: programs from below these addresses, data from these places by endpoint."""

    programs: Sequence[str]
    storage: Mapping[str, str]


class PandaKept(Struct, frozen=True, kw_only=True):
    """What is kept with a job until its end has been told: its log, as PanDA calls it."""

    log_file: str = ""
    log_guid: str = ""


def acquired(job: PandaJob, sites: Sites, room: Requirements | None = None) -> Acquired:
    """Make of a record what the ledger is given; ``room`` is the most that those who asked can do. Never raises."""
    flaw = job.record if isinstance(job.record, PandaJobError) else None
    work, kept = None, PandaKept()
    if isinstance(job.record, PandaRecord):
        try:
            kept = _kept(job.record)
            work = read_work(job, job.record, sites)
            _demand_room(work.requirements, room)
        except PandaJobError as error:
            work, flaw = None, error
        except Exception as error:
            log.exception("a record that cannot be read", extra={"job": job.id})
            work, flaw = None, PandaJobError("", f"it cannot be read here: {type(error).__name__}")
    named = GridJob(id=str(job.id), attempt=job.attempt_nr + 1, data=msgspec.msgpack.encode(kept))
    return Acquired(job=named, work=work, flaw="" if flaw is None else str(flaw))


def is_named(job: GridJob) -> bool:
    """Say whether a job's name is one that PanDA may have given."""
    return is_number(job.id)


def attempt_nr_of(job: GridJob) -> int:
    """Give PanDA's own number of the try, which begins with 0."""
    return job.attempt - 1


def kept_of(job: GridJob) -> PandaKept:
    """Read what was kept with a job."""
    return msgspec.msgpack.decode(job.data, type=PandaKept) if job.data else PandaKept()


def read_work(job: PandaJob, record: PandaRecord, sites: Sites) -> GridWork:
    """Give what a record asks for. Raises PandaJobError."""
    for name, words in _NOT_HERE.items():
        if said := record.text(name):
            raise PandaJobError(wire_name(name), f"{quoted(said)}: {words}")
    executable, program = _program(record, sites.programs)
    files = read_inputs(record)
    inputs = [*program, *(GridInput(name=file.name, where=where_of(file, sites.storage)) for file in files)]
    if len(inputs) > MAX_INPUTS or len({one.name for one in inputs}) != len(inputs):
        words = f"more than {MAX_INPUTS} files with the program, or one is called as that is: rename it"
        raise PandaJobError("inFiles", f"{quoted(executable)}: {words}")
    cores = int(record.number("cores", 1, 256) or 1)
    work = {
        "executable": executable,
        "arguments": _arguments(record),
        "environment": _environment(job, record),
        "inputs": inputs,
        "outputs": read_outputs(record),
        "requirements": Requirements(cpus=cores, memory_mib=_mib(record, "memory"), disk_mib=_mib(record, "disk")),
        "priority": int(min(max(record.number("priority", -1e9, 1e9) or 0, -1000), 1000)),
        "wall_time_s": _wall_time_s(record, cores),
    }
    return _checked(work)


def _program(record: PandaRecord, allowed: Sequence[str]) -> tuple[str, list[GridInput]]:
    """Give the program, and the file that it is where it has to be fetched."""
    said = record.text("transformation")
    if not said:
        raise PandaJobError("transformation", "is missing: which program is to run?")
    if "://" not in said:
        if len(said) > 200 or not said.isprintable():
            raise PandaJobError("transformation", f"{quoted(said)}: must be a program, 200 characters at most")
        return said, []
    if not any(_is_below(said, prefix) for prefix in allowed):
        words = f"{quoted(said)}: is below no address that programs are fetched from: put its server into"
        raise PandaJobError("transformation", f"{words} source.programs_from, or name a program of the machine")
    name = unquote(urlsplit(said).path.rpartition("/")[2])
    if flaw := flaw_of_name(name):
        raise PandaJobError("transformation", f"{quoted(said)}: its name {flaw}")
    return name, [GridInput(name=name, where=said, executable=True)]


def _is_below(url: str, prefix: str) -> bool:
    """Say whether an address is below another: same server, and no step that leads up."""
    try:
        one, other = urlsplit(url), urlsplit(prefix)
        is_there = (one.scheme, one.hostname, one.port) == (other.scheme, other.hostname, other.port)
    except ValueError:
        return False
    steps = unquote(one.path).split("/")
    folder = other.path.rstrip("/") + "/"
    is_plain = url.isascii() and url.isprintable() and not one.username and not one.fragment and " " not in url
    return is_there and is_plain and one.path.startswith(folder) and ".." not in steps and "." not in steps


def _arguments(record: PandaRecord) -> list[str]:
    said = record.text("job_pars")
    size = len(said.encode("utf-8", "replace"))
    if size > MOST_ARGUMENT_BYTES:
        raise PandaJobError("jobPars", f"{size} bytes: at most {MOST_ARGUMENT_BYTES} are taken: put them into a file")
    if "\0" in said:
        raise PandaJobError("jobPars", "holds a NUL character, which no program is given")
    try:
        words = shlex.split(said)
    except ValueError as error:
        raise PandaJobError("jobPars", f"{quoted(said)}: {str(error).lower()}: quote it as for a shell") from None
    if len(words) > MAX_ARGUMENTS or any(len(word) > MAX_WORD for word in words):
        raise PandaJobError("jobPars", f"at most {MAX_ARGUMENTS} words, of {MAX_WORD} characters each")
    return words


def _environment(job: PandaJob, record: PandaRecord) -> dict[str, str]:
    """Give what a pilot would: the job's names. Nothing of the server's is among them."""
    found = {"PandaID": str(job.id), "PanDA_AttemptNr": str(job.attempt_nr)}
    task = record.text("task_id")
    return {**found, "PanDA_TaskID": task} if task.isdigit() and len(task) < 20 else found


def _mib(record: PandaRecord, name: str) -> int:
    return int(record.number(name, 0, MAX_MIB) or 0)


def _wall_time_s(record: PandaRecord, cores: int) -> float:
    wall = record.number("wall_time", 1, 1e12)
    cpu = record.number("cpu_time", 1, 1e12)
    seconds = wall or (cpu / cores if cpu else USUAL_WALL_S)
    return min(max(seconds, 60.0), MOST_WALL_S)


def _demand_room(needs: Requirements, room: Requirements | None) -> None:
    if room is None:
        return
    for key, need, most in (
        ("coreCount", needs.cpus, room.cpus),
        ("minRamCount", needs.memory_mib, room.memory_mib),
        ("maxDiskCount", needs.disk_mib, room.disk_mib),
    ):
        if need > most:
            words = f"{need}, and no machine that asked has more than {most}: set source.resource_types by their cores"
            raise PandaJobError(key, words)


def _kept(record: PandaRecord) -> PandaKept:
    log, guid = record.text("log_file"), record.text("log_guid")
    if log and flaw_of_name(log):
        raise PandaJobError("logFile", f"{quoted(log)}: {flaw_of_name(log)}")
    return PandaKept(log_file=log, log_guid=guid[:36])


def _checked(work: dict[str, Any]) -> GridWork:
    """Hold the work to its own types, whatever has been seen before. Raises PandaJobError."""
    try:
        return msgspec.convert(work, GridWork)
    except msgspec.ValidationError as error:
        raise PandaJobError("", explain(str(error), GridWork)) from None
