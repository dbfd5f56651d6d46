"""What every attempt of a guest shares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from msgspec import Struct

from guest_agent.attempt_journal import AttemptJournal
from guest_agent.cache import InputCache
from guest_agent.container import Container
from guest_agent.disk import Disk
from schemas.jobs import JobAssign, OutputEntry

#: Sends one output (path, name in the attempt) to the store. Raises TransferFailed.
Store = Callable[[Path, str], Awaitable[OutputEntry]]


class Resources(Struct, frozen=True, kw_only=True):
    """See the module."""

    #: One for each slot.
    containers: Sequence[Container]
    cache: InputCache
    disk: Disk
    journal: AttemptJournal
    #: Where goes what could not be removed at once; beside the slots' directories.
    aside: Path
    boot_id: str = ""
    #: The boot in which the agent before this one ran.
    boot_before: str = ""
    #: Names of attempts that an agent before this one had made a directory for, or is known to have begun.
    found: frozenset[str] = frozenset()
    #: For a job that names none; 0 = what there is.
    memory_bytes: int = 0
    #: How long an output may wait for a store that is full or away, seconds.
    store_patience_s: float = 3600.0


def directory_name(assign: JobAssign) -> str:
    """Name an attempt's directory."""
    return f"{assign.job.replace('/', '_')}.{assign.attempt}"
