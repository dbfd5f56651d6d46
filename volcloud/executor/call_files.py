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
from volcloud.executor.payload import CALLS, RESULT


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
        with self._calls(batch).open("wb") as calls:
            chunks = [chunk.pickled for chunk in batch.chunks]
            calls.write(lay_out(batch.shared, chunks, trusted=self._terms.trust_guests))
            calls.write(batch.shared)
            calls.writelines(chunks)
        batch.shared = b""
        for chunk in batch.chunks:
            chunk.pickled = b""
        return self._description(batch)

    def remove(self, batch: Batch) -> None:
        """Remove what was written for a batch. Idempotent."""
        self._calls(batch).unlink(missing_ok=True)

    def _calls(self, batch: Batch) -> Path:
        return self._scratch / batch.id

    def _description(self, batch: Batch) -> dict[str, Any]:
        terms = self._terms
        beside = [{"name": path.name, "path": str(path)} for path in terms.files]
        return {
            "id": batch.id,
            "executable": terms.python,
            "arguments": [ARCHIVE, "{index}"],
            "environment": dict(terms.environment),
            "inputs": [
                {"name": ARCHIVE, "path": str(self._archive)},
                {"name": CALLS, "path": str(self._calls(batch))},
                *beside,
            ],
            "outputs": [{"name": RESULT}],
            "requirements": dict(terms.requirements),
            "wall_time_s": terms.wall_time_s,
            "priority": terms.priority,
            "array": len(batch.chunks),
        }


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """Give a place for what is sent, until it is."""
    return tempfile.TemporaryDirectory(prefix="volcloud-calls-")
