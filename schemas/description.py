"""The job description: what a submitter writes, in TOML, JSON or a msgpack message.

It refuses unknown keys with the nearest known name, unlike the envelope: a misspelt key in a description is a mistake
of a person, a new field in the envelope is a newer peer.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from schemas.amounts import read_mib, read_seconds
from schemas.errors import DecodeError
from schemas.ids import JobId, Sha256
from schemas.nearest import nearest
from schemas.wanted import explain

#: An input that rides in the description itself, bytes.
MAX_INLINE_INPUT_BYTES = 64 * 1024
#: What one submission may hold; its rows are made in one transaction.
MAX_ARRAY = 100_000
#: Files and words of one description: more of them make an archive, or a file.
MAX_INPUTS = 2000
MAX_OUTPUTS = 10_000
MAX_ARGUMENTS = 10_000
MAX_VARIABLES = 1000
MAX_FEATURES = 64
MAX_LABELS = 64
#: An argument or a variable, characters; Linux gives a program 128 KiB each.
MAX_WORD = 120_000
#: More memory or disk than any machine has, MiB.
MAX_MIB = 1 << 30
#: What the names of outputs may take in a completion, bytes: it has one message, and small outputs ride in it too.
MAX_OUTPUT_ENTRIES_BYTES = 768 * 1024
#: What a completion says of an output beside its name: digest, size, the keys, bytes.
OUTPUT_ENTRY_BYTES = 128

#: Between SIGTERM and SIGKILL at a job's wall time or cancel, seconds, where the job does not choose.
GRACE_S = 10.0

#: Names in a job: any characters that a person can see, so no control characters; parts neither empty nor with a space
#: at an end. What else is no good ("..", too long a part) ``check_description`` says in words.
FILE_NAME_PATTERN = (
    r"^(?![ /])[^\x00-\x1f\x7f-\x9f\u2028\u2029/]*[^\x00-\x20\x7f-\x9f\u2028\u2029/]"
    r"(/(?![ /])[^\x00-\x1f\x7f-\x9f\u2028\u2029/]*[^\x00-\x20\x7f-\x9f\u2028\u2029/])*$(?!\n)"
)
FileNameInJob = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=FILE_NAME_PATTERN,
        description=(
            "the name of a file in the job's directory: a relative path of visible characters, at most 200, no part of"
            " it empty or with a space at an end"
        ),
        examples=["results/run 1.root"],
    ),
]
#: Longest part of a name, bytes: what file systems take.
MAX_NAME_BYTES = 255
#: What a completion keeps under these names is what the job prints.
STREAMS = frozenset({"stdout", "stderr", "validation.stdout", "validation.stderr"})

Word = Annotated[str, Meta(max_length=MAX_WORD)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file that stands in the job's directory before it runs: by digest from the store, or inline."""

    name: FileNameInJob
    sha256: Sha256 | None = None
    size: Annotated[int, Meta(ge=0)] = 0
    content: bytes | None = None
    executable: bool = False


class Output(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file that the job leaves in its directory; without it the job has failed, unless ``optional``."""

    name: FileNameInJob
    optional: bool = False


class Requirements(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a VM must offer. Empty words and zeros ask for nothing."""

    cpus: Annotated[int, Meta(ge=1, le=256)] = 1
    memory_mib: Annotated[int, Meta(ge=0, le=MAX_MIB)] = 0
    disk_mib: Annotated[int, Meta(ge=0, le=MAX_MIB)] = 0
    platform: Annotated[str, Meta(max_length=64)] = ""
    image: Annotated[str, Meta(max_length=128)] = ""
    features: Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=MAX_FEATURES)] = []


class JobDescription(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A job, or an array of them. ``{index}`` in an argument becomes the job's index, from 1."""

    id: JobId
    executable: Annotated[str, Meta(min_length=1, max_length=200)]
    arguments: Annotated[list[Word], Meta(max_length=MAX_ARGUMENTS)] = []
    environment: Annotated[dict[Name, Word], Meta(max_length=MAX_VARIABLES)] = {}
    inputs: Annotated[list[Input], Meta(max_length=MAX_INPUTS)] = []
    outputs: Annotated[list[Output], Meta(max_length=MAX_OUTPUTS)] = []
    requirements: Requirements = Requirements()
    #: Of one owner's jobs higher runs first; equal ones first come, first served. Owners have shares.
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    wall_time_s: Annotated[float, Meta(gt=0, le=31 * 86400)] = 86400.0
    #: At the wall time and at a cancel the job gets SIGTERM, and this much later SIGKILL.
    grace_s: Annotated[float, Meta(ge=0, le=600)] = GRACE_S
    #: Payload failures until the job is held.
    attempts: Annotated[int, Meta(ge=1, le=100)] = 1
    #: Name of an input that is run after the payload; its exit status 0 says the output is good.
    validation: Annotated[str, Meta(max_length=200)] = ""
    array: Annotated[int, Meta(ge=1, le=MAX_ARRAY)] = 1
    labels: Annotated[dict[Name, Annotated[str, Meta(max_length=1000)]], Meta(max_length=MAX_LABELS)] = {}


def read_description(fields: dict[str, Any]) -> JobDescription:
    """Turn parsed TOML or JSON into a description.

    Raises DecodeError naming field, value and what is allowed; for an unknown key, the nearest known one.
    """
    _refuse_unknown(fields, JobDescription, "")
    try:
        job = msgspec.convert(with_units(fields), JobDescription)
    except msgspec.ValidationError as error:
        raise DecodeError(explain(str(error), JobDescription, fields)) from error
    problems = check_description(job)
    if problems:
        raise DecodeError("; ".join(problems))
    return job


def with_units(fields: dict[str, Any]) -> dict[str, Any]:
    """Give the fields with amounts that have a unit (``memory_mib = "2GB"``) as numbers; others as they stand."""
    requirements = fields.get("requirements")
    if isinstance(requirements, dict):
        fields = fields | {"requirements": {key: _amount(key, value) for key, value in requirements.items()}}
    return {key: _amount(key, value) for key, value in fields.items()}


def _amount(key: str, value: Any) -> Any:
    read = {"mib": read_mib, "s": read_seconds}.get(key.rpartition("_")[2]) if "_" in key else None
    number = read(value) if read and isinstance(value, str) else None
    return value if number is None else number


def advise(reason: str) -> str:
    """Add to a decoder's words about an unknown field the known name that is nearest."""
    unknown = re.search(r"unknown field `(.+?)`", reason)
    if unknown is None:
        return reason
    known = [
        f.encode_name for kind in (JobDescription, Input, Output, Requirements) for f in msgspec.structs.fields(kind)
    ]
    near = nearest(unknown[1], known)
    return f"{reason}: did you mean {near!r}?" if near else reason


def is_pattern(name: str) -> bool:
    """Say whether an output's name may mean many files: ``*``, ``?``, ``[…]``. One that is there by that name is it."""
    return any(sign in name for sign in "*?[")


def check_description(job: JobDescription) -> list[str]:
    """Say what is wrong with a description that its types cannot say; empty when it is sound."""
    problems = [
        *_twice("inputs", [i.name for i in job.inputs]),
        *_twice("outputs", [o.name for o in job.outputs]),
        *(p for i in job.inputs for p in _input_problems(i)),
        *_both("inputs", [i.name for i in job.inputs]),
        *_both("outputs", [o.name for o in job.outputs]),
        *_too_many(job.outputs),
        *(p for f, n in _files(job) for p in _name_problems(f, n)),
        *(_is_a_stream(o.name) for o in job.outputs if o.name in STREAMS),
        *_word_problems(job),
    ]
    if job.validation and job.validation not in {i.name for i in job.inputs}:
        problems.append(f"validation = {job.validation!r}: must be the name of one of the inputs")
    return problems


def _is_a_stream(name: str) -> str:
    return f"outputs: {name!r} is kept for every job without being asked for: leave it out, or name the file otherwise"


def _input_problems(item: Input) -> list[str]:
    if (item.sha256 is None) == (item.content is None):
        return [f"inputs: {item.name!r} needs exactly one of sha256 (a stored file) and content (at most 64 KiB)"]
    if item.content is not None and len(item.content) > MAX_INLINE_INPUT_BYTES:
        return [f"inputs: {item.name!r}: content of {len(item.content)} bytes is over {MAX_INLINE_INPUT_BYTES}"]
    return []


def _too_many(outputs: list[Output]) -> list[str]:
    size = sum(len(o.name.encode()) + OUTPUT_ENTRY_BYTES for o in outputs)
    if size <= MAX_OUTPUT_ENTRIES_BYTES:
        return []
    most = MAX_OUTPUT_ENTRIES_BYTES * len(outputs) // size
    return [f"outputs: {len(outputs)} of them do not fit a completion, {most} would: make an archive of them"]


def _twice(field: str, names: list[str]) -> list[str]:
    return [f"{field}: {name!r} is named twice" for name, times in sorted(Counter(names).items()) if times > 1]


def _both(field: str, names: list[str]) -> list[str]:
    """Name what would have to be a file and a directory at once."""
    files = set(names)
    directories = {name[:at] for name in files for at, letter in enumerate(name) if letter == "/"}
    return [f"{field}: {name!r} cannot be a file and a directory" for name in sorted(files & directories)]


def _files(job: JobDescription) -> list[tuple[str, str]]:
    return [*(("inputs", i.name) for i in job.inputs), *(("outputs", o.name) for o in job.outputs)]


def _name_problems(field: str, name: str) -> list[str]:
    steps = name.split("/")
    return [
        *(f"{field}: {name!r}: {step!r} is not allowed in a name" for step in (".", "..") if step in steps),
        *(
            f"{field}: {name!r}: a part of it has more than {MAX_NAME_BYTES} bytes, which no file system takes"
            for step in steps
            if len(step.encode()) > MAX_NAME_BYTES
        ),
    ]


def _word_problems(job: JobDescription) -> list[str]:
    """Name the words that no operating system hands to a program."""
    words = [("executable", job.executable), *(("arguments", word) for word in job.arguments)]
    variables = job.environment.items()
    return [
        *(f"{field}: {word[:40]!r} holds a NUL character" for field, word in words if "\0" in word),
        *(f"environment: {name[:40]!r} is no name of a variable" for name, _ in variables if set("=\0") & set(name)),
        *(f"environment: {name[:40]!r} holds a NUL character" for name, word in variables if "\0" in word),
    ]


def _refuse_unknown(fields: dict[str, Any], kind: type[Struct], where: str) -> None:
    known = [f.encode_name for f in msgspec.structs.fields(kind)]
    for key, value in fields.items():
        if key not in known:
            near = nearest(str(key), known)
            advice = f"did you mean {near!r}?" if near else f"allowed are {', '.join(known)}"
            raise DecodeError(f"unknown key {where}{key!s}: {advice}")
        inner = _NESTED.get((kind, key))
        for item in (value if isinstance(value, list) else [value]) if inner else []:
            if inner and isinstance(item, dict):
                _refuse_unknown(item, inner, f"{where}{key}.")


_NESTED: dict[tuple[type[Struct], str], type[Struct]] = {
    (JobDescription, "inputs"): Input,
    (JobDescription, "outputs"): Output,
    (JobDescription, "requirements"): Requirements,
}
