"""What every attempt of a guest shares, and what an agent before this one has left of its attempts.

At the start nothing of the old is removed in anybody's way: it is moved aside at once, and removed behind our back.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from guest_agent.book import Book
from guest_agent.cache import InputCache
from guest_agent.container import Container
from guest_agent.disk import Disk
from guest_agent.held import Held
from schemas.jobs import JobAssign, OutputEntry

log = logging.getLogger(__name__)

#: Sends one output (path, name in the attempt) to the store. Raises TransferFailed.
Store = Callable[[Path, str], Awaitable[OutputEntry]]


class Room(Struct, frozen=True, kw_only=True):
    """See the module."""

    #: One for each slot.
    containers: Sequence[Container]
    cache: InputCache
    disk: Disk
    book: Book
    #: Where goes what could not be removed at once; beside the slots' directories.
    aside: Path
    boot_id: str = ""
    #: The boot in which the agent before this one ran.
    boot_before: str = ""
    #: Names of attempts whose directories an agent before this one had made.
    found: frozenset[str] = frozenset()
    #: For a job that names none; 0 = what there is.
    memory_bytes: int = 0
    #: How long an output may wait for a store that is full or away, seconds.
    store_patience_s: float = 3600.0


def directory_name(assign: JobAssign) -> str:
    """Name an attempt's directory."""
    return f"{assign.job.replace('/', '_')}.{assign.attempt}"


def set_aside(jobs: Path, aside: Path, kept: Iterable[JobAssign]) -> frozenset[str]:
    """Move what attempts have left, but for what is ``kept``, and name all of it. Blocking, but takes no time.

    ``kept`` are those with outputs that are yet to be stored.
    """
    names = {directory_name(assign) for assign in kept}
    found = set()
    aside.mkdir(mode=0o700, exist_ok=True)
    aside.chmod(0o700)
    for slot in jobs.glob("slot-*"):
        for path in [*_inside(slot / "work"), *_inside(slot / "tmp"), *_inside(slot / "var-tmp")]:
            if path.parent.name == "work":  # what payloads call their own files says nothing of attempts
                found.add(path.name)
            if path.parent.name != "work" or path.name not in names:
                _move(path, aside)
    return frozenset(found)


def clear(aside: Path) -> None:
    """Remove what was set aside. Blocking, for as long as that takes; what cannot be removed is told and stays."""
    try:
        with Held(aside) as held:
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
