"""What an agent before this one has left of its attempts: seen, moved aside at once, and removed behind our back."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from guest_agent.attempt_journal import Past
from guest_agent.directory import Directory
from guest_agent.resources import directory_name
from schemas.jobs import JobAssign

log = logging.getLogger(__name__)


def find_begun(
    jobs: Path, traces: Path, past: Sequence[tuple[JobAssign, Past]], *, is_new_boot: bool
) -> frozenset[str]:
    """Name the attempts that an agent before us had begun and not ended, as far as this is to be seen. Blocking.

    What is seen is what ``set_aside`` moves away, so each of them leaves a trace first: an agent that is killed before
    it has written down their loss is followed by one that sees the same. Traces of others go.
    """
    seen = {path.name for slot in jobs.glob("slot-*") for path in _inside(slot / "work")}
    before = {path.name for path in _inside(traces)}
    left = {directory_name(assign): known.begun for assign, known in past if known.conclusion is None}
    begun = {name for name, is_begun in left.items() if name in seen | before or (is_begun and is_new_boot)}
    try:
        traces.mkdir(mode=0o700, exist_ok=True)
        for name in begun - before:
            (traces / name).touch()
    except OSError as error:  # the disk is full of what is removed only now
        log.error("begun attempts not noted", extra={"why": str(error)})
    for name in before - begun:
        (traces / name).unlink()
    return frozenset(begun | seen)


def set_aside(jobs: Path, aside: Path, kept: Iterable[JobAssign]) -> None:
    """Move away what attempts have left, but for what is ``kept``. Blocking, but takes no time.

    ``kept`` are those with outputs that are yet to be stored.
    """
    names = {directory_name(assign) for assign in kept}
    aside.mkdir(mode=0o700, exist_ok=True)
    aside.chmod(0o700)
    for slot in jobs.glob("slot-*"):
        for path in [*_inside(slot / "work"), *_inside(slot / "tmp"), *_inside(slot / "var-tmp")]:
            if path.parent.name != "work" or path.name not in names:
                _move(path, aside)


def clear(aside: Path) -> None:
    """Remove what was set aside. Blocking, for as long as that takes; what cannot be removed is told and stays."""
    try:
        with Directory(aside) as held:
            held.empty()
    except OSError as error:
        log.error("leftovers not removed", extra={"path": str(aside), "why": str(error)})


def _inside(directory: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [*directory.iterdir()]
    return []


def _move(path: Path, aside: Path) -> None:
    """Rename it, whatever it is: nothing of it is opened, and no link followed."""
    try:
        path.rename(aside / os.urandom(12).hex())
    except OSError as error:
        log.error("leftovers not set aside", extra={"path": str(path), "why": str(error)})
