"""Archives of what a job leaves: the same bytes each time, so that what is named by their digest is stored once."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from adapters.sources.http import Budget

_BLOCK = 1 << 20


def pack(files: Mapping[str, Path], archive: BinaryIO, budget: Budget) -> tuple[str, int]:
    """Write an archive, tar by bzip2, with no times and no owners, in one order; gives its SHA-256 and length, and
    leaves it at its beginning. Raises SourceUnavailable when the time is over."""
    with tarfile.open(fileobj=archive, mode="w:bz2", format=tarfile.GNU_FORMAT) as packed:
        for name, path in sorted(files.items()):
            budget.left_s()
            facts = tarfile.TarInfo(name)
            facts.size, facts.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                packed.addfile(facts, file)
    length = archive.tell()
    archive.seek(0)
    digest = hashlib.sha256()
    while block := archive.read(_BLOCK):
        digest.update(block)
    archive.seek(0)
    return digest.hexdigest(), length
