"""What a host has one guest do, and how that ended."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from schemas.description import GRACE_S, Output
from schemas.ids import JobRef
from schemas.jobs import Outcome, OutputEntry, Usage


class GivenFile(Struct, frozen=True, kw_only=True):
    """A file of the host's that stands in the job's directory before it runs."""

    name: str
    path: Path
    is_executable: bool = False


class GuestJob(Struct, frozen=True, kw_only=True):
    """See the module. Names are those in the job's directory."""

    ref: JobRef
    executable: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    inputs: tuple[GivenFile, ...] = ()
    outputs: tuple[Output, ...] = ()
    wall_time_s: float = 366 * 86_400.0
    grace_s: float = GRACE_S
    #: Files of which the host is told while the job runs.
    tells: tuple[str, ...] = ()


class GuestJobEnd(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How it ended. What it left lies in files, or, where that is small, here."""

    outcome: Outcome
    attempt: int
    exit_status: int = -1
    cause: str = ""
    usage: Usage = Usage()
    outputs: tuple[OutputEntry, ...] = ()
