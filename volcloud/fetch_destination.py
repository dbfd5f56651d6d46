"""Where a job's outputs land in a directory of the person who fetches them: beside nothing, over nothing.

A guest chose the names. One that leads out of the directory is refused; one with characters that do not print is
written as it is shown. What is there already is kept: the same file is not fetched again, another one is not
overwritten unless that was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from broker.transfer.sending import digest_file
from schemas.jobs import OutputEntry
from schemas.plain_text import plain
from volcloud.errors import CommandFailed


class FetchDestination:
    """The places of an attempt's outputs. Raises CommandFailed for a name that leads elsewhere, or two at one place."""

    def __init__(self, directory: Path, outputs: Sequence[OutputEntry]) -> None:
        self._outputs = outputs
        #: Where they go, in order.
        self.paths = [_below(directory, entry.name) for entry in outputs]
        ((path, times),) = Counter(self.paths).most_common(1) or [(directory, 0)]
        if times > 1:
            raise CommandFailed(f"two outputs of the job would be {path}", "fetch them by the Python client's logs")

    def missing(self, *, overwrite: bool) -> list[tuple[OutputEntry, Path]]:
        """Give the outputs that are not there yet, and make their directories. Raises CommandFailed for a file that
        is in the way, before anything is made. Blocking."""
        pairs = list(zip(self._outputs, self.paths, strict=True))
        wanted = [(entry, path) for entry, path in pairs if not _is_there(entry, path)]
        if not overwrite and (taken := [path for _, path in wanted if path.exists() or path.is_symlink()]):
            others = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
            text = f"{taken[0]}{others}: there already and not what the job left; nothing was overwritten"
            raise CommandFailed(text, "name another directory with -o, or give --overwrite")
        for _, path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
        return wanted


def _below(directory: Path, name: str) -> Path:
    parts = Path(name).parts
    path = directory / plain(name)
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise CommandFailed(f"output {name!r}: leads out of {directory}", "do not trust that VM; nothing was written")
    return path


def _is_there(entry: OutputEntry, path: Path) -> bool:
    """Say whether a file is that output already; what cannot be read is not."""
    try:
        return path.is_file() and path.stat().st_size == entry.size and digest_file(path)[1] == entry.sha256
    except OSError:
        return False
