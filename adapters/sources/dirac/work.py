"""What a description asks to be done, in our own words: from keys of DIRAC's language to a ``GridWork``. Pure.

What DIRAC's own job wrapper does with a key is done here: arguments are split as a shell does without running one,
``%j`` is the job's number, and what a job prints is called as ``StdOutput`` and ``StdError`` say. Whatever cannot be
done (files of a catalogue, a name that leaves the job's directory) raises JdlError with words for the job's owner.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from adapters.errors import JdlError
from adapters.sources.contract import GridInput, GridWork
from adapters.sources.dirac.jdl import MOST_BYTES, Jdl
from adapters.sources.names import flaw_of_name, quoted
from schemas.amounts import read_mib
from schemas.description import (
    MAX_FEATURES,
    MAX_INPUTS,
    MAX_MIB,
    MAX_OUTPUTS,
    MAX_VARIABLES,
    STREAMS,
    Requirements,
)
from schemas.wanted import explain

#: What arguments and environment may take, bytes: what Linux gives to one word, and what fits an assignment beside it.
MOST_ARGUMENT_BYTES, MOST_ENVIRONMENT_BYTES = 120_000, 256 << 10
#: Names of files of a description may take this much, bytes: a completion has one message.
MOST_NAME_BYTES = 512 << 10
#: The longest wall time that a job may have, seconds; DIRAC's own where a job says nothing.
MOST_WALL_S, USUAL_WALL_S = 31 * 86_400.0, 86_400.0
#: What DIRAC calls that a job prints, where the job does not.
USUAL_STDOUT, USUAL_STDERR = "std.out", "std.err"

#: A sandbox of DiracX: its store, then bucket, VO, group, user, and its digest.
SANDBOX = re.compile(
    r"(?:SB:[A-Za-z]+\|)?/S3/[a-z0-9.-]{3,63}(?:/[^/\s]+){3}/sha256:([0-9a-f]{64})\.(tar\.(?:bz2|zst))"
)
#: Tags that DIRAC makes of the number of processors.
_COUNTED = re.compile(r"(?:multi|single)processor|\d+processors|wholenode", re.IGNORECASE)

#: What DIRAC puts the job's number and its own parameter in the place of.
_MARK = re.compile(r"%[jns]")

#: Unpacks the sandboxes beside the job, and becomes its program: one of them, or one of the machine.
UNPACK = (
    'for archive in sandbox.*.tar; do tar -xf "$archive" && rm -f "$archive" || exit 126; done; '
    'if [ -f "./$0" ]; then chmod +x "./$0"; exec "./$0" "$@"; fi; exec "$0" "$@"'
)


class JdlWork(Struct, frozen=True, kw_only=True):
    """A description's work, and what of it the guest does not need to know."""

    work: GridWork
    #: What the streams are called at the grid.
    stdout: str
    stderr: str
    #: Where it may run, and where not; none = anywhere.
    sites: frozenset[str] = frozenset()
    banned: frozenset[str] = frozenset()
    #: Words for kinds of machines, of which one is enough.
    platforms: tuple[str, ...] = ()

    def is_for(self, site: str) -> bool:
        """Say whether the job may run at a site."""
        return site not in self.banned and (not self.sites or site in self.sites)


def read_work(jdl: Jdl, job: str, cpu_factor: float = 1.0) -> JdlWork:
    """Give what a description asks for; ``job`` is its number, and ``cpu_factor`` how fast our cores are beside those
    that DIRAC counts CPU time in. Raises JdlError."""
    jdl = _with_number(jdl, job)
    _refuse_data(jdl)
    words, inputs = _command(jdl), _inputs(jdl)
    if inputs:
        words = ["/bin/sh", "-c", UNPACK, *words]
    stdout, stderr = _stream(jdl, "StdOutput", USUAL_STDOUT), _stream(jdl, "StdError", USUAL_STDERR)
    if stderr == stdout:
        stderr = f"{stdout}.err"
    work = {
        "executable": words[0],
        "arguments": words[1:],
        "environment": _environment(jdl),
        "inputs": inputs,
        "outputs": _outputs(jdl, {stdout, stderr}),
        "requirements": _requirements(jdl),
        "priority": int(min(max(jdl.number(_first(jdl, "UserPriority", "Priority")) or 0, -1000), 1000)),
        "wall_time_s": _wall_time_s(jdl, cpu_factor),
    }
    return JdlWork(
        work=_checked(work),
        stdout=stdout,
        stderr=stderr,
        sites=frozenset(site for site in jdl.members("Site") if site.upper() != "ANY"),
        banned=frozenset(jdl.members(_first(jdl, "BannedSites", "BannedSite"))),
        platforms=tuple(name for name in jdl.members("Platform") if name.upper() != "ANY"),
    )


def fits_platform(asked: tuple[str, ...], offered: str, known: Mapping[str, str]) -> bool:
    """Say whether a machine is of a kind that a job asks for: by our word for it, by what ``known`` says of DIRAC's
    word, or by its processor, with which DIRAC's words begin (``x86_64-el9``)."""
    architecture = offered.rpartition("-")[2]
    return not asked or any(known.get(one, one) == offered or _architecture(one) == architecture for one in asked)


def _architecture(name: str) -> str:
    return next((part for part in ("x86_64", "aarch64") if part in name.lower()), "")


def _with_number(jdl: Jdl, job: str) -> Jdl:
    """Put the job's number, and of one of many its own parameter, where the description says so."""
    if jdl.find("Parameters") and not jdl.find("ParameterNumber"):
        _fail(jdl, "Parameters", "this is many jobs in one description, which the server has not taken apart")
    marks = {"%j": job, "%n": jdl.text("ParameterNumber"), "%s": jdl.text("Parameter")}
    present = {mark: word for mark, word in marks.items() if word}
    size = 0

    def put(text: str) -> str:
        """In one pass: what was put in is not looked at again."""
        nonlocal size
        size += len(text) + sum(text.count(mark) * len(word) for mark, word in present.items())
        if size > MOST_BYTES:
            _fail(jdl, "Parameter", f"put in wherever %s, %n and %j stand there would be more than {MOST_BYTES} bytes")
        return _MARK.sub(lambda found: present.get(found[0], found[0]), text)

    values = {
        key: msgspec.structs.replace(value, members=tuple(map(put, value.members)))
        for key, value in jdl.values.items()
        if key not in ("parameter", "parameternumber")
    }
    return msgspec.structs.replace(jdl, values=values)


def _refuse_data(jdl: Jdl) -> None:
    for key in ("InputData", "OutputData"):
        if names := jdl.members(key):
            _fail(jdl, key, f"{quoted(names[0])}: files of a catalogue are not to be had on volunteers' machines")


def _command(jdl: Jdl) -> list[str]:
    """Split program and arguments into words, as DIRAC does, with no shell."""
    executable, arguments = jdl.text("Executable"), jdl.text("Arguments")
    if not executable:
        _fail(jdl, "Executable", "is missing: which program is to run?")
    if "LFN:" in executable.upper():
        _fail(jdl, "Executable", f"{quoted(executable)}: a program of a catalogue is not to be had here")
    words: list[str] = []
    for key, text in (("Executable", executable), ("Arguments", arguments)):
        if len(text.encode("utf-8", "replace")) > MOST_ARGUMENT_BYTES:
            _fail(jdl, key, f"is longer than {MOST_ARGUMENT_BYTES} bytes")
        if "\0" in text:
            _fail(jdl, key, "holds a NUL character, which no program is given")
        try:
            words += shlex.split(text)
        except ValueError as error:
            _fail(jdl, key, f"{quoted(text)}: {str(error).lower()}: an apostrophe in a word is written as \\'")
    return words or _fail(jdl, "Executable", "is missing: which program is to run?")


def _environment(jdl: Jdl) -> dict[str, str]:
    found: dict[str, str] = {}
    size = 0
    for key, put in (("Environment", str), ("ExecutionEnvironment", unquote)):
        for variable in jdl.members(key):
            name, sign, word = variable.partition("=")
            if not sign or not name.strip() or "\0" in variable:
                _fail(jdl, key, f"{quoted(variable)}: must be NAME=value")
            size += len(variable.encode("utf-8", "replace"))
            if size > MOST_ENVIRONMENT_BYTES:
                _fail(jdl, key, f"is longer than {MOST_ENVIRONMENT_BYTES} bytes: put it into a file of the sandbox")
            found[name.strip()] = put(word)
            if len(found) > MAX_VARIABLES:
                _fail(jdl, key, f"more than {MAX_VARIABLES} variables")
    return found


def _inputs(jdl: Jdl) -> list[GridInput]:
    """Give the sandboxes, each an archive of its own name; they are unpacked beside the job."""
    found: list[GridInput] = []
    for where in dict.fromkeys(jdl.members("InputSandbox")):
        if where.upper().startswith("LFN:"):
            _fail(jdl, "InputSandbox", f"{quoted(where)}: files of a catalogue are not to be had here")
        if not SANDBOX.fullmatch(where):
            _fail(jdl, "InputSandbox", f"{quoted(where)}: is no sandbox of the server: was it uploaded?")
        found.append(GridInput(name=f"sandbox.{len(found) + 1}.tar", where=where))
        if len(found) > MAX_INPUTS:
            _fail(jdl, "InputSandbox", f"more than {MAX_INPUTS} sandboxes")
    return found


def _outputs(jdl: Jdl, streams: set[str]) -> list[str]:
    found = [name for name in dict.fromkeys(jdl.members("OutputSandbox")) if name not in streams]
    if len(found) > MAX_OUTPUTS or sum(len(name) for name in found) > MOST_NAME_BYTES:
        _fail(jdl, "OutputSandbox", f"{len(found)} files, or too long names: make an archive of them")
    for name in found:
        _demand_name(jdl, "OutputSandbox", name)
        if name in STREAMS:
            _fail(jdl, "OutputSandbox", f"{quoted(name)}: is a name that is taken for what a job prints")
    return found


def _stream(jdl: Jdl, key: str, usual: str) -> str:
    name = jdl.text(key, usual)
    _demand_name(jdl, key, name)
    return name


def _demand_name(jdl: Jdl, key: str, name: str) -> None:
    if name.upper().startswith("LFN:"):
        _fail(jdl, key, f"{quoted(name)}: goes to a catalogue, which is not to be had on volunteers' machines")
    if flaw := flaw_of_name(name):
        _fail(jdl, key, f"{quoted(name)}: {flaw}")


def _requirements(jdl: Jdl) -> Requirements:
    cpus_key = _first(jdl, "NumberOfProcessors", "MinNumberOfProcessors")
    cpus = jdl.number(cpus_key)
    if cpus is not None and not 1 <= cpus <= 256:
        _fail(jdl, cpus_key, f"{cpus:g}: must be from 1 to 256")
    tags = [tag for tag in dict.fromkeys(jdl.members(_first(jdl, "Tags", "Tag"))) if not _COUNTED.fullmatch(tag)]
    if len(tags) > MAX_FEATURES or any(len(tag) > 64 for tag in tags):
        _fail(jdl, _first(jdl, "Tags", "Tag"), f"at most {MAX_FEATURES} tags, of 64 characters each")
    return Requirements(cpus=int(cpus or 1), memory_mib=_memory_mib(jdl), features=tags)


def _memory_mib(jdl: Jdl) -> int:
    key = _first(jdl, "MaxRAM", "MinRAM", "RAM", "Memory")
    text = jdl.text(key)
    amount = read_mib(text) if len(text) < 40 else None
    if text and (amount is None or amount > MAX_MIB):
        _fail(jdl, key, f"{quoted(text)}: must be MB, or an amount as in 2GB")
    return amount or 0


def _wall_time_s(jdl: Jdl, cpu_factor: float) -> float:
    key = _first(jdl, "CPUTime", "MaxCPUTime")
    within = jdl.records.get("jobrequirements", Jdl({}))
    seconds = jdl.number(key) if jdl.find(key) else within.number("CPUTime")
    if seconds is not None and seconds < 0:
        _fail(jdl, key, f"{seconds:g}: must be seconds, above 0")
    return min(max((seconds or USUAL_WALL_S) / cpu_factor, 60.0), MOST_WALL_S)


def _first(jdl: Jdl, *keys: str) -> str:
    """Give the first of these keys that is set; the first where none is."""
    return next((key for key in keys if jdl.find(key)), keys[0])


def _checked(work: dict[str, Any]) -> GridWork:
    """Hold the work to its own types, whatever has been seen before. Raises JdlError."""
    try:
        return msgspec.convert(work, GridWork)
    except msgspec.ValidationError as error:
        raise JdlError(0, "", explain(str(error), GridWork)) from None


def _fail(jdl: Jdl, key: str, reason: str) -> NoReturn:
    raise JdlError(jdl.line(key), key, reason)
