"""What is sent of a batch: its job's description, and the files that stand beside the calls."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from volcloud.executor.archive import ARCHIVE, build_archive
from volcloud.executor.batch import Batch
from volcloud.executor.packing import lay_out
from volcloud.executor.payload import CALLS, RESULT, SHARED


class Terms(Struct, frozen=True, kw_only=True):
    """What the jobs are like, as a description has it; ``files`` stand beside them."""

    python: str
    requirements: Mapping[str, Any]
    environment: Mapping[str, str]
    files: tuple[Path, ...]
    wall_time_s: float
    priority: int
    trust_guests: bool
    keep: bool
    #: The largest result of a job that is brought home.
    most_result_bytes: int


class CallFiles:
    """Writes what is sent into ``scratch``. Blocking, and raises OSError."""

    def __init__(self, terms: Terms, scratch: Path) -> None:
        self._terms, self._scratch = terms, scratch
        self._archive = scratch / ARCHIVE

    def prepare(self) -> None:
        """Write what is the same for all batches."""
        self._archive.write_bytes(build_archive())

    def write(self, batch: Batch) -> dict[str, Any]:
        """Write the calls of a batch, which holds them no longer then, and give its job's description."""
        chunks, has_shared = [chunk.pickled for chunk in batch.chunks], bool(batch.shared)
        with self._calls(batch).open("wb") as calls:
            calls.write(lay_out(chunks, has_shared=has_shared, trusted=self._terms.trust_guests))
            calls.writelines(chunks)
        if has_shared:
            self._shared(batch).write_bytes(batch.shared)
        batch.shared = b""
        for chunk in batch.chunks:
            chunk.pickled = b""
        return self._description(batch, has_shared=has_shared)

    def remove(self, batch: Batch) -> None:
        """Remove what was written for a batch. Idempotent."""
        for path in (self._calls(batch), self._shared(batch)):
            path.unlink(missing_ok=True)

    def _calls(self, batch: Batch) -> Path:
        return self._scratch / batch.id

    def _shared(self, batch: Batch) -> Path:
        return self._scratch / f"{batch.id}-shared"

    def _description(self, batch: Batch, *, has_shared: bool) -> dict[str, Any]:
        files = {ARCHIVE: self._archive, CALLS: self._calls(batch), **{path.name: path for path in self._terms.files}}
        if has_shared:
            files[SHARED] = self._shared(batch)
        inputs = [{"name": name, "path": str(path)} for name, path in files.items()]
        return describe(self._terms, batch.id) | {"array": len(batch.chunks), "inputs": inputs}


def describe(terms: Terms, name: str) -> dict[str, Any]:
    """Give the description of a job of such terms, but for its inputs."""
    return {
        "id": name,
        "executable": terms.python,
        "arguments": [ARCHIVE, "{index}"],
        "environment": terms.environment,
        "outputs": [{"name": RESULT}],
        "requirements": terms.requirements,
        "wall_time_s": terms.wall_time_s,
        "priority": terms.priority,
    }


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """Give a place for what is sent, until it is."""
    return tempfile.TemporaryDirectory(prefix="volcloud-calls-")
