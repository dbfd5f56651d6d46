"""The outputs that an attempt has left in its directory: found by name or pattern, checked on the open file.

A file is opened once for each use, and what is said of it is read off its descriptor. It must be a regular file of the
payload's own, or one that anybody may read: a hard link to somebody's secret is neither.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct

from guest_agent import tree
from guest_agent.directory import Directory
from guest_agent.errors import AttemptFailed, PathEscapes, TooMany
from schemas.codec import clip
from schemas.description import MAX_OUTPUT_ENTRIES_BYTES, OUTPUT_ENTRY_BYTES, Output, is_pattern
from schemas.files import MAX_PATH
from schemas.jobs import Outcome

#: Files that one attempt may hand out: a completion has no room for the names of more.
MOST_FILES = MAX_OUTPUT_ENTRIES_BYTES // OUTPUT_ENTRY_BYTES


class FoundOutput(Struct, frozen=True):
    """An output that is there."""

    name: str
    size: int


def find(
    held: Directory, wanted: Sequence[Output], uid: int, most_bytes: int, taken: frozenset[str]
) -> list[FoundOutput]:
    """Find what a description asks for. ``taken`` are names that a completion has for something else.

    Raises AttemptFailed with the first thing that is wrong: an output is missing, no file, too large, too many.
    """
    found: dict[str, FoundOutput] = {}
    for output in wanted:
        names = _names(held, output)
        if not names and not output.optional:
            raise AttemptFailed(Outcome.FAILED, f"outputs: {output.name!r} {_missing(output)}")
        for name in names:
            _refuse_odd(name)
            found[name] = _look(held, name, uid)
        if len(found) > MOST_FILES:
            raise _too_many(f"{output.name!r} and those before it")
    _refuse_taken(found, taken)
    _refuse_too_much(found, most_bytes)
    return list(found.values())


@contextmanager
def opened(held: Directory, name: str, uid: int) -> Iterator[int]:
    """Open an output for reading. Raises AttemptFailed when it is nothing that a job may hand out, OSError."""
    descriptor = _open(held, name, uid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read(descriptor: int, size: int) -> bytes:
    """Read the first ``size`` bytes of a file."""
    pieces: list[bytes] = []
    while size and (piece := os.pread(descriptor, size, sum(map(len, pieces)))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _names(held: Directory, output: Output) -> list[str]:
    """Name the files that are meant: the one of that very name, or all that match the pattern."""
    try:
        os.close(held.open(output.name))
        return [output.name]
    except (PathEscapes, PermissionError):
        return [output.name]
    except OSError:
        return _matching(held, output.name) if is_pattern(output.name) else []


def _matching(held: Directory, pattern: str) -> list[str]:
    try:
        return tree.matching(held, pattern, MOST_FILES)
    except TooMany as error:
        raise _too_many(repr(pattern)) from error


def _too_many(which: str) -> AttemptFailed:
    text = f"outputs: more than {MOST_FILES} files match {which}, and no completion can name them: make an archive"
    return AttemptFailed(Outcome.FAILED, text)


def _missing(output: Output) -> str:
    if is_pattern(output.name):
        return "matches no file that the job made; check the pattern, or mark it optional"
    return "was not made by the job; check the name, or mark it optional"


def _look(held: Directory, name: str, uid: int) -> FoundOutput:
    with opened(held, name, uid) as descriptor:
        return FoundOutput(name, os.fstat(descriptor).st_size)


def _open(held: Directory, name: str, uid: int) -> int:
    try:
        descriptor = held.open(name)
    except PathEscapes as error:
        raise AttemptFailed(Outcome.FAILED, f"outputs: {name!r} is a link out of the job's directory") from error
    except OSError as error:
        raise AttemptFailed(Outcome.FAILED, f"outputs: {name!r} cannot be read: {error.strerror}") from error
    problem = _problem(os.fstat(descriptor), uid)
    if problem:
        os.close(descriptor)
        raise AttemptFailed(Outcome.FAILED, f"outputs: {name!r} {problem}")
    return descriptor


def _problem(found: os.stat_result, uid: int) -> str:
    if stat.S_ISDIR(found.st_mode):
        return "is a directory; name the files in it, or make an archive of it"
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if found.st_uid != uid and not found.st_mode & stat.S_IROTH:
        return "is a file that is not the job's own"
    return ""


def _refuse_odd(name: str) -> None:
    """A pattern matches whatever a job has made: a name that no message can carry, or no terminal show, is refused."""
    if not name.isprintable() or len(name) > MAX_PATH:
        text = f"outputs: a file matches whose name is no readable text of at most {MAX_PATH} characters"
        raise AttemptFailed(Outcome.FAILED, f"{text}: {clip(ascii(name), 200)}; give it another name")


def _refuse_taken(found: dict[str, FoundOutput], taken: frozenset[str]) -> None:
    for name in sorted(taken & found.keys()):
        text = f"outputs: {name!r} is the name under which what the job prints is kept; give the file another name"
        raise AttemptFailed(Outcome.FAILED, text)


def _refuse_too_much(found: dict[str, FoundOutput], most_bytes: int) -> None:
    total = sum(output.size for output in found.values())
    if total > most_bytes:
        largest = max(found.values(), key=lambda output: output.size)
        text = (
            f"outputs: {total} bytes, of which {largest.name!r} has {largest.size}, are more than"
            f" the {most_bytes >> 20} MiB of disk that the job may use"
        )
        raise AttemptFailed(Outcome.FAILED, text)
    if sum(len(output.name.encode()) + OUTPUT_ENTRY_BYTES for output in found.values()) > MAX_OUTPUT_ENTRIES_BYTES:
        text = f"outputs: {len(found)} files match, more than a completion can name: make an archive of them"
        raise AttemptFailed(Outcome.FAILED, text)
