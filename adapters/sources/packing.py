"""Archives of what a job leaves: the same bytes each time, so that what is named by their digest is stored once."""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from adapters.errors import SandboxTooLarge
from adapters.sources.http import Budget

#: What may be packed into one, bytes.
MOST_PACKED_BYTES = 256 << 20
_BLOCK = 1 << 20


class Archive(NamedTuple):
    """An open file at its beginning, its SHA-256 and its length, bytes."""

    file: BinaryIO
    sha256: str
    length: int


@contextlib.contextmanager
def packed(files: Mapping[str, Path], most_bytes: int, what: str, budget: Budget) -> Iterator[Archive]:
    """Pack files by their names, tar by bzip2, with no times and no owners, in one order, for as long as the context
    lasts. Raises SandboxTooLarge, which says ``what`` it was to be, and SourceUnavailable when the time is over."""
    size = sum(path.stat().st_size for path in files.values())
    if size > MOST_PACKED_BYTES:
        raise SandboxTooLarge(f"outputs of {size >> 20} MiB: {what} may have {MOST_PACKED_BYTES >> 20} MiB in it")
    with tempfile.TemporaryFile() as file:
        _pack(files, file, budget)
        length, sha256 = file.tell(), _digest(file)
        if length > most_bytes:
            raise SandboxTooLarge(f"{what} of {length >> 20} MiB, packed: it may have {most_bytes >> 20} MiB")
        file.seek(0)
        yield Archive(file, sha256, length)


def _pack(files: Mapping[str, Path], file: BinaryIO, budget: Budget) -> None:
    with tarfile.open(fileobj=file, mode="w:bz2", format=tarfile.GNU_FORMAT) as archive:
        for name, path in sorted(files.items()):
            budget.left_s()
            facts = tarfile.TarInfo(name)
            facts.size, facts.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                archive.addfile(facts, content)


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
